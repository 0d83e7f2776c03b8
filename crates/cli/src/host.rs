//! Puts together what the commands work with: stores, kernel, agent, backend.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use costrel_image::{ImageStore, RegistryConfig, StoreSettings};
use costrel_rootfs::Stager;
use costrel_sandbox::Host;
use costrel_snapshot::SnapshotStore;
use costrel_vmm::{JailReport, KernelImage, Strictness};
use costrel_vmm_backends::{BackendChoice, Detection, DetectionSettings, HugePages};

use crate::{config::Config, environment::Environment, failure::Failure, installation};

/// How long the agent may take to answer where nothing else is said: a machine under emulation
/// beside other work takes seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// The image store.
pub(crate) fn images(environment: &Environment, config: &Config) -> Result<ImageStore, Failure> {
    let mut registry =
        RegistryConfig::from_variables(|name| environment.get(name).map(ToOwned::to_owned));
    registry.plain_http.extend(config.registries.plain_http.iter().cloned());
    registry.root_certificates.extend(config.registries.root_certificates.iter().cloned());
    Ok(ImageStore::open(&environment.data().join("images"), StoreSettings { registry })?)
}

/// The disks.
pub(crate) fn stager(environment: &Environment) -> Result<Stager, Failure> {
    Ok(Stager::open(&environment.cache())?)
}

/// The snapshots.
pub(crate) fn snapshots(
    environment: &Environment,
    config: &Config,
) -> Result<SnapshotStore, Failure> {
    let limit = match environment.text("COSTREL_SNAPSHOTS_LIMIT") {
        None => config.snapshots.limit_mib,
        Some(text) => text.parse().map_err(|_| {
            Failure::usage(format!(
                "COSTREL_SNAPSHOTS_LIMIT is {text:?}: it must be a number of MiB"
            ))
        })?,
    };
    Ok(SnapshotStore::open(&environment.cache().join("snapshots"), limit.saturating_mul(1 << 20))?)
}

/// Whether snapshots are taken and used: by the option, by the environment, or by the file.
pub(crate) fn snapshots_wanted(
    refused: bool,
    environment: &Environment,
    config: &Config,
) -> Result<bool, Failure> {
    Ok(!refused && switch("COSTREL_SNAPSHOTS", environment)?.unwrap_or(config.snapshots.enabled))
}

/// A variable that is `1` or `0`, if it is set.
fn switch(name: &str, environment: &Environment) -> Result<Option<bool>, Failure> {
    match environment.text(name) {
        None => Ok(None),
        Some("1") => Ok(Some(true)),
        Some("0") => Ok(Some(false)),
        Some(other) => Err(Failure::usage(format!("{name} is {other:?}: it must be `1` or `0`"))),
    }
}

/// What this machine can run virtual machines with.
pub(crate) fn detect(
    environment: &Environment,
    strictness: Strictness,
) -> Result<Detection, Failure> {
    let choice = match environment.text("COSTREL_BACKEND") {
        None | Some("auto") => BackendChoice::Auto,
        Some("kvm") => BackendChoice::Kvm,
        Some("emulated") => BackendChoice::Emulated,
        Some(other) => {
            return Err(Failure::usage(format!(
                "COSTREL_BACKEND is {other:?}: it must be `auto`, `kvm` or `emulated`"
            )));
        }
    };
    Ok(Detection::detect(&DetectionSettings {
        choice,
        vmm: installation::vmm(environment)?,
        huge_pages: huge_pages(environment)?,
        qemu: environment.get("COSTREL_QEMU").map(Into::into),
        path: environment.get("PATH").map(ToOwned::to_owned),
        cache: environment.cache(),
        strictness,
    }))
}

/// Whether guests' memory is in huge pages: `COSTREL_HUGE_PAGES`.
fn huge_pages(environment: &Environment) -> Result<HugePages, Failure> {
    match environment.text("COSTREL_HUGE_PAGES") {
        None | Some("transparent") => Ok(HugePages::Transparent),
        Some("never") => Ok(HugePages::Never),
        Some(other) => Err(Failure::usage(format!(
            "COSTREL_HUGE_PAGES is {other:?}: it must be `transparent` or `never`"
        ))),
    }
}

/// How strictly machines are to be isolated: by the option, by the environment, or by the file.
pub(crate) fn strictness(
    option: bool,
    environment: &Environment,
    config: &Config,
) -> Result<Strictness, Failure> {
    let is_strict =
        option || switch("COSTREL_STRICT", environment)?.unwrap_or(config.isolation.strict);
    Ok(if is_strict { Strictness::Strict } else { Strictness::Warn })
}

/// Says so if a machine is isolated less strictly than it should be.
pub(crate) fn warn_of_lacking(isolation: &JailReport) {
    let lacking: Vec<String> =
        isolation.lacking().map(|measure| measure.name.to_string()).collect();
    if !lacking.is_empty() {
        eprintln!(
            "warning: the machine is isolated from this host without: {}; `costrel doctor` tells \
             why, --strict refuses such a machine",
            lacking.join(", ")
        );
    }
}

/// Where the sandboxes' directories are.
pub(crate) fn sandboxes(environment: &Environment) -> PathBuf {
    environment.cache().join("sandboxes")
}

/// What all sandboxes of this command are made with. Sweeps first what killed ones left.
pub(crate) fn host(
    environment: &Environment,
    kernel: Option<&Path>,
    strictness: Strictness,
    stager: &Stager,
) -> Result<Host, Failure> {
    let sandboxes = sandboxes(environment);
    costrel_sandbox::sweep(&sandboxes)?;
    let kernel = installation::kernel(kernel, environment)?;
    let agent = installation::agent(environment)?;
    let backend = detect(environment, strictness)?.backend()?;
    let boot_limit = match environment.text("COSTREL_BOOT_TIMEOUT") {
        None => BOOT_LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (1..=3600).contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| {
                Failure::usage(format!(
                    "COSTREL_BOOT_TIMEOUT is {text:?}: it must be a number of seconds, 1 to 3600"
                ))
            })?,
    };
    Ok(Host {
        backend,
        kernel: KernelImage { path: kernel.path },
        init_block: Arc::new(stager.init_block(&agent)?),
        sandboxes,
        boot_limit,
    })
}
