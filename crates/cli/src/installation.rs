//! The files that come with the program: the monitor, the agent and the guest kernel.
//!
//! An installation is `bin/costrel` and `lib/costrel/{costrel-vmm,vminitd,vmlinux}`, wherever that
//! is, with `lib/costrel/provenance.json` saying where the kernel came from.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{environment::Environment, failure::Failure};

/// A kernel, and why this one.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) path: PathBuf,
    pub(crate) chosen_by: ChosenBy,
}

/// What decided on a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChosenBy {
    Option,
    Environment,
    Installation,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "given by --kernel",
            Self::Environment => "named by the environment",
            Self::Installation => "of this installation",
        })
    }
}

/// Where a kernel was built, and from what.
#[derive(Debug, Deserialize)]
pub(crate) struct Provenance {
    pub(crate) source_package: String,
    pub(crate) source_version: String,
    pub(crate) config_sha256: String,
    pub(crate) compiler: String,
}

/// The directory with the installation's files.
pub(crate) fn library_directory() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    // The program may be a link to where the installation is.
    let program = program.canonicalize().unwrap_or(program);
    let root = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    Ok(root.join("lib/costrel"))
}

/// The agent: `COSTREL_VMINITD`, or the installation's.
pub(crate) fn agent(environment: &Environment) -> Result<PathBuf, Failure> {
    let path = match environment.get("COSTREL_VMINITD") {
        Some(path) => PathBuf::from(path),
        None => library_directory()?.join("vminitd"),
    };
    if !path.is_file() {
        let failure = anyhow::anyhow!("the guest's agent is not at {}", path.display());
        return Err(
            Failure::from(failure).with_hint("`make` builds it; COSTREL_VMINITD names another")
        );
    }
    Ok(path)
}

/// The program that runs machines on KVM: `COSTREL_VMM`, or the installation's. It may be missing.
pub(crate) fn vmm(environment: &Environment) -> Result<PathBuf, Failure> {
    match environment.get("COSTREL_VMM") {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(library_directory()?.join("costrel-vmm")),
    }
}

/// The guest kernel: `--kernel`, `COSTREL_KERNEL`, or the installation's.
pub(crate) fn kernel(option: Option<&Path>, environment: &Environment) -> Result<Kernel, Failure> {
    let kernel = if let Some(path) = option {
        Kernel { path: path.to_owned(), chosen_by: ChosenBy::Option }
    } else if let Some(path) = environment.get("COSTREL_KERNEL") {
        Kernel { path: path.into(), chosen_by: ChosenBy::Environment }
    } else {
        Kernel { path: library_directory()?.join("vmlinux"), chosen_by: ChosenBy::Installation }
    };
    if !kernel.path.is_file() {
        let failure = anyhow::anyhow!("there is no guest kernel at {}", kernel.path.display());
        return Err(Failure::from(failure)
            .with_hint("`make kernel` builds it; --kernel names another vmlinux"));
    }
    Ok(kernel)
}

/// What is known of a kernel's origin: it stands beside the kernel.
pub(crate) fn provenance(kernel: &Path) -> Option<Provenance> {
    let kernel = kernel.canonicalize().ok()?;
    let text = fs::read_to_string(kernel.parent()?.join("provenance.json")).ok()?;
    serde_json::from_str(&text).ok()
}
