//! What callers are told of the catalog's errors.

use costrel_catalog::{CatalogError, Missing, ReferenceError};

use crate::{ApiError, ErrorKind};

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        let kind = match &error {
            CatalogError::Violations(_) => ErrorKind::Validation,
            CatalogError::Reference(ReferenceError::TwoQualifiers) | CatalogError::Invalid(_) => {
                ErrorKind::InvalidParameterValue
            }
            CatalogError::Reference(_) => ErrorKind::Validation,
            CatalogError::Missing(Missing::Provisioned) => {
                ErrorKind::ProvisionedConcurrencyConfigNotFound
            }
            CatalogError::Missing(Missing::FunctionSigning(_)) => {
                ErrorKind::CodeSigningConfigNotFound
            }
            CatalogError::Missing(_) => ErrorKind::ResourceNotFound,
            CatalogError::Conflict(_) => ErrorKind::ResourceConflict,
            CatalogError::Revision { .. } => ErrorKind::PreconditionFailed,
            CatalogError::PolicyLength { .. } => ErrorKind::PolicyLengthExceeded,
            CatalogError::UploadSize { .. } => ErrorKind::RequestEntityTooLarge,
            CatalogError::Disk(_) | CatalogError::Store(_) | CatalogError::Upload(_) => {
                // The caller has no use for the host's paths, the operator has.
                tracing::error!(error = &error as &dyn std::error::Error, "the catalog failed");
                return Self::new(ErrorKind::Service, "The server could not write its files.");
            }
        };
        Self::new(kind, error.to_string())
    }
}

impl From<costrel_catalog::Violations> for ApiError {
    fn from(violations: costrel_catalog::Violations) -> Self {
        CatalogError::from(violations).into()
    }
}

impl From<costrel_catalog::Invalid> for ApiError {
    fn from(invalid: costrel_catalog::Invalid) -> Self {
        CatalogError::from(invalid).into()
    }
}

impl From<ReferenceError> for ApiError {
    fn from(error: ReferenceError) -> Self {
        CatalogError::from(error).into()
    }
}
