//! The library below the command, put together as the command does it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use costrel_functions::Stage;
use costrel_image::{ImageSource, ImageStore, NoProgress, Platform, PullPolicy, StoreSettings};
use costrel_rootfs::{ImageLayers, LayerBlob, LayerCompression, Silent, StagedDisk, Stager};
use costrel_sandbox::Host;
use costrel_vmm::{Backend, KernelImage};
use costrel_vmm_backends::{BackendChoice, Detection, DetectionSettings, KvmVerdict};

use crate::{Home, installation, kernel, python_image, vminitd};

/// Stores and a backend, below a home.
#[derive(Debug)]
pub struct TestHost {
    /// What sandboxes are made with.
    pub host: Host,
    /// Where functions are staged.
    pub stage: Stage,
}

impl TestHost {
    /// A host on the backend of `COSTREL_BACKEND`, or the one that the machine has.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn new(home: &Home) -> Self {
        let (data, cache) = (home.path().join("data/costrel"), home.path().join("cache/costrel"));
        let stager = Stager::open(&cache).expect("a cache");
        let images = ImageStore::open(&data.join("images"), StoreSettings::default());
        let detection = detect(backend_choice(), &cache);
        let host = Host {
            backend: detection.backend().expect("a backend"),
            kernel: KernelImage { path: kernel() },
            init_block: Arc::new(stager.init_block(&vminitd()).expect("an init block")),
            sandboxes: cache.join("sandboxes"),
            boot_limit: Duration::from_secs(60),
        };
        let stage = Stage {
            images: Arc::new(images.expect("an image store")),
            stager: Arc::new(stager),
            pull_policy: PullPolicy::Missing,
            platform: Platform::host(),
        };
        Self { host, stage }
    }

    /// The Python image, staged.
    ///
    /// # Panics
    /// If it cannot be.
    pub async fn python_disk(&self) -> Arc<StagedDisk> {
        let source: PathBuf = python_image();
        let source = ImageSource::parse(&format!("oci:{}", source.display())).expect("a source");
        let Stage { images, platform, .. } = &self.stage;
        let image = images
            .obtain(&source, platform, PullPolicy::Missing, &NoProgress)
            .await
            .expect("an image");
        let layers = image.layers.iter().map(|layer| LayerBlob {
            path: layer.path.clone(),
            compression: LayerCompression::Gzip,
            diff_id: layer.diff_id,
            size: layer.size,
        });
        let layers = ImageLayers { key: image.manifest_digest, layers: layers.collect() };
        let stager = Arc::clone(&self.stage.stager);
        let staged = tokio::task::spawn_blocking(move || stager.image(&layers, &Silent)).await;
        Arc::new(staged.expect("a thread").expect("a disk"))
    }
}

/// Whether this machine's KVM runs a stock kernel.
///
/// # Panics
/// If it does not and `COSTREL_BACKEND` says `kvm`: where tests are to run on KVM, they must not
/// pass without it. If there is no temporary directory to be had.
#[must_use]
pub fn kvm_works() -> bool {
    working_kvm().is_some()
}

/// What runs machines on KVM, where it works.
///
/// # Panics
/// As [`kvm_works`], and if `costrel-vmm` was not built.
#[must_use]
pub fn kvm_backend() -> Option<Arc<dyn Backend>> {
    working_kvm().map(|detection| detection.backend().expect("costrel-vmm"))
}

fn working_kvm() -> Option<Detection> {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let detection = detect(BackendChoice::Kvm, cache.path());
    let works = *detection.kvm() == KvmVerdict::Works;
    assert!(works || backend_choice() != BackendChoice::Kvm, "KVM: {}", detection.kvm());
    works.then_some(detection)
}

fn detect(choice: BackendChoice, cache: &Path) -> Detection {
    Detection::detect(&DetectionSettings {
        choice,
        vmm: installation().join("lib/costrel/costrel-vmm"),
        path: std::env::var_os("PATH"),
        cache: cache.to_owned(),
        ..DetectionSettings::default()
    })
}

fn backend_choice() -> BackendChoice {
    match std::env::var("COSTREL_BACKEND").as_deref() {
        Err(_) | Ok("" | "auto") => BackendChoice::Auto,
        Ok("kvm") => BackendChoice::Kvm,
        Ok("emulated") => BackendChoice::Emulated,
        Ok(other) => panic!("COSTREL_BACKEND is {other:?}"),
    }
}
