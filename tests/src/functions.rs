//! The functions that tests run through the library.

use costrel_functions::{
    EphemeralStorage, FunctionMemory, FunctionSpec, FunctionTimeout, Initialization, Launch,
    Package,
};
use costrel_rootfs::CodeSource;

use crate::{rust_function, unhurried};

/// A function of that name and package, of 128 MB, whose invocations may take so many seconds, or
/// longer on a slow machine ([`unhurried`]). What else it has is for the test to say.
///
/// # Panics
/// If that is no time that an invocation may take.
#[must_use]
pub fn function_spec(name: &str, package: Package, seconds: u32) -> FunctionSpec {
    FunctionSpec {
        name: name.into(),
        version: "$LATEST".into(),
        account_id: "000000000000".into(),
        region: "us-east-1".into(),
        package,
        handler: None,
        entrypoint: None,
        command: None,
        working_directory: None,
        layers: vec![],
        environment: vec![],
        credentials: None,
        memory: FunctionMemory::megabytes(128).expect("a size"),
        timeout: FunctionTimeout::seconds(unhurried(seconds).into()).expect("a time"),
        ephemeral_storage: EphemeralStorage::megabytes(512).expect("a size"),
        initialization: Initialization::OnDemand,
        host_ports: vec![],
    }
}

/// The Rust function's package.
///
/// # Panics
/// If there is no such function.
#[must_use]
pub fn rust_package() -> Package {
    Package {
        image: None,
        code: Some(CodeSource::Zip(rust_function())),
        launch: Launch::Bootstrap("provided.al2023".parse().expect("a runtime")),
    }
}
