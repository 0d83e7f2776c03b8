//! Whose functions these are, and what things are called there.

use costrel_store::Store;

use crate::reference::{is_account, is_name};

/// The account and the region of a catalog, and where its code is.
#[derive(Debug)]
pub struct Home {
    /// 12 digits.
    pub account_id: String,
    /// Such as `us-east-1`.
    pub region: String,
    /// The zip files.
    pub(crate) code: Store,
}

/// A version of a layer as its ARN names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerArn {
    /// 12 digits.
    pub account_id: String,
    /// The region.
    pub region: String,
    /// The layer's name.
    pub name: String,
    /// The version, from 1; none for the layer itself.
    pub version: Option<u64>,
}

impl Home {
    /// AWS's partition of the region: the second part of an ARN.
    #[must_use]
    pub fn partition(&self) -> &'static str {
        match self.region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("us") if self.region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    fn arn(&self, rest: &str) -> String {
        format!("arn:{}:lambda:{}:{}:{rest}", self.partition(), self.region, self.account_id)
    }

    /// The ARN of a function, of a version of it, or of an alias.
    #[must_use]
    pub fn function_arn(&self, name: &str, qualifier: Option<&str>) -> String {
        match qualifier {
            Some(qualifier) => self.arn(&format!("function:{name}:{qualifier}")),
            None => self.arn(&format!("function:{name}")),
        }
    }

    /// The ARN of a layer.
    #[must_use]
    pub fn layer_arn(&self, name: &str) -> String {
        self.arn(&format!("layer:{name}"))
    }

    /// The ARN of a version of a layer.
    #[must_use]
    pub fn layer_version_arn(&self, name: &str, version: u64) -> String {
        self.arn(&format!("layer:{name}:{version}"))
    }

    /// The ARN of a code signing configuration.
    #[must_use]
    pub fn signing_arn(&self, id: &str) -> String {
        self.arn(&format!("code-signing-config:{id}"))
    }
}

impl LayerArn {
    /// Takes an ARN of a layer or of a version of one apart.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (region, account_id, name, version) = match parts[..] {
            ["arn", _, "lambda", region, account, "layer", name] => (region, account, name, None),
            ["arn", _, "lambda", region, account, "layer", name, version] => {
                (region, account, name, Some(version.parse().ok()?))
            }
            _ => return None,
        };
        (is_account(account_id) && is_name(name) && name.len() <= 140).then(|| Self {
            account_id: account_id.to_owned(),
            region: region.to_owned(),
            name: name.to_owned(),
            version,
        })
    }
}
