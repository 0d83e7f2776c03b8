//! Tags of functions and of code signing configurations.

use std::collections::BTreeMap;

use crate::{Catalog, CatalogError, FunctionReference, Invalid, Violations};

/// How many tags a resource may have.
const TAGS: usize = 50;

impl Catalog {
    /// The tags of a resource, by its ARN.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tags(&self, resource: &str) -> Result<BTreeMap<String, String>, CatalogError> {
        if is_signing(resource) {
            return Ok(self.find_signing(resource)?.tags.clone());
        }
        Ok(self.record(&taggable(resource)?)?.tags.clone())
    }

    /// Adds tags to a resource, or changes them.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn tag(&self, resource: &str, tags: BTreeMap<String, String>) -> Result<(), CatalogError> {
        check_tags(&tags)?;
        self.change_tags(resource, |all| {
            all.extend(tags);
            check_tags(all)
        })
    }

    /// Removes tags from a resource.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn untag(&self, resource: &str, keys: &[String]) -> Result<(), CatalogError> {
        self.change_tags(resource, |all| {
            all.retain(|key, _| !keys.contains(key));
            Ok(())
        })
    }

    fn change_tags(
        &self,
        resource: &str,
        edit: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        if is_signing(resource) {
            return self.change_signing(resource, |signing| edit(&mut signing.tags)).map(|_| ());
        }
        self.change(&taggable(resource)?, |record| edit(&mut record.tags))
    }
}

fn is_signing(resource: &str) -> bool {
    resource.contains(":code-signing-config:")
}

/// A function that is named by its full ARN, without a qualifier.
fn taggable(resource: &str) -> Result<FunctionReference, CatalogError> {
    let constraint = r"satisfy regular expression pattern: arn:(aws[a-zA-Z-]*):lambda:[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|code-signing-config:csc-[a-z0-9]{17})";
    let malformed = || Violations::one("resource", resource, constraint);
    if !resource.starts_with("arn:") {
        return Err(malformed().into());
    }
    let reference: FunctionReference = resource.parse().map_err(|_| malformed())?;
    if reference.qualifier.is_some() {
        return Err(Invalid::TagQualifier.into());
    }
    Ok(reference)
}

pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), CatalogError> {
    let mut violations = Violations::new();
    for (key, value) in tags {
        violations.length("tags", key, 1, 128);
        violations.length("tags", value, 0, 256);
        if key.starts_with("aws:") {
            violations.add("tags", key, "not begin with aws:");
        }
    }
    violations.check()?;
    if tags.len() > TAGS { Err(Invalid::TagCount.into()) } else { Ok(()) }
}
