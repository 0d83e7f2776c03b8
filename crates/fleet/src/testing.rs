//! What the tests of this crate invoke.

use costrel_functions::{
    EphemeralStorage, FunctionMemory, FunctionSpec, FunctionTimeout, Initialization, Launch,
    Package,
};

use crate::{FleetVersion, SnapshotUse, VersionKey};

pub(crate) fn memory(megabytes: u64) -> FunctionMemory {
    FunctionMemory::megabytes(megabytes).unwrap()
}

/// A version of a function of 128 MB, without snapshots.
pub(crate) fn version(function: &str, version: &str) -> FleetVersion {
    FleetVersion {
        key: VersionKey {
            function: function.to_owned(),
            version: version.to_owned(),
            revision: "r".to_owned(),
        },
        spec: FunctionSpec {
            name: function.to_owned(),
            version: version.to_owned(),
            account_id: "000000000000".to_owned(),
            region: "us-east-1".to_owned(),
            package: Package {
                image: None,
                code: None,
                launch: Launch::Bootstrap("provided.al2023".parse().unwrap()),
            },
            handler: None,
            entrypoint: None,
            command: None,
            working_directory: None,
            layers: vec![],
            environment: vec![],
            credentials: None,
            memory: memory(128),
            timeout: FunctionTimeout::seconds(3).unwrap(),
            ephemeral_storage: EphemeralStorage::megabytes(512).unwrap(),
            initialization: Initialization::OnDemand,
            host_ports: vec![],
        },
        snapshots: SnapshotUse::Never,
    }
}
