//! OCI images from registries, layouts and archives, in a content store.
//!
//! ```text
//! ImageSource ─► ImageStore::obtain ─┬─► pull ───► registry ──┐
//!                                    └─► import ─► tree ──────┴─► blobs + record ─► Image
//! ```
//!
//! An [`ImageStore`] keeps blobs by digest and small records that lead from a [`Reference`] and
//! a [`Platform`] to them. Whatever comes in is hashed as it is written, and is in the store
//! whole or not at all; an [`Image`] holds leases on its blobs, so that they stay as long as it
//! is used.
//!
//! Documents are `oci-spec`'s; the registry client is our own, on `reqwest`, not `oci-client`. The
//! requests are few: a manifest, a blob from some byte on, a token. What is hard lies between them
//! and has to be in one hand: a transfer that goes on where it broke off, with the state of its
//! hash; which failures are tried again, and for how long; one token for parallel requests; to
//! which host credentials may go after a redirect; proxies and certificates as the caller says.
//!
//! Invariants: nothing here prints or reads the environment (see
//! [`RegistryConfig::from_variables`]); files are read, written and hashed, and locks are waited
//! for, on threads that may block; what a registry, a layout or an archive says is never trusted
//! beyond its digest, and never panics.

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
