//! From a function's description to the disks that its instances share.

use std::{sync::Arc, time::Instant};

use costrel_agent_client::wire::EnvironmentVariable;
use costrel_image::{
    Image, ImageSource, ImageStore, ObtainError, Platform, PullPolicy, PullProgress,
};
use costrel_rootfs::{
    CodePlacement, DEFAULT_UNPACKED_LIMIT, FunctionSource, ImageLayers, LayerBlob, StageError,
    StageProgress, StagedDisk, Stager,
};
use costrel_sandbox::HostPort;

use crate::{
    EnvironmentError, FunctionSpec, Launch, Timeline, TooManyHostPorts,
    environment::{build, log_stream},
    host_ports::host_ports,
};

/// Where functions are staged.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The images.
    pub images: Arc<ImageStore>,
    /// The disks.
    pub stager: Arc<Stager>,
    /// When to ask registries.
    pub pull_policy: PullPolicy,
    /// What the machines are.
    pub platform: Platform,
}

/// Shows how staging gets on.
pub trait StageReporter: PullProgress + StageProgress + 'static {}

impl<T: PullProgress + StageProgress + 'static> StageReporter for T {}

/// Why a function could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageFunctionError {
    /// Its image could not be had.
    #[error(transparent)]
    Image(#[from] Box<ObtainError>),
    /// A disk could not be made.
    #[error(transparent)]
    Disk(#[from] StageError),
    /// Its environment is not allowed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// It would reach too much of this host.
    #[error(transparent)]
    HostPorts(#[from] TooManyHostPorts),
    /// Its image says nothing of what to run, and neither does its owner.
    #[error("the image {0} has neither an entry point nor a command")]
    NoCommand(String),
    /// The work was interrupted.
    #[error("staging was interrupted")]
    Interrupted,
}

/// A function whose disks are there.
#[derive(Clone, Debug)]
pub struct StagedFunction {
    pub(crate) spec: FunctionSpec,
    pub(crate) disks: Vec<Arc<StagedDisk>>,
    /// The runtime's command line; with [`StagedFunction::bootstraps`], its arguments.
    pub(crate) arguments: Vec<String>,
    pub(crate) bootstraps: Vec<String>,
    pub(crate) environment: Vec<EnvironmentVariable>,
    pub(crate) working_directory: String,
    /// What of the host's loopback it reaches.
    pub(crate) host_ports: Vec<HostPort>,
    /// What `_HANDLER` says.
    pub(crate) handler: Option<String>,
    /// The image's digest in hex, which names the runtime's version.
    pub(crate) image_digest: Option<String>,
}

impl StagedFunction {
    /// The name and ARN of its runtime's version, if AWS would say them.
    pub(crate) fn runtime_version(&self) -> Option<(&'static str, String)> {
        let (Launch::Bootstrap(runtime), Some(digest)) =
            (self.spec.package.launch, &self.image_digest)
        else {
            return None;
        };
        Some((runtime.name(), format!("arn:aws:lambda:{}::runtime:{digest}", self.spec.region)))
    }

    /// The function.
    #[must_use]
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Its disks, the lowest first.
    #[must_use]
    pub fn disks(&self) -> &[Arc<StagedDisk>] {
        &self.disks
    }
}

impl Stage {
    /// Fetches the function's image if need be, and makes its disks, or finds them made.
    ///
    /// # Errors
    /// [`StageFunctionError`].
    pub async fn function(
        &self,
        spec: FunctionSpec,
        reporter: Arc<dyn StageReporter>,
        timeline: &mut Timeline,
    ) -> Result<StagedFunction, StageFunctionError> {
        // The code first: what is wrong with it is found before anything is fetched for it.
        let began = Instant::now();
        let code = match (&spec.package.code, &spec.layers[..]) {
            (None, []) => None,
            _ => Some(Arc::new(self.code(&spec, &reporter).await?)),
        };
        timeline.end("code", began);
        let mut disks = Vec::new();
        let mut image = None;
        if let Some(source) = &spec.package.image {
            let began = Instant::now();
            let (found, disk) = self.image(source, &reporter).await?;
            disks.push(Arc::new(disk));
            image = Some(found);
            timeline.end("image", began);
        }
        disks.extend(code);
        Self::assemble(spec, disks, image.as_ref())
    }

    async fn image(
        &self,
        source: &ImageSource,
        reporter: &Arc<dyn StageReporter>,
    ) -> Result<(Image, StagedDisk), StageFunctionError> {
        let error = match self.stage_image(source, reporter).await {
            Err(StageFunctionError::Disk(
                error @ (StageError::DiffId { .. } | StageError::Layer { .. }),
            )) => error,
            done => return done,
        };
        // A blob may have been damaged since it was fetched. If so, it is thrown away and fetched
        // again; if not, the image is at fault.
        let images = Arc::clone(&self.images);
        match blocking(move || images.verify()).await? {
            Ok(damaged) if !damaged.is_empty() => self.stage_image(source, reporter).await,
            _ => Err(error.into()),
        }
    }

    async fn stage_image(
        &self,
        source: &ImageSource,
        reporter: &Arc<dyn StageReporter>,
    ) -> Result<(Image, StagedDisk), StageFunctionError> {
        let image = self.images.obtain(source, &self.platform, self.pull_policy, &**reporter).await;
        let image = image.map_err(Box::new)?;
        let layers = image.layers.iter().map(|layer| LayerBlob {
            path: layer.path.clone(),
            compression: match layer.compression {
                costrel_image::Compression::Plain => costrel_rootfs::LayerCompression::Plain,
                costrel_image::Compression::Gzip => costrel_rootfs::LayerCompression::Gzip,
                costrel_image::Compression::Zstd => costrel_rootfs::LayerCompression::Zstd,
            },
            diff_id: layer.diff_id,
            size: layer.size,
        });
        let layers = ImageLayers { key: image.manifest_digest, layers: layers.collect() };
        let (stager, reporter) = (Arc::clone(&self.stager), Arc::clone(reporter));
        let disk = blocking(move || stager.image(&layers, &*reporter)).await??;
        Ok((image, disk))
    }

    async fn code(
        &self,
        spec: &FunctionSpec,
        reporter: &Arc<dyn StageReporter>,
    ) -> Result<StagedDisk, StageFunctionError> {
        let provided =
            matches!(spec.package.launch, Launch::Bootstrap(runtime) if runtime.is_provided());
        let source = FunctionSource {
            code: spec.package.code.clone(),
            layers: spec.layers.clone(),
            placement: if provided { CodePlacement::TaskAndRuntime } else { CodePlacement::Task },
            unpacked_limit: DEFAULT_UNPACKED_LIMIT,
        };
        let (stager, reporter) = (Arc::clone(&self.stager), Arc::clone(reporter));
        Ok(blocking(move || stager.function(&source, &*reporter)).await??)
    }

    fn assemble(
        spec: FunctionSpec,
        disks: Vec<Arc<StagedDisk>>,
        image: Option<&Image>,
    ) -> Result<StagedFunction, StageFunctionError> {
        let config = image.map(|image| &image.config);
        let (arguments, bootstraps, handler) = match spec.package.launch {
            Launch::Bootstrap(runtime) => {
                let handler = spec
                    .handler
                    .as_deref()
                    .or_else(|| runtime.default_handler())
                    .unwrap_or("handler");
                let bootstraps =
                    ["/var/task/bootstrap", "/opt/bootstrap", "/var/runtime/bootstrap"];
                (vec![], bootstraps.map(str::to_owned).to_vec(), Some(handler.to_owned()))
            }
            Launch::Entrypoint => {
                let mut arguments = spec
                    .entrypoint
                    .clone()
                    .or_else(|| config.map(|config| config.entrypoint.clone()))
                    .unwrap_or_default();
                let command = spec
                    .command
                    .clone()
                    .or_else(|| spec.handler.clone().map(|handler| vec![handler]))
                    .or_else(|| config.map(|config| config.cmd.clone()))
                    .unwrap_or_default();
                let handler = command.first().cloned();
                arguments.extend(command);
                if arguments.is_empty() {
                    let name = image.map(|image| image.reference.to_string()).unwrap_or_default();
                    return Err(StageFunctionError::NoCommand(name));
                }
                (arguments, vec![], handler)
            }
        };
        let log_stream = log_stream(&spec.version, jiff::Timestamp::now());
        let image_environment = config.map(|config| config.env.clone()).unwrap_or_default();
        let environment = build(&spec, handler.as_deref(), &image_environment, &log_stream)?;
        let host_ports = host_ports(&spec.environment, &spec.host_ports)?;
        let own_directory = match spec.package.launch {
            Launch::Bootstrap(_) => None,
            Launch::Entrypoint => spec
                .working_directory
                .clone()
                .or_else(|| config.and_then(|config| config.working_dir.clone())),
        };
        Ok(StagedFunction {
            disks,
            arguments,
            bootstraps,
            environment,
            working_directory: own_directory.unwrap_or_else(|| "/var/task".to_owned()),
            host_ports,
            handler,
            image_digest: image.map(|image| image.manifest_digest.hex()),
            spec,
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StageFunctionError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StageFunctionError::Interrupted)
}
