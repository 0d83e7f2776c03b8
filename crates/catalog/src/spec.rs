//! From a version to what an instance is started from.

use std::path::PathBuf;

use costrel_functions::{
    Credentials, EphemeralStorage, FunctionMemory, FunctionSpec, FunctionTimeout, Initialization,
    Launch, LimitError, Package, Runtime, UnknownRuntime, needs_image,
};
use costrel_image::{ImageSource, ParseSourceError};
use costrel_rootfs::CodeSource;
use costrel_store::{Digest, EntryName};

use crate::{ApplyOn, Code, FunctionVersion, LayerContent, Version};

/// Why a version cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is neither an image nor has it a runtime.
    #[error("the function {0} has no runtime")]
    NoRuntime(String),
    /// This runtime is not known here.
    #[error(transparent)]
    Runtime(#[from] UnknownRuntime),
    /// Its image's name is none.
    #[error(transparent)]
    Image(#[from] ParseSourceError),
    /// A quantity is out of AWS's bounds.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl FunctionVersion {
    /// Describes an instance of it. Where the function brings its runtime along, the front of its
    /// bootstrap is read from the disk, to find out whether it needs `runtime_image` around it.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn to_spec(
        &self,
        runtime_image: &dyn Fn(Runtime) -> ImageSource,
        credentials: Option<Credentials>,
    ) -> Result<FunctionSpec, SpecError> {
        let configuration = self.configuration();
        let layers = configuration.layers.iter().map(|layer| match &layer.content {
            LayerContent::Stored(digest) => self.stored(digest),
            LayerContent::Path(path) => path.clone(),
        });
        let some = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
        Ok(FunctionSpec {
            name: self.name.to_string(),
            version: self.version.to_string(),
            account_id: self.home.account_id.clone(),
            region: self.home.region.clone(),
            package: self.package(runtime_image)?,
            handler: configuration.handler.clone(),
            entrypoint: some(&configuration.image.entry_point),
            command: some(&configuration.image.command),
            working_directory: configuration.image.working_directory.clone(),
            layers: layers.collect(),
            environment: configuration
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            credentials,
            memory: FunctionMemory::megabytes(configuration.memory_size.into())?,
            timeout: FunctionTimeout::seconds(configuration.timeout.into())?,
            ephemeral_storage: EphemeralStorage::megabytes(configuration.ephemeral_storage.into())?,
            initialization: match (configuration.snap_start, self.version) {
                (ApplyOn::PublishedVersions, Version::Number(_)) => Initialization::SnapStart,
                _ => Initialization::OnDemand,
            },
            host_ports: Vec::new(),
        })
    }

    fn package(
        &self,
        runtime_image: &dyn Fn(Runtime) -> ImageSource,
    ) -> Result<Package, SpecError> {
        let (code, own) = match &self.content.code {
            Code::Image { uri } => {
                let image = Some(ImageSource::parse(uri)?);
                return Ok(Package { image, code: None, launch: Launch::Entrypoint });
            }
            Code::Zip { digest, .. } => (CodeSource::Zip(self.stored(digest)), None),
            Code::Directory { path, image, .. } => {
                (CodeSource::Directory(path.clone()), image.as_deref())
            }
            Code::File { path, image, .. } => (CodeSource::Zip(path.clone()), image.as_deref()),
        };
        let runtime = self.configuration().runtime.as_deref();
        let runtime: Runtime =
            runtime.ok_or_else(|| SpecError::NoRuntime(self.name.to_string()))?.parse()?;
        if let Some(own) = own {
            let image = Some(ImageSource::parse(own)?);
            return Ok(Package { image, code: Some(code), launch: Launch::Bootstrap(runtime) });
        }
        // A bootstrap that is not in the code is in a layer or in the image; code that is not there
        // at all is found out by whoever stages it.
        let alone = runtime.is_provided() && !needs_image(&code).unwrap_or(true);
        let image = (!alone).then(|| runtime_image(runtime));
        Ok(Package { image, code: Some(code), launch: Launch::Bootstrap(runtime) })
    }

    fn stored(&self, digest: &Digest) -> PathBuf {
        self.home.code.path(&EntryName::of_digest(digest))
    }
}
