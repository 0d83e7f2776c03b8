//! Puts together what the commands work with: stores, kernel, agent, backend.

use std::{path::Path, sync::Arc, time::Duration};

use costrel_image::{ImageStore, RegistryConfig, StoreSettings};
use costrel_rootfs::Stager;
use costrel_sandbox::Host;
use costrel_vmm::KernelImage;
use costrel_vmm_backends::{BackendChoice, Detection, DetectionSettings};

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

/// What this machine can run virtual machines with.
pub(crate) fn detect(environment: &Environment) -> Result<Detection, Failure> {
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
        qemu: environment.get("COSTREL_QEMU").map(Into::into),
        path: environment.get("PATH").map(ToOwned::to_owned),
        cache: environment.cache(),
    }))
}

/// What all sandboxes of this command are made with. Sweeps first what killed ones left.
pub(crate) fn host(
    environment: &Environment,
    kernel: Option<&Path>,
    stager: &Stager,
) -> Result<Host, Failure> {
    let sandboxes = environment.cache().join("sandboxes");
    costrel_sandbox::sweep(&sandboxes)?;
    let kernel = installation::kernel(kernel, environment)?;
    let agent = installation::agent(environment)?;
    let backend = detect(environment)?.backend()?;
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
