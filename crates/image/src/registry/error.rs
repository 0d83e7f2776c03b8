//! Why registries give nothing that can be used.

use std::{error::Error as _, io, path::PathBuf};

use costrel_store::Digest;
use reqwest::Url;

use super::CredentialsError;
use crate::manifest::LARGEST_MANIFEST;

/// Why a registry gives no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It is not reached, or the connection breaks.
    #[error("cannot talk to {host}")]
    Transport {
        /// The host, which may be one that the registry redirects to.
        host: String,
        /// What failed.
        #[source]
        source: reqwest::Error,
    },
    /// It does not have it.
    #[error("{host} answers {answer}")]
    NotFound {
        /// The registry.
        host: String,
        /// Its answer.
        answer: String,
    },
    /// It refuses.
    #[error("{host} answers {answer}")]
    Status {
        /// The registry.
        host: String,
        /// Its answer.
        answer: String,
    },
    /// It wants credentials and there are none.
    #[error("{host} wants credentials and none are configured for it: {answer}")]
    NoCredentials {
        /// The registry.
        host: String,
        /// Its answer.
        answer: String,
    },
    /// It does not accept the credentials, or the repository is not for everybody.
    #[error("{host} does not accept the authorization: {answer}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// Its answer.
        answer: String,
    },
    /// The server that gives out its tokens gives none.
    #[error("{host} gives no token, it answers {answer}")]
    Token {
        /// The token server.
        host: String,
        /// Its answer.
        answer: String,
    },
    /// It names a token server that must not be asked.
    #[error("the token server {realm:?} is not asked: it is not reached over HTTPS")]
    Realm {
        /// The server, as the registry names it.
        realm: String,
    },
    /// What it sends is not what was asked for.
    #[error("{host} sends a manifest with the digest {found} for {wanted}")]
    ManifestDigest {
        /// The registry.
        host: String,
        /// What was asked for.
        wanted: Digest,
        /// What was sent.
        found: Digest,
    },
    /// Nothing that large is a manifest.
    #[error("{host} sends a manifest of more than {LARGEST_MANIFEST} bytes")]
    ManifestSize {
        /// The registry.
        host: String,
    },
    /// Credentials cannot be looked up.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// An extra root certificate cannot be read.
    #[error("cannot read the root certificates in {}", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The settings make no HTTP client: a certificate or the URL of a proxy is wrong, or the
    /// system has no root certificates.
    #[error("cannot set up the connection to {host}")]
    Setup {
        /// The registry.
        host: String,
        /// What is wrong.
        #[source]
        source: reqwest::Error,
    },
    /// Its host makes no URL.
    #[error("{host:?} is not a host")]
    Host {
        /// The registry.
        host: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed soon. A host that nobody knows stays unknown.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if !is_unknown_host(source))
    }

    /// Whether there was a connection, but it did not last.
    pub(super) fn broke_off(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if !source.is_connect())
    }
}

/// Whether the resolver says for good that there is no such name. Only its text tells, which is in
/// English, as this program sets no locale.
fn is_unknown_host(error: &reqwest::Error) -> bool {
    let is_final = |text: String| {
        text.starts_with("failed to lookup address information") && !text.contains("Temporary")
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        if is_final(error.to_string()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Without the URL, which may be signed.
pub(super) fn transport(host: &str, error: reqwest::Error) -> RegistryError {
    let host = error.url().and_then(Url::host_str).unwrap_or(host).to_owned();
    RegistryError::Transport { host, source: error.without_url() }
}
