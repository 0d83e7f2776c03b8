//! Names of images in registries, in docker's syntax and with docker's normalisation.

use std::{fmt, str::FromStr};

use costrel_store::{Digest, DigestError};
use serde::{Deserialize, Serialize};

/// The longest path of a repository, in bytes.
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;
const DOCKER_HUB: &str = "docker.io";

/// The name of an image: `[registry/]repository[:tag][@digest]`.
///
/// Follows the grammar of docker's `distribution/reference`. What is left out is filled in as
/// docker does: `alpine` is `docker.io/library/alpine:latest`. Printed in full.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, thiserror::Error)]
pub enum ParseReferenceError {
    /// Nothing, or nothing before the tag.
    #[error("{text:?} is not an image name: the repository is missing")]
    Empty {
        /// The text.
        text: String,
    },
    /// docker reserves 64 hex digits for the identifiers of local images.
    #[error("{text:?} is not an image name: 64 hex digits cannot name a repository")]
    Identifier {
        /// The text.
        text: String,
    },
    /// The host or its port.
    #[error("{text:?} is not an image name: {registry:?} is not a registry's host[:port]")]
    Registry {
        /// The text.
        text: String,
        /// The part before the first slash.
        registry: String,
    },
    /// Docker's most frequent mistake, with a message of its own.
    #[error("{text:?} is not an image name: repositories are lower-case, {repository:?} is not")]
    UpperCase {
        /// The text.
        text: String,
        /// The repository's path.
        repository: String,
    },
    /// The repository's path.
    #[error(
        "{text:?} is not an image name: {repository:?} is not a repository (lower-case letters \
         and digits, separated by single . or _, by __, by -, or by /)"
    )]
    Repository {
        /// The text.
        text: String,
        /// The repository's path.
        repository: String,
    },
    /// More than 255 bytes.
    #[error("{text:?} is not an image name: its repository is longer than 255 characters")]
    TooLong {
        /// The text.
        text: String,
    },
    /// The tag.
    #[error(
        "{text:?} is not an image name: {tag:?} is not a tag (up to 128 letters, digits, _, . \
         and -, not starting with . or -)"
    )]
    Tag {
        /// The text.
        text: String,
        /// The part after the colon.
        tag: String,
    },
    /// The digest.
    #[error("{text:?} is not an image name")]
    Digest {
        /// The text.
        text: String,
        /// What is wrong with the part after the `@`.
        #[source]
        source: DigestError,
    },
}

impl Reference {
    /// The registry's host, and port where one was given; `docker.io` for Docker's own.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The host, and port, that serves the registry's API.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// The repository's path within its registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. At least one of tag and digest is there.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or of the index that is meant.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The last part of the URL of its manifest: the digest where there is one, else the tag.
    #[must_use]
    pub fn version(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same repository's image of this digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The shortest text that means the same: `alpine:latest`, as docker prints names.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(path) = full.strip_prefix("docker.io/") else { return full };
        let short = path.strip_prefix("library/").unwrap_or(path);
        // Without the registry, `a.b/c` and `localhost/c` are on others, and `library/a/b` would
        // lose a part that `a/b` does not get back.
        let same = |short: &&str| short.parse().is_ok_and(|short: Self| short == *self);
        [short, path].into_iter().find(same).unwrap_or(&full).to_owned()
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        let whole = || text.to_owned();
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|source| ParseReferenceError::Digest { text: whole(), source })?;
                (rest, Some(digest))
            }
        };
        // A colon before the last slash belongs to a port.
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, mut tag) = match rest[path_start..].find(':') {
            None => (rest, None),
            Some(colon) => {
                let (name, tag) = rest.split_at(path_start + colon);
                (name, Some(tag[1..].to_owned()))
            }
        };
        if name.is_empty() {
            return Err(ParseReferenceError::Empty { text: whole() });
        }
        if name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseReferenceError::Identifier { text: whole() });
        }
        let (registry, mut repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(ParseReferenceError::Registry {
                text: whole(),
                registry: registry.to_owned(),
            });
        }
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        let official;
        if registry == DOCKER_HUB && !repository.is_empty() && !repository.contains('/') {
            official = format!("library/{repository}");
            repository = &official;
        }
        check_repository(text, repository)?;
        if let Some(tag) = &tag
            && !is_tag(tag)
        {
            return Err(ParseReferenceError::Tag { text: whole(), tag: tag.clone() });
        }
        if tag.is_none() && digest.is_none() {
            tag = Some("latest".to_owned());
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

/// The first component is a registry if it cannot be a repository's: docker's rule.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let digit = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if address.is_empty() || !address.bytes().all(digit) {
                return false;
            }
            match port.strip_prefix(':') {
                None if port.is_empty() => return true,
                None => return false,
                Some(port) => (None, Some(port)),
            }
        }
        None => match text.split_once(':') {
            None => (Some(text), None),
            Some((host, port)) => (Some(host), Some(port)),
        },
    };
    let is_component = |component: &str| {
        !component.is_empty()
            && !component.starts_with('-')
            && !component.ends_with('-')
            && component.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(is_component))
        && port
            .is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_repository(text: &str, repository: &str) -> Result<(), ParseReferenceError> {
    let (text, path) = (text.to_owned(), repository.to_owned());
    if repository.is_empty() {
        Err(ParseReferenceError::Empty { text })
    } else if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Err(ParseReferenceError::UpperCase { text, repository: path })
    } else if !repository.split('/').all(is_path_component) {
        Err(ParseReferenceError::Repository { text, repository: path })
    } else if repository.len() > LONGEST_REPOSITORY {
        Err(ParseReferenceError::TooLong { text })
    } else {
        Ok(())
    }
}

/// Runs of `[a-z0-9]` with one of `.`, `_`, `__` or dashes between them.
fn is_path_component(component: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_letter(*first)
        && is_letter(*last)
        && component
            .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
            .all(|separator| {
                matches!(separator, "" | "." | "_" | "__")
                    || separator.bytes().all(|byte| byte == b'-')
            })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Reference {
    type Error = ParseReferenceError;

    fn try_from(text: String) -> Result<Self, ParseReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests;
