//! Registries over HTTP, by the OCI distribution specification: the part that pulling needs.

mod answer;
mod blob;
mod client;
mod connection;
mod credentials;
mod error;
mod token;

pub use blob::BlobError;
pub(crate) use blob::fetch;
pub(crate) use client::{FetchedManifest, Registry};
pub use credentials::{AuthFiles, CredentialsError};
pub use error::RegistryError;
