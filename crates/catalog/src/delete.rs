//! Functions and versions that go.

use crate::{Catalog, CatalogError, Conflict, FunctionReference, Invalid, Version};

impl Catalog {
    /// Deletes a function with all that hangs on it, or, if a version is named, that version. A
    /// version that is not there is deleted without a word.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Conflict::VersionOfAlias`].
    pub fn delete_function(&self, reference: &FunctionReference) -> Result<(), CatalogError> {
        let Some(qualifier) = &reference.qualifier else { return self.delete_whole(reference) };
        let number = match Version::parse(qualifier) {
            Some(Version::Latest) => return Err(Invalid::DeleteLatest.into()),
            None => return Err(Invalid::DeleteAlias.into()),
            Some(Version::Number(number)) => number,
        };
        self.change_uploaded(reference, |record| {
            let aliases = record.aliases.iter().filter(|(_, alias)| alias.uses(number));
            let aliases: Vec<&str> = aliases.map(|(name, _)| name.as_str()).collect();
            if !aliases.is_empty() {
                return Err(Conflict::VersionOfAlias(aliases.join(", ")));
            }
            record.versions.remove(&number);
            record.policies.remove(qualifier);
            record.event_invoke.remove(qualifier);
            record.runtime_management.remove(qualifier);
            record.provisioned.remove(qualifier);
            Ok(())
        })
    }

    fn delete_whole(&self, reference: &FunctionReference) -> Result<(), CatalogError> {
        let writing = self.writing();
        let record = self.record(reference)?;
        if self.state().declared.contains_key(&record.name) {
            return Err(Conflict::Declared(record.name.to_string()).into());
        }
        self.inner.functions.remove(&record.name)?;
        self.update_state(|state| state.remove(false, &record.name));
        self.provision_anew(Some(&record), None);
        self.notify(&record.name);
        Ok(self.collect(&writing, record.digests())?)
    }
}
