//! Where an image comes from, in skopeo's notation: `transport:details`.

use std::path::PathBuf;

use crate::{ParseReferenceError, Reference};

/// A place that images are taken from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageSource {
    /// `docker://NAME`, or just `NAME`: a registry.
    Registry(Reference),
    /// `oci:DIRECTORY[:TAG]`: an OCI image layout.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which of its images, by `org.opencontainers.image.ref.name`.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar.
    LayoutArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images, by `org.opencontainers.image.ref.name`.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images.
        name: Option<Reference>,
    },
}

/// Why a text is no source of images.
#[derive(Debug, thiserror::Error)]
pub enum ParseSourceError {
    /// A transport without a path.
    #[error("{text:?} lacks the path after {transport:?}")]
    NoPath {
        /// The text.
        text: String,
        /// The transport.
        transport: &'static str,
    },
    /// One of skopeo's transports that is not supported.
    #[error(
        "the transport of {text:?} is not supported (docker:, oci:, oci-archive: and \
         docker-archive: are)"
    )]
    Transport {
        /// The text.
        text: String,
    },
    /// The name of an image is wrong.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
}

impl ImageSource {
    /// Parses `docker://NAME`, `oci:DIRECTORY[:TAG]`, `oci-archive:FILE[:TAG]`,
    /// `docker-archive:FILE[:NAME]`, or a plain name.
    ///
    /// # Errors
    /// [`ParseSourceError`].
    pub fn parse(text: &str) -> Result<Self, ParseSourceError> {
        let no_path = |transport| ParseSourceError::NoPath { text: text.to_owned(), transport };
        // As in skopeo, the first colon ends the path: a path that has one cannot be said.
        let split = |rest: &str, transport| match rest.split_once(':') {
            Some(("", _)) => Err(no_path(transport)),
            None if rest.is_empty() => Err(no_path(transport)),
            None | Some((_, "")) => Ok((PathBuf::from(rest.trim_end_matches(':')), None)),
            Some((path, detail)) => Ok((PathBuf::from(path), Some(detail.to_owned()))),
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = split(rest, "oci:")?;
            return Ok(Self::Layout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, tag) = split(rest, "oci-archive:")?;
            return Ok(Self::LayoutArchive { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, name) = split(rest, "docker-archive:")?;
            let name = name.map(|name| name.parse()).transpose()?;
            return Ok(Self::DockerArchive { path, name });
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        let foreign = ["containers-storage:", "dir:", "docker-daemon:", "ostree:", "tarball:"];
        if text.contains("://") || foreign.iter().any(|transport| text.starts_with(transport)) {
            return Err(ParseSourceError::Transport { text: text.to_owned() });
        }
        Ok(Self::Registry(text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_transports() {
        let parse = |text| ImageSource::parse(text).unwrap();
        let reference: Reference = "alpine:3".parse().unwrap();
        assert_eq!(parse("alpine:3"), ImageSource::Registry(reference.clone()));
        assert_eq!(parse("docker://alpine:3"), ImageSource::Registry(reference.clone()));
        assert_eq!(parse("oci:/a/b"), ImageSource::Layout { path: "/a/b".into(), tag: None });
        assert_eq!(
            parse("oci:a/b:v1"),
            ImageSource::Layout { path: "a/b".into(), tag: Some("v1".into()) }
        );
        assert_eq!(
            parse("oci-archive:a.tar"),
            ImageSource::LayoutArchive { path: "a.tar".into(), tag: None }
        );
        assert_eq!(
            parse("docker-archive:a.tar:alpine:3"),
            ImageSource::DockerArchive { path: "a.tar".into(), name: Some(reference) }
        );
    }

    #[test]
    fn refuses_others() {
        use ParseSourceError as E;
        for text in ["oci:", "oci::tag", "docker-archive:"] {
            assert!(matches!(ImageSource::parse(text), Err(E::NoPath { .. })), "{text}");
        }
        for text in ["docker-daemon:x", "https://example.com/x", "dir:/x"] {
            assert!(matches!(ImageSource::parse(text), Err(E::Transport { .. })), "{text}");
        }
        assert!(matches!(ImageSource::parse("Alpine"), Err(E::Reference(_))));
    }
}
