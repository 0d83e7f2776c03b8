//! What the catalog asks of those who run functions.

use std::sync::Arc;

use crate::{Catalog, CatalogError, FunctionVersion};

/// Makes the snapshots of versions that are published with SnapStart. Without one, such versions are
/// active at once.
pub trait Preparation: Send + Sync {
    /// Begins, and returns at once. The version is `Pending` until the ticket says otherwise; so it
    /// is after a restart, when this is called again for it.
    fn prepare(&self, version: Arc<FunctionVersion>, ticket: PreparationTicket);
}

/// To be handed back when a version's snapshot is there, or cannot be. Dropped, the version stays
/// `Pending` until the next start of the server.
#[derive(Debug)]
pub struct PreparationTicket {
    pub(crate) catalog: Catalog,
    pub(crate) version: Arc<FunctionVersion>,
}

/// Why a snapshot could not be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreparationFailure {
    /// AWS's `StateReasonCode`, such as `FunctionError`.
    pub code: String,
    /// In words.
    pub reason: String,
}

impl PreparationTicket {
    /// Makes the version `Active` or `Failed`. Waits for the disk. A version that is gone meanwhile
    /// stays gone.
    ///
    /// # Errors
    /// [`CatalogError::Disk`]; then the version stays `Pending`.
    pub fn finish(self, outcome: Result<(), PreparationFailure>) -> Result<(), CatalogError> {
        self.catalog.prepared(&self.version, outcome)
    }
}

/// Keeps instances of versions ready ahead of invocations. Without one, provisioned concurrency
/// stays `IN_PROGRESS`.
pub trait Provisioning: Send + Sync {
    /// Keeps `count` instances of this version ready, in place of what was asked for before; 0 for
    /// none.
    fn provision(&self, version: Arc<FunctionVersion>, count: u32);

    /// How far that is.
    fn status(&self, version: &FunctionVersion) -> ProvisionedStatus;
}

/// How far the provisioning of a version is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvisionedStatus {
    /// Instances that can take an invocation.
    pub available: u32,
    /// Instances that are there, ready or not.
    pub allocated: u32,
    /// What becomes of it.
    pub state: ProvisionedState,
}

/// `Status` of provisioned concurrency.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProvisionedState {
    /// Instances are started.
    InProgress,
    /// As many as asked for are ready.
    Ready,
    /// They cannot be started.
    Failed {
        /// Why.
        reason: String,
    },
}

impl std::fmt::Debug for dyn Preparation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Preparation")
    }
}

impl std::fmt::Debug for dyn Provisioning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Provisioning")
    }
}
