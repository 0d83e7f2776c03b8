//! OCI images from registries, layouts and archives, in a content store.

mod config;
mod image;
mod import;
mod manifest;
mod platform;
mod progress;
mod pull;
mod record;
mod reference;
mod registry;
mod settings;
mod source;
mod store;
mod tree;
mod verify;

pub use config::ImageConfig;
pub use image::{Compression, Image, Layer};
pub use import::{ImportError, ObtainError};
pub use manifest::ManifestError;
pub use platform::{ParsePlatformError, Platform};
pub use progress::{BlobOutcome, NoProgress, PullProgress};
pub use pull::{PullError, PullPolicy};
pub use record::ImageRecord;
pub use reference::{ParseReferenceError, Reference};
pub use registry::{AuthFiles, BlobError, CredentialsError, RegistryError};
pub use settings::{Proxies, RegistryConfig, Retry, StoreSettings};
pub use source::{ImageSource, ParseSourceError};
pub use store::{ImageStore, LocalError, OpenError, Removed, Usage};
pub use verify::Damage;
