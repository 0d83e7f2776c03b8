//! Instances that are kept ready for a version.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use jiff::Timestamp;

use crate::{
    ApplyOn, Catalog, CatalogError, Conflict, FunctionReference, Invalid, Missing, Page,
    PageRequest, ProvisionedState, ProvisionedStatus, Provisioning, Version, Violations,
    record::{FunctionRecord, Provisioned},
    version::timestamp,
};

/// Provisioned concurrency, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvisionedDescription {
    /// The ARN of the version or of the alias.
    pub function_arn: String,
    /// How many instances were asked for.
    pub requested: u32,
    /// How far that is.
    pub status: ProvisionedStatus,
    /// When it was asked for, as Lambda writes it.
    pub last_modified: String,
}

impl Catalog {
    /// From now on, has instances kept ready by this; first those that were asked for already.
    pub fn set_provisioning(&self, provisioning: Arc<dyn Provisioning>) {
        let slot = &self.inner.provisioning;
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(provisioning);
        let records: Vec<_> = self.state().all().into_values().cloned().collect();
        records.iter().for_each(|record| self.provision_anew(None, Some(record)));
    }

    fn provisioning(&self) -> Option<Arc<dyn Provisioning>> {
        self.inner.provisioning.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of what differs in what two states of a function ask for.
    pub(crate) fn provision_anew(
        &self,
        old: Option<&FunctionRecord>,
        new: Option<&FunctionRecord>,
    ) {
        let Some(provisioning) = self.provisioning() else { return };
        let wanted = |record: Option<&FunctionRecord>| record.map(wanted).unwrap_or_default();
        let (before, after) = (wanted(old), wanted(new));
        for (record, number) in
            old.iter().flat_map(|old| before.keys().map(move |number| (*old, *number)))
        {
            if !after.contains_key(&number)
                && let Some(version) = self.version(record, Version::Number(number))
            {
                provisioning.provision(Arc::new(version), 0);
            }
        }
        for (number, count) in after {
            if before.get(&number) != Some(&count)
                && let Some(version) =
                    new.and_then(|new| self.version(new, Version::Number(number)))
            {
                provisioning.provision(Arc::new(version), count);
            }
        }
    }

    /// Asks for instances to be kept ready for a version, or for an alias's.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn provision_concurrency(
        &self,
        reference: &FunctionReference,
        executions: i64,
    ) -> Result<ProvisionedDescription, CatalogError> {
        let mut violations = Violations::new();
        violations.range("provisionedConcurrentExecutions", executions, 1, i64::from(u32::MAX));
        violations.check()?;
        let requested = u32::try_from(executions).unwrap_or(u32::MAX);
        let qualifier = named(reference)?;
        self.change(reference, |record| {
            let number = provisionable(record, self, qualifier)?;
            let twice = record
                .provisioned
                .keys()
                .any(|other| other != qualifier && version_number(record, other) == Some(number));
            if twice {
                return Err(Conflict::ProvisionedTwice.into());
            }
            let others = record.provisioned.iter().filter(|(other, _)| *other != qualifier);
            let others = others.fold(0, |sum: u32, (_, one)| sum.saturating_add(one.requested));
            if record.reserved.is_some_and(|reserved| others.saturating_add(requested) > reserved) {
                return Err(Invalid::ProvisionedReserved.into());
            }
            let provisioned = Provisioned { requested, last_modified: Timestamp::now() };
            record.provisioned.insert(qualifier.to_owned(), provisioned.clone());
            Ok::<_, CatalogError>(())
        })?;
        self.provisioned_concurrency(reference)
    }

    /// What is kept ready for a version or an alias.
    ///
    /// # Errors
    /// [`CatalogError`]; [`Missing::Provisioned`].
    pub fn provisioned_concurrency(
        &self,
        reference: &FunctionReference,
    ) -> Result<ProvisionedDescription, CatalogError> {
        let qualifier = named(reference)?;
        let record = self.record(reference)?;
        let provisioned = record.provisioned.get(qualifier).ok_or(Missing::Provisioned)?;
        Ok(self.describe_provisioned(&record, qualifier, provisioned))
    }

    /// All that is kept ready for a function's versions and aliases.
    ///
    /// # Errors
    /// [`Missing::Function`], and as all pages.
    pub fn list_provisioned_concurrency(
        &self,
        reference: &FunctionReference,
        page: &PageRequest,
    ) -> Result<Page<ProvisionedDescription>, CatalogError> {
        let record = self.record(reference)?;
        let items = record.provisioned.iter().map(|(qualifier, provisioned)| {
            (qualifier.clone(), self.describe_provisioned(&record, qualifier, provisioned))
        });
        page.page("ListProvisionedConcurrencyConfigs", 50, items)
    }

    /// Keeps nothing ready any more for a version or an alias.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unprovision_concurrency(
        &self,
        reference: &FunctionReference,
    ) -> Result<(), CatalogError> {
        let qualifier = named(reference)?;
        self.change(reference, |record| {
            record.provisioned.remove(qualifier);
            Ok::<_, CatalogError>(())
        })
    }

    fn describe_provisioned(
        &self,
        record: &FunctionRecord,
        qualifier: &str,
        provisioned: &Provisioned,
    ) -> ProvisionedDescription {
        let number = version_number(record, qualifier).map(Version::Number);
        let version = number.and_then(|number| self.version(record, number));
        let status = self.provisioning().zip(version);
        let status = status.map(|(provisioning, version)| provisioning.status(&version));
        ProvisionedDescription {
            function_arn: self.home().function_arn(&record.name, Some(qualifier)),
            requested: provisioned.requested,
            status: status.unwrap_or(ProvisionedStatus {
                available: 0,
                allocated: 0,
                state: ProvisionedState::InProgress,
            }),
            last_modified: timestamp(provisioned.last_modified),
        }
    }
}

/// How many instances each version is to have.
fn wanted(record: &FunctionRecord) -> BTreeMap<u64, u32> {
    let mut wanted = BTreeMap::new();
    for (qualifier, provisioned) in &record.provisioned {
        if let Some(number) = version_number(record, qualifier)
            && record.versions.contains_key(&number)
        {
            let count: &mut u32 = wanted.entry(number).or_default();
            *count = count.saturating_add(provisioned.requested);
        }
    }
    wanted
}

/// The number of a version, or of an alias's.
fn version_number(record: &FunctionRecord, qualifier: &str) -> Option<u64> {
    let version = Version::parse(qualifier)
        .or_else(|| record.aliases.get(qualifier).map(crate::Alias::version));
    match version? {
        Version::Latest => None,
        Version::Number(number) => Some(number),
    }
}

fn named(reference: &FunctionReference) -> Result<&str, CatalogError> {
    match reference.qualifier.as_deref() {
        None | Some("$LATEST") => Err(Invalid::ProvisionedLatest.into()),
        Some(qualifier) => Ok(qualifier),
    }
}

fn provisionable(
    record: &FunctionRecord,
    catalog: &Catalog,
    qualifier: &str,
) -> Result<u64, CatalogError> {
    let Version::Number(number) = record.version_of(catalog.home(), Some(qualifier))? else {
        return Err(Invalid::ProvisionedLatest.into());
    };
    if record.aliases.get(qualifier).is_some_and(|alias| !alias.weights.is_empty()) {
        return Err(Invalid::ProvisionedWeights.into());
    }
    let snap_start = record.versions.get(&number).map(|content| content.configuration.snap_start);
    if snap_start == Some(ApplyOn::PublishedVersions) {
        return Err(Invalid::ProvisionedSnapStart.into());
    }
    Ok(number)
}
