//! Platforms that images are built for, in the terms of Go's `GOOS` and `GOARCH`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An operating system and a processor architecture, with its variant where it has several.
///
/// Kept in the form that containerd compares: `aarch64` is `arm64`, `arm64/v8` has no variant,
/// `arm` is `arm/v7`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that names no platform.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a platform of the form os/architecture[/variant], such as linux/arm64")]
pub struct ParsePlatformError {
    /// The text.
    pub text: String,
}

impl Platform {
    /// A platform in its normal form.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = if os == "macos" { "darwin".to_owned() } else { os.to_ascii_lowercase() };
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.filter(|text| !text.is_empty()).map(str::to_ascii_lowercase);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", _) => ("amd64", variant),
            ("i386" | "i686" | "x86", _) => ("386", None),
            ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
            ("aarch64" | "arm64", _) => ("arm64", variant),
            ("armhf", _) | ("arm", None) => ("arm", Some("v7".to_owned())),
            ("armel", _) => ("arm", Some("v6".to_owned())),
            ("arm", Some("5" | "6" | "7" | "8")) => ("arm", variant.map(|text| format!("v{text}"))),
            (other, _) => (other, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant }
    }

    /// What the virtual machines of this computer run: Linux on its processor.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// The operating system, as `GOOS`.
    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture, as `GOARCH`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant, such as `v7` of `arm`.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well `offered` serves a machine of this platform: 0 is exact, more is older, and
    /// none is not at all. A machine runs what was built for older variants.
    #[must_use]
    pub fn distance(&self, offered: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        match (self.level(), offered.level()) {
            (Some(ours), Some(theirs)) => ours.checked_sub(theirs),
            _ => (self.variant == offered.variant).then_some(0),
        }
    }

    /// The variant as a number that grows with what the processor can do; `v8.2` is 802.
    fn level(&self) -> Option<u32> {
        let Some(variant) = &self.variant else {
            return match self.architecture.as_str() {
                "amd64" => Some(100),
                "arm64" => Some(800),
                _ => None,
            };
        };
        let (major, minor) = match variant.strip_prefix('v')?.split_once('.') {
            None => (variant.strip_prefix('v')?, "0"),
            Some(parts) => parts,
        };
        let (major, minor): (u8, u8) = (major.parse().ok()?, minor.parse().ok()?);
        Some(u32::from(major) * 100 + u32::from(minor).min(99))
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let is_part = |part: &&str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            !part.is_empty() && part.bytes().all(fits)
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_part) => {
                Ok(Self::new(os, architecture, None))
            }
            [os, architecture, variant] if parts.iter().all(is_part) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(ParsePlatformError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = ParsePlatformError;

    fn try_from(text: String) -> Result<Self, ParsePlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn has_one_form() {
        for (text, printed) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).to_string(), printed);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn serves_older_variants_but_not_newer() {
        for (ours, offered, distance) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64/v3", "linux/amd64", Some(200)),
            ("linux/amd64/v3", "linux/amd64/v2", Some(100)),
            ("linux/arm/v7", "linux/arm/v6", Some(100)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm64/v9", "linux/arm64", Some(100)),
            ("linux/arm64", "linux/amd64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/s390x", "linux/s390x", Some(0)),
        ] {
            assert_eq!(platform(ours).distance(&platform(offered)), distance, "{ours} {offered}");
        }
    }
}
