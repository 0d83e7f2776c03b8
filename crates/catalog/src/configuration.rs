//! A function's configuration: what each published version freezes beside the code.

use std::{collections::BTreeMap, path::PathBuf};

use costrel_store::Digest;
use serde::{Deserialize, Serialize};

/// The configuration of one version of a function.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Up to 256 characters.
    pub description: String,
    /// The execution role's ARN. Nothing is done in its name.
    pub role: String,
    /// A name of [`costrel_functions::Runtime`]; none for images.
    pub runtime: Option<String>,
    /// Up to 128 characters; none for images.
    pub handler: Option<String>,
    /// In seconds, 1 to 900.
    pub timeout: u32,
    /// In MB, 128 to 10240.
    pub memory_size: u32,
    /// The size of /tmp in MB, 512 to 10240.
    pub ephemeral_storage: u32,
    /// Variables, 4 KB with their names.
    pub environment: BTreeMap<String, String>,
    /// At most 5, in the order in which they are unpacked.
    pub layers: Vec<LayerUse>,
    /// What the code comes in.
    pub package_type: PackageType,
    /// What stands in place of the image's own settings.
    pub image: ImageOverrides,
    /// Which versions are snapshotted once they are initialised.
    pub snap_start: ApplyOn,
    /// X-Ray's mode.
    pub tracing: TracingMode,
    /// The format and the level of logs.
    pub logging: Logging,
    /// The ARN of the dead-letter queue or topic.
    pub dead_letter: Option<String>,
    /// The ARN of a key. Nothing is encrypted with it.
    pub kms_key: Option<String>,
    /// A network; told, not joined.
    pub vpc: Option<Vpc>,
    /// File systems; told, not mounted.
    pub file_systems: Vec<FileSystem>,
}

impl Default for Configuration {
    /// AWS's defaults.
    fn default() -> Self {
        Self {
            description: String::new(),
            role: String::new(),
            runtime: None,
            handler: None,
            timeout: 3,
            memory_size: 128,
            ephemeral_storage: 512,
            environment: BTreeMap::new(),
            layers: Vec::new(),
            package_type: PackageType::default(),
            image: ImageOverrides::default(),
            snap_start: ApplyOn::default(),
            tracing: TracingMode::default(),
            logging: Logging::default(),
            dead_letter: None,
            kms_key: None,
            vpc: None,
            file_systems: Vec::new(),
        }
    }
}

/// A layer that a function uses. It stays usable when the layer's version is deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerUse {
    /// The layer version's ARN; for declared functions, one made up for the path.
    pub arn: String,
    /// Where it is.
    pub content: LayerContent,
    /// The zip file's size in bytes.
    pub code_size: u64,
    /// What it unpacks to, in bytes.
    pub unzipped_size: u64,
}

/// Where a layer's files are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerContent {
    /// In the catalog, a zip file.
    Stored(Digest),
    /// On the host: a directory or a zip file.
    Path(PathBuf),
}

/// What a function's code comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PackageType {
    /// A zip file (or, declared, a directory).
    #[default]
    Zip,
    /// A container image.
    Image,
}

/// `ImageConfig`: what stands in place of the image's own settings.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageOverrides {
    /// In place of its entry point.
    pub entry_point: Option<Vec<String>>,
    /// In place of its command.
    pub command: Option<Vec<String>>,
    /// In place of its working directory.
    pub working_directory: Option<String>,
}

impl ImageOverrides {
    /// Whether the image is run as it says itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// SnapStart's `ApplyOn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ApplyOn {
    /// No version.
    #[default]
    None,
    /// Each version when it is published.
    PublishedVersions,
}

/// X-Ray's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum TracingMode {
    /// As the caller says.
    #[default]
    PassThrough,
    /// Sampled by the function.
    Active,
}

/// The format of logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum LogFormat {
    /// Lines.
    #[default]
    Text,
    /// One object a line.
    #[serde(rename = "JSON")]
    Json,
}

/// `LoggingConfig`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// The format.
    pub format: LogFormat,
    /// `TRACE` to `FATAL`; with JSON only.
    pub application_level: Option<String>,
    /// `DEBUG` to `WARN`; with JSON only.
    pub system_level: Option<String>,
    /// In place of `/aws/lambda/NAME`.
    pub group: Option<String>,
}

/// `VpcConfig`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Vpc {
    /// Subnets' ids.
    pub subnet_ids: Vec<String>,
    /// Security groups' ids.
    pub security_group_ids: Vec<String>,
    /// Whether IPv6 leaves dual-stack subnets.
    pub ipv6_allowed_for_dual_stack: bool,
}

/// `FileSystemConfigs`' entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSystem {
    /// The access point's ARN.
    pub arn: String,
    /// Where it would be mounted, below `/mnt/`.
    pub local_mount_path: String,
}
