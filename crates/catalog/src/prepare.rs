//! Versions that become active when their snapshot is there.

use std::sync::{Arc, PoisonError};

use crate::{
    Catalog, CatalogError, FunctionReference, FunctionVersion, Preparation, PreparationFailure,
    State, Version, VersionContent,
};

impl Catalog {
    /// From now on, has snapshots made by this; first those that were being made when the server
    /// ended last.
    pub fn set_preparation(&self, preparation: Arc<dyn Preparation>) {
        let slot = &self.inner.preparation;
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(preparation);
        let pending: Vec<FunctionVersion> = {
            let state = self.state();
            let versions = state.functions.values().flat_map(|record| {
                let pending =
                    record.all_versions().filter(|(_, content)| content.state == State::Pending);
                pending.filter_map(|(version, _)| self.version(record, version))
            });
            versions.collect()
        };
        pending.iter().for_each(|version| self.begin_preparation(version));
    }

    pub(crate) fn preparation(&self) -> Option<Arc<dyn Preparation>> {
        self.inner.preparation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn prepared(
        &self,
        version: &FunctionVersion,
        outcome: Result<(), PreparationFailure>,
    ) -> Result<(), CatalogError> {
        let Version::Number(number) = version.version else { return Ok(()) };
        let edit = |record: &mut crate::record::FunctionRecord| {
            if let Some(content) = record.versions.get_mut(&number)
                && content.revision_id == version.content.revision_id
            {
                let state = match outcome {
                    Ok(()) => State::Active,
                    Err(PreparationFailure { code, reason }) => State::Failed { code, reason },
                };
                *content = Arc::new(VersionContent { state, ..(**content).clone() });
            }
            Ok::<_, CatalogError>(())
        };
        match self.change(&FunctionReference::of_name(&*version.name), edit) {
            Err(CatalogError::Missing(_)) => Ok(()),
            other => other,
        }
    }
}
