//! One version of a function: its configuration, its code, its state.

use std::{fmt, path::PathBuf, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use costrel_store::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Configuration, Home};

/// Which version of a function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Version {
    /// `$LATEST`, the one that can be changed.
    Latest,
    /// A published one, from 1.
    Number(u64),
}

impl Version {
    /// Reads `$LATEST` or a number as AWS writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "$LATEST" => Some(Self::Latest),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(Self::Number)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("$LATEST"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

/// One version of a function, as it was when it was asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FunctionVersion {
    /// Whose it is.
    pub home: Arc<Home>,
    /// The function's name.
    pub name: Arc<str>,
    /// Which version it is.
    pub version: Version,
    /// What it is.
    pub content: Arc<VersionContent>,
}

/// What a version of a function is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VersionContent {
    /// A new one for each change: a UUID.
    pub revision_id: String,
    /// Its configuration.
    pub configuration: Configuration,
    /// Its code.
    pub code: Code,
    /// When configuration or code changed last.
    pub last_modified: Timestamp,
    /// Whether it can be invoked.
    pub state: State,
}

/// Where a version's code is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A zip file in the catalog.
    Zip {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What it unpacks to, in bytes.
        unzipped_size: u64,
    },
    /// An image, as its owner names it.
    Image {
        /// A reference or a source of images ([`costrel_image::ImageSource`]).
        uri: String,
    },
    /// A directory on the host, as it is when an instance starts. Declared functions only.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What stands for its content, for whoever has to see a change.
        stamp: String,
        /// What its runtime comes in, in place of the runtime's own image: a source of images.
        image: Option<String>,
    },
    /// A zip file on the host. Declared functions only.
    File {
        /// Where it is.
        path: PathBuf,
        /// What stands for its content.
        stamp: String,
        /// As for directories.
        image: Option<String>,
    },
}

/// Whether a version can be invoked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can.
    #[default]
    Active,
    /// Not yet: its snapshot is being made.
    Pending,
    /// Its snapshot could not be made.
    Failed {
        /// AWS's `StateReasonCode`.
        code: String,
        /// What it says.
        reason: String,
    },
}

impl Code {
    /// The size of what was uploaded, in bytes; 0 for all else.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Zip { size, .. } => *size,
            Self::Image { .. } | Self::Directory { .. } | Self::File { .. } => 0,
        }
    }

    /// What the code itself unpacks to, as far as that counts against Lambda's limit, in bytes.
    #[must_use]
    pub fn unzipped_size(&self) -> u64 {
        match self {
            Self::Zip { unzipped_size, .. } => *unzipped_size,
            Self::Image { .. } | Self::Directory { .. } | Self::File { .. } => 0,
        }
    }

    /// `CodeSha256`: base64 of a zip file's digest; hex digits for an image; what stands for the
    /// content, hashed, for what is on the host.
    #[must_use]
    pub fn sha256(&self) -> String {
        match self {
            Self::Zip { digest, .. } => BASE64_STANDARD.encode(digest.as_bytes()),
            Self::Image { uri } => match uri.rsplit_once("@sha256:") {
                Some((_, hex)) => hex.to_owned(),
                None => Digest::of(uri.as_bytes()).hex(),
            },
            Self::Directory { stamp, .. } | Self::File { stamp, .. } => {
                BASE64_STANDARD.encode(Digest::of(stamp.as_bytes()).as_bytes())
            }
        }
    }
}

impl VersionContent {
    /// `LastModified`, as in `2026-01-01T00:00:00.000+0000`.
    #[must_use]
    pub fn last_modified_text(&self) -> String {
        timestamp(self.last_modified)
    }
}

impl FunctionVersion {
    /// The function's ARN for `$LATEST`, the version's otherwise.
    #[must_use]
    pub fn arn(&self) -> String {
        match self.version {
            Version::Latest => self.function_arn(),
            Version::Number(_) => self.qualified_arn(),
        }
    }

    /// The function's ARN, without a version.
    #[must_use]
    pub fn function_arn(&self) -> String {
        self.home.function_arn(&self.name, None)
    }

    /// The ARN with the version, be it `$LATEST`.
    #[must_use]
    pub fn qualified_arn(&self) -> String {
        self.home.function_arn(&self.name, Some(&self.version.to_string()))
    }

    /// Its configuration.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.content.configuration
    }
}

/// A time as Lambda writes it, to the millisecond.
pub(crate) fn timestamp(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%3f+0000").to_string()
}

/// A new revision.
pub(crate) fn new_revision() -> String {
    uuid::Uuid::new_v4().to_string()
}
