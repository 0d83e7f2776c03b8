//! Registries over HTTP, by the OCI distribution specification: the part that pulling needs.

mod answer;
mod blob;
mod client;
mod credentials;
mod token;

pub use blob::BlobError;
pub(crate) use blob::fetch;
pub use client::RegistryError;
pub(crate) use client::{FetchedManifest, Registry};
pub use credentials::{AuthFiles, CredentialsError};
