//! Generates the gRPC code, without an external protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("costrel/agent/v1/agent.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let descriptors = protox::compile([file], [root])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
