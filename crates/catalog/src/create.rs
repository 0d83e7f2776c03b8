//! New functions.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    Catalog, CatalogError, Configuration, ConfigurationChange, Conflict, FunctionReference,
    FunctionVersion, Invalid, NewCode, PackageType, State, VersionContent, record::FunctionRecord,
    tags::check_tags, update::check_size, version::new_revision,
};

/// A request to make a function.
#[derive(Debug)]
pub struct CreateFunction {
    /// Its name; a qualifier is of no account.
    pub reference: FunctionReference,
    /// What it is to be, over AWS's defaults.
    pub configuration: ConfigurationChange,
    /// What it says its package is; it must be what the code is.
    pub package_type: Option<PackageType>,
    /// Its code.
    pub code: NewCode,
    /// Whether to publish it as version 1.
    pub publish: bool,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The ARN of a code signing configuration.
    pub signing: Option<String>,
}

impl Catalog {
    /// Makes a function.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn create_function(
        &self,
        request: CreateFunction,
    ) -> Result<FunctionVersion, CatalogError> {
        // The code is dropped last, when the lock is free again.
        let CreateFunction { reference, configuration: change, package_type, code, .. } = request;
        let (publish, tags, signing) = (request.publish, request.tags, request.signing);
        let kind = code.package_type();
        match (package_type.unwrap_or_default(), kind) {
            (PackageType::Zip, PackageType::Image) => {
                return Err(Invalid::OtherPackage("ImageUri", "Zip").into());
            }
            (PackageType::Image, PackageType::Zip) => {
                return Err(Invalid::OtherPackage("ZipFile", "Image").into());
            }
            _ => {}
        }
        let (version, pending) = {
            let writing = self.writing();
            let mut configuration =
                Configuration { package_type: kind, ..Configuration::default() };
            change.apply(&mut configuration, self)?;
            let code = code.code()?;
            check_tags(&tags)?;
            if let Some(arn) = &signing {
                self.find_signing(arn)?;
            }
            self.check_home(&reference)?;
            let ours = FunctionReference::of_name(reference.name);
            if self.record(&ours).is_ok() {
                return Err(Conflict::Function(ours.name).into());
            }
            let content = VersionContent {
                revision_id: new_revision(),
                configuration,
                code,
                last_modified: Timestamp::now(),
                state: State::Active,
            };
            check_size(&content)?;
            let mut record = FunctionRecord::new(&ours.name, content);
            record.tags = tags;
            record.signing = signing;
            let (version, pending) = match publish {
                true => self.publish_record(&mut record, None),
                false => (self.latest(&record), false),
            };
            self.install(&writing, false, record)?;
            (version, pending)
        };
        if pending {
            self.begin_preparation(&version);
        }
        Ok(version)
    }
}
