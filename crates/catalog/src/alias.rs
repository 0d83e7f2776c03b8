//! Aliases: names of versions that can be given to others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, Conflict, FunctionReference, Invalid, Missing, Page, PageRequest,
    Version, Violations, record::FunctionRecord, version::new_revision,
};

/// AWS's pattern of an alias's name.
const ALIAS_PATTERN: &str = "(?!^[0-9]+$)([a-zA-Z0-9-_]+)";

/// A name of a version, or of two that share its traffic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alias {
    /// `$LATEST` or a number.
    pub function_version: String,
    /// Up to 256 characters.
    pub description: String,
    /// At most one other version, and which share of the traffic it has, 0 to 1.
    pub weights: BTreeMap<String, f64>,
    /// A new one for each change: a UUID.
    pub revision_id: String,
}

/// What a request says of an alias; what it does not say stays.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AliasChange {
    /// The version.
    pub function_version: Option<String>,
    /// The description.
    pub description: Option<String>,
    /// All weights.
    pub weights: Option<BTreeMap<String, f64>>,
    /// What the caller believes the alias's revision to be.
    pub revision_id: Option<String>,
}

/// An alias with its name.
#[derive(Clone, PartialEq, Debug)]
pub struct AliasDescription {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub alias: Alias,
}

impl Alias {
    /// Its main version.
    pub(crate) fn version(&self) -> Version {
        // It was checked when it was written.
        Version::parse(&self.function_version).unwrap_or(Version::Latest)
    }

    /// The version of an invocation, `draw` being evenly from 0 to 1.
    pub(crate) fn draw(&self, draw: f64) -> Version {
        let mut below = 0.0;
        for (version, weight) in &self.weights {
            below += weight;
            if draw < below {
                return Version::parse(version).unwrap_or(Version::Latest);
            }
        }
        self.version()
    }

    /// Whether it leads to this version.
    pub(crate) fn uses(&self, number: u64) -> bool {
        let versions = self.weights.keys().chain([&self.function_version]);
        versions.into_iter().any(|version| Version::parse(version) == Some(Version::Number(number)))
    }
}

impl Catalog {
    /// Makes an alias.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn create_alias(
        &self,
        reference: &FunctionReference,
        name: &str,
        change: AliasChange,
    ) -> Result<AliasDescription, CatalogError> {
        let mut violations = Violations::new();
        let fits =
            crate::reference::is_name(name) && name.bytes().any(|byte| !byte.is_ascii_digit());
        violations.pattern("name", name, fits, ALIAS_PATTERN);
        violations.length("name", name, 1, 128);
        violations.check()?;
        self.change(reference, |record| {
            if record.aliases.contains_key(name) {
                return Err(Conflict::Alias(self.alias_arn(record, name)).into());
            }
            let mut alias = Alias {
                function_version: String::new(),
                description: String::new(),
                weights: BTreeMap::new(),
                revision_id: String::new(),
            };
            self.apply_alias(record, &mut alias, change)?;
            record.aliases.insert(name.to_owned(), alias.clone());
            Ok::<_, CatalogError>(self.describe_alias(record, name, alias))
        })
    }

    /// Changes an alias.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn update_alias(
        &self,
        reference: &FunctionReference,
        name: &str,
        change: AliasChange,
    ) -> Result<AliasDescription, CatalogError> {
        self.change(reference, |record| {
            let missing = || Missing::Alias(self.alias_arn(record, name));
            let mut alias = record.aliases.get(name).ok_or_else(missing)?.clone();
            if change.revision_id.as_ref().is_some_and(|given| *given != alias.revision_id) {
                return Err(CatalogError::Revision { call: "GetFunction/GetAlias" });
            }
            self.apply_alias(record, &mut alias, change)?;
            record.aliases.insert(name.to_owned(), alias.clone());
            Ok(self.describe_alias(record, name, alias))
        })
    }

    /// An alias.
    ///
    /// # Errors
    /// [`Missing::Function`], [`Missing::Alias`].
    pub fn get_alias(
        &self,
        reference: &FunctionReference,
        name: &str,
    ) -> Result<AliasDescription, CatalogError> {
        let record = self.record(reference)?;
        let alias = record.aliases.get(name);
        let alias = alias.ok_or_else(|| Missing::Alias(self.alias_arn(&record, name)))?;
        Ok(self.describe_alias(&record, name, alias.clone()))
    }

    /// All aliases of a function, by name; or only those that lead to a version.
    ///
    /// # Errors
    /// [`Missing::Function`], and as all pages.
    pub fn list_aliases(
        &self,
        reference: &FunctionReference,
        version: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<AliasDescription>, CatalogError> {
        let record = self.record(reference)?;
        let aliases = record.aliases.iter().filter(|(_, alias)| {
            version.is_none_or(|version| {
                alias.function_version == version || alias.weights.contains_key(version)
            })
        });
        let items = aliases
            .map(|(name, alias)| (name.clone(), self.describe_alias(&record, name, alias.clone())));
        page.page("ListAliases", 50, items)
    }

    /// Deletes an alias with all that hangs on it. One that is not there is deleted without a word.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn delete_alias(
        &self,
        reference: &FunctionReference,
        name: &str,
    ) -> Result<(), CatalogError> {
        self.change(reference, |record| {
            record.aliases.remove(name);
            record.policies.remove(name);
            record.urls.remove(name);
            record.event_invoke.remove(name);
            record.provisioned.remove(name);
            Ok::<_, CatalogError>(())
        })
    }

    fn apply_alias(
        &self,
        record: &FunctionRecord,
        alias: &mut Alias,
        change: AliasChange,
    ) -> Result<(), CatalogError> {
        let AliasChange { function_version, description, weights, revision_id: _ } = change;
        let mut violations = Violations::new();
        if let Some(description) = &description {
            violations.length("description", description, 0, 256);
        }
        for weight in weights.iter().flat_map(BTreeMap::values) {
            if !(0.0..=1.0).contains(weight) {
                let member = "routingConfig.additionalVersionWeights";
                violations.add(member, weight, "have value between 0.0 and 1.0");
            }
        }
        let versions = function_version.iter().chain(weights.iter().flat_map(BTreeMap::keys));
        for version in versions.clone() {
            let pattern = r"(\$LATEST|[0-9]+)";
            let fits = Version::parse(version).is_some();
            violations.pattern("functionVersion", version, fits, pattern);
        }
        violations.check()?;
        for version in versions {
            record.version_of(self.home(), Some(version))?;
        }
        if let Some(version) = function_version {
            alias.function_version = version;
        }
        if let Some(description) = description {
            alias.description = description;
        }
        if let Some(weights) = weights {
            alias.weights = weights;
        }
        if alias.weights.len() > 1 {
            return Err(Invalid::WeightCount.into());
        }
        if let Some(other) = alias.weights.keys().next() {
            if *other == alias.function_version {
                return Err(Invalid::WeightVersion(other.clone()).into());
            }
            if other == "$LATEST" || alias.function_version == "$LATEST" {
                return Err(Invalid::WeightLatest.into());
            }
        }
        alias.revision_id = new_revision();
        Ok(())
    }

    fn alias_arn(&self, record: &FunctionRecord, name: &str) -> String {
        self.home().function_arn(&record.name, Some(name))
    }

    fn describe_alias(
        &self,
        record: &FunctionRecord,
        name: &str,
        alias: Alias,
    ) -> AliasDescription {
        AliasDescription { arn: self.alias_arn(record, name), name: name.to_owned(), alias }
    }
}
