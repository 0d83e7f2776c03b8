//! Settings of functions that are kept and told, and change nothing here: when runtimes are updated,
//! and what becomes of loops.

use serde::{Deserialize, Serialize};

use crate::{Catalog, CatalogError, FunctionReference, Invalid};

/// When the runtime of a version is updated.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RuntimeManagement {
    /// When.
    pub update_runtime_on: UpdateRuntimeOn,
    /// To which version; with [`UpdateRuntimeOn::Manual`].
    pub runtime_version_arn: Option<String>,
}

/// When the runtime of a version is updated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum UpdateRuntimeOn {
    /// When there is a new one.
    #[default]
    Auto,
    /// Never.
    Manual,
    /// When the function changes.
    FunctionUpdate,
}

/// What becomes of a function that calls itself by way of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum RecursiveLoop {
    /// It is stopped.
    #[default]
    Terminate,
    /// Nothing.
    Allow,
}

impl Catalog {
    /// Says when a version's runtime is updated. Returns its ARN.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_runtime_management(
        &self,
        reference: &FunctionReference,
        management: RuntimeManagement,
    ) -> Result<String, CatalogError> {
        match (management.update_runtime_on, &management.runtime_version_arn) {
            (UpdateRuntimeOn::Manual, None) => return Err(Invalid::RuntimeVersion.into()),
            (UpdateRuntimeOn::Auto | UpdateRuntimeOn::FunctionUpdate, Some(_)) => {
                return Err(Invalid::NoRuntimeVersion.into());
            }
            _ => {}
        }
        let qualifier = reference.qualifier.as_deref();
        self.change(reference, |record| {
            record.check_qualifier(self.home(), qualifier)?;
            let key = qualifier.unwrap_or("$LATEST").to_owned();
            let arn = self.home().function_arn(&record.name, Some(&key));
            record.runtime_management.insert(key, management);
            Ok::<_, CatalogError>(arn)
        })
    }

    /// When a version's runtime is updated, and the version's ARN.
    ///
    /// # Errors
    /// [`crate::Missing::Function`].
    pub fn runtime_management(
        &self,
        reference: &FunctionReference,
    ) -> Result<(String, RuntimeManagement), CatalogError> {
        let record = self.record(reference)?;
        record.check_qualifier(self.home(), reference.qualifier.as_deref())?;
        let key = reference.qualifier.as_deref().unwrap_or("$LATEST");
        let arn = self.home().function_arn(&record.name, Some(key));
        Ok((arn, record.runtime_management.get(key).cloned().unwrap_or_default()))
    }

    /// Says what becomes of loops.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn put_recursion(
        &self,
        reference: &FunctionReference,
        recursive_loop: RecursiveLoop,
    ) -> Result<RecursiveLoop, CatalogError> {
        self.change(reference, |record| {
            record.recursive_loop = recursive_loop;
            Ok::<_, CatalogError>(recursive_loop)
        })
    }

    /// What becomes of loops.
    ///
    /// # Errors
    /// [`crate::Missing::Function`].
    pub fn recursion(&self, reference: &FunctionReference) -> Result<RecursiveLoop, CatalogError> {
        Ok(self.record(reference)?.recursive_loop)
    }
}
