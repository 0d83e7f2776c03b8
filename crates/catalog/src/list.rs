//! Functions and versions as they are looked at.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Catalog, CatalogError, FunctionReference, FunctionVersion, Page, PageRequest, Version,
};

/// A version, and what is the function's own.
#[derive(Clone, Debug)]
pub struct FunctionListing {
    /// The version; an alias's main one.
    pub version: FunctionVersion,
    /// Its ARN, qualified as it was asked for.
    pub arn: String,
    /// The function's tags.
    pub tags: BTreeMap<String, String>,
    /// Concurrency that is reserved for it.
    pub reserved_concurrency: Option<u32>,
}

impl Catalog {
    /// A function as `GetFunction` tells it.
    ///
    /// # Errors
    /// [`crate::Missing::Function`].
    pub fn get_function(
        &self,
        reference: &FunctionReference,
    ) -> Result<FunctionListing, CatalogError> {
        let record = self.record(reference)?;
        let qualifier = reference.qualifier.as_deref();
        let number = record.version_of(self.home(), qualifier)?;
        let version = self.version(&record, number).ok_or_else(|| self.not_found(reference))?;
        Ok(FunctionListing {
            version,
            arn: self.home().function_arn(&record.name, qualifier),
            tags: record.tags.clone(),
            reserved_concurrency: record.reserved,
        })
    }

    /// All functions, by name: `$LATEST` of each.
    ///
    /// # Errors
    /// As all pages.
    pub fn list_functions(
        &self,
        page: &PageRequest,
    ) -> Result<Page<FunctionVersion>, CatalogError> {
        let state = self.state();
        let all = state.all();
        let items = all.into_iter().map(|(name, record)| (name.to_string(), self.latest(record)));
        page.page("ListFunctions", 50, items)
    }

    /// All versions of all functions, by name and number, `$LATEST` first.
    ///
    /// # Errors
    /// As all pages.
    pub fn list_all_versions(
        &self,
        page: &PageRequest,
    ) -> Result<Page<FunctionVersion>, CatalogError> {
        let state = self.state();
        let all = state.all();
        let items = all.into_iter().flat_map(|(name, record)| {
            let versions =
                record.all_versions().filter_map(|(number, _)| self.version(record, number));
            versions.map(move |version| (format!("{name}\0{}", key(version.version)), version))
        });
        page.page("ListFunctions", 50, items)
    }

    /// All versions of a function, `$LATEST` first.
    ///
    /// # Errors
    /// [`crate::Missing::Function`], and as all pages.
    pub fn list_versions(
        &self,
        reference: &FunctionReference,
        page: &PageRequest,
    ) -> Result<Page<FunctionVersion>, CatalogError> {
        let record = self.record(reference)?;
        let items = record.all_versions().filter_map(|(number, _)| {
            let version: Option<FunctionVersion> = self.version(&record, number);
            version.map(|version| (key(version.version), version))
        });
        page.page("ListVersionsByFunction", 50, items)
    }

    /// Concurrency that is reserved for a function.
    #[must_use]
    pub fn reserved_concurrency(&self, function: &str) -> Option<u32> {
        self.state().find(function).and_then(|(_, record)| record.reserved)
    }

    /// Concurrency that is reserved for functions, each.
    #[must_use]
    pub fn all_reserved_concurrency(&self) -> Vec<(Arc<str>, u32)> {
        let state = self.state();
        let reserved = |(name, record): (&Arc<str>, &Arc<crate::record::FunctionRecord>)| {
            Some((Arc::clone(name), record.reserved?))
        };
        state.all().into_iter().filter_map(reserved).collect()
    }
}

/// A key that sorts as versions do.
fn key(version: Version) -> String {
    match version {
        Version::Latest => "0".to_owned(),
        Version::Number(number) => format!("1{number:020}"),
    }
}
