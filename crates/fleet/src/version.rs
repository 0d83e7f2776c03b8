//! What a fleet runs: one version of a function, in one of its states.

use costrel_functions::FunctionSpec;

/// Names one state of one version of a function. Instances are shared within it, never across.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VersionKey {
    /// The function's name.
    pub function: String,
    /// A number, or `$LATEST`.
    pub version: String,
    /// Changes whenever code or configuration does.
    pub revision: String,
}

/// A version of a function, as a fleet is to run it.
#[derive(Clone, Debug)]
pub struct FleetVersion {
    /// Which one it is.
    pub key: VersionKey,
    /// What its instances are made of.
    pub spec: FunctionSpec,
    /// Whether its cold starts are restores.
    pub snapshots: SnapshotUse,
}

/// Whether instances go on from a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotUse {
    /// Each boots and is initialised.
    Never,
    /// The first one is saved, and those to come go on from there, where the host can do that.
    IfPossible,
}
