//! Code signing configurations. They are kept and told; no signature is checked, for there is no
//! signer beside this endpoint.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, Conflict, FunctionReference, Missing, Page, PageRequest, Violations,
    tags::check_tags, version::timestamp,
};

/// What becomes of code that is not signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CodeSigningPolicy {
    /// A warning.
    #[default]
    Warn,
    /// It is refused.
    Enforce,
}

/// A code signing configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CodeSigning {
    /// `csc-` and 17 hex digits.
    pub id: String,
    /// Up to 256 characters.
    pub description: String,
    /// ARNs of the signers, 1 to 20.
    pub publishers: Vec<String>,
    /// What becomes of code that is not signed.
    pub policy: CodeSigningPolicy,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// When it was changed last.
    pub last_modified: Timestamp,
}

/// What a request says of one; what it does not say stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CodeSigningChange {
    /// The description.
    pub description: Option<String>,
    /// All signers.
    pub publishers: Option<Vec<String>>,
    /// What becomes of code that is not signed.
    pub policy: Option<CodeSigningPolicy>,
}

impl CodeSigning {
    /// When it was changed last, as Lambda writes it.
    #[must_use]
    pub fn last_modified_text(&self) -> String {
        timestamp(self.last_modified)
    }

    fn apply(&mut self, change: CodeSigningChange) -> Result<(), CatalogError> {
        if let Some(description) = change.description {
            self.description = description;
        }
        if let Some(publishers) = change.publishers {
            self.publishers = publishers;
        }
        if let Some(policy) = change.policy {
            self.policy = policy;
        }
        let mut violations = Violations::new();
        violations.length("description", &self.description, 0, 256);
        let count = self.publishers.len();
        if !(1..=20).contains(&count) {
            let member = "allowedPublishers.signingProfileVersionArns";
            violations.add(member, self.publishers.join(", "), "have length between 1 and 20");
        }
        violations.check()?;
        self.last_modified = Timestamp::now();
        Ok(())
    }
}

impl Catalog {
    /// Makes a code signing configuration.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn create_signing(
        &self,
        change: CodeSigningChange,
        tags: BTreeMap<String, String>,
    ) -> Result<Arc<CodeSigning>, CatalogError> {
        check_tags(&tags)?;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let mut signing = CodeSigning {
            id: format!("csc-{}", &unique[..17]),
            description: String::new(),
            publishers: Vec::new(),
            policy: CodeSigningPolicy::default(),
            tags,
            last_modified: Timestamp::now(),
        };
        signing.apply(change)?;
        let _writing = self.writing();
        self.install_signing(signing)
    }

    fn install_signing(&self, signing: CodeSigning) -> Result<Arc<CodeSigning>, CatalogError> {
        self.inner.signing.write(&signing.id, &signing)?;
        let signing = Arc::new(signing);
        self.update_state(|state| state.signing.insert(signing.id.clone(), Arc::clone(&signing)));
        Ok(signing)
    }

    /// Changes a code signing configuration.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Signing`].
    pub fn update_signing(
        &self,
        arn: &str,
        change: CodeSigningChange,
    ) -> Result<Arc<CodeSigning>, CatalogError> {
        self.change_signing(arn, |signing| signing.apply(change))
    }

    pub(crate) fn change_signing(
        &self,
        arn: &str,
        edit: impl FnOnce(&mut CodeSigning) -> Result<(), CatalogError>,
    ) -> Result<Arc<CodeSigning>, CatalogError> {
        let _writing = self.writing();
        let mut signing = (*self.find_signing(arn)?).clone();
        edit(&mut signing)?;
        self.install_signing(signing)
    }

    /// A code signing configuration, by its ARN.
    ///
    /// # Errors
    /// [`Missing::Signing`].
    pub fn get_signing(&self, arn: &str) -> Result<Arc<CodeSigning>, CatalogError> {
        Ok(self.find_signing(arn)?)
    }

    pub(crate) fn find_signing(&self, arn: &str) -> Result<Arc<CodeSigning>, Missing> {
        let state = self.state();
        let id = arn.rsplit(':').next().unwrap_or_default();
        let found = state.signing.get(id).filter(|_| arn == self.home().signing_arn(id));
        found.cloned().ok_or_else(|| Missing::Signing(arn.to_owned()))
    }

    /// All code signing configurations.
    ///
    /// # Errors
    /// As all pages.
    pub fn list_signing(&self, page: &PageRequest) -> Result<Page<Arc<CodeSigning>>, CatalogError> {
        let state = self.state();
        let items = state.signing.iter().map(|(id, signing)| (id.clone(), Arc::clone(signing)));
        page.page("ListCodeSigningConfigs", 50, items)
    }

    /// Deletes a code signing configuration.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Conflict::SigningInUse`].
    pub fn delete_signing(&self, arn: &str) -> Result<(), CatalogError> {
        let _writing = self.writing();
        let signing = self.find_signing(arn)?;
        let used = {
            let state = self.state();
            state.all().values().any(|record| record.signing.as_deref() == Some(arn))
        };
        if used {
            return Err(Conflict::SigningInUse(arn.to_owned()).into());
        }
        self.inner.signing.remove(&signing.id)?;
        self.update_state(|state| state.signing.remove(&signing.id));
        Ok(())
    }

    /// The ARNs of the functions that use a code signing configuration.
    ///
    /// # Errors
    /// [`Missing::Signing`], and as all pages.
    pub fn list_signed_functions(
        &self,
        arn: &str,
        page: &PageRequest,
    ) -> Result<Page<String>, CatalogError> {
        self.find_signing(arn)?;
        let state = self.state();
        let all = state.all();
        let used = all.iter().filter(|(_, record)| record.signing.as_deref() == Some(arn));
        let items = used.map(|(name, _)| (name.to_string(), self.home().function_arn(name, None)));
        page.page("ListFunctionsByCodeSigningConfig", 50, items)
    }

    /// The code signing configuration of a function: its ARN, and the function's name.
    ///
    /// # Errors
    /// [`Missing::Function`].
    pub fn function_signing(
        &self,
        reference: &FunctionReference,
    ) -> Result<(Option<String>, String), CatalogError> {
        let record = self.record(reference)?;
        Ok((record.signing.clone(), record.name.to_string()))
    }

    /// Gives a function a code signing configuration, or takes it away.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Signing`].
    pub fn set_function_signing(
        &self,
        reference: &FunctionReference,
        arn: Option<String>,
    ) -> Result<(), CatalogError> {
        self.change(reference, |record| {
            if let Some(arn) = &arn {
                self.find_signing(arn).map_err(|_| Missing::FunctionSigning(arn.clone()))?;
            }
            record.signing = arn;
            Ok::<_, CatalogError>(())
        })
    }
}
