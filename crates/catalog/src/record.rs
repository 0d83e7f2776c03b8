//! What the catalog knows of one function: the content of its file.

use std::{collections::BTreeMap, sync::Arc};

use costrel_store::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Alias, Code, EventInvoke, Home, LayerContent, Missing, RecursiveLoop, RuntimeManagement,
    UrlConfig, Version, VersionContent, policy::Policy,
};

/// A function: `$LATEST`, its versions, and all that hangs on them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct FunctionRecord {
    pub(crate) name: Arc<str>,
    pub(crate) latest: Arc<VersionContent>,
    #[serde(default)]
    pub(crate) versions: BTreeMap<u64, Arc<VersionContent>>,
    /// The highest number that was ever given: a deleted version's is not given again.
    #[serde(default)]
    pub(crate) last_version: u64,
    /// What `$LATEST` was when it was published last.
    #[serde(default)]
    pub(crate) published: Option<Published>,
    #[serde(default)]
    pub(crate) aliases: BTreeMap<String, Alias>,
    /// By qualifier; the function's own by the empty one. So are the next ones.
    #[serde(default)]
    pub(crate) policies: BTreeMap<String, Policy>,
    #[serde(default)]
    pub(crate) urls: BTreeMap<String, UrlConfig>,
    #[serde(default)]
    pub(crate) event_invoke: BTreeMap<String, EventInvoke>,
    #[serde(default)]
    pub(crate) runtime_management: BTreeMap<String, RuntimeManagement>,
    #[serde(default)]
    pub(crate) provisioned: BTreeMap<String, Provisioned>,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) reserved: Option<u32>,
    /// The ARN of a code signing configuration.
    #[serde(default)]
    pub(crate) signing: Option<String>,
    #[serde(default)]
    pub(crate) recursive_loop: RecursiveLoop,
}

/// A version, and the digest of what it was published from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) version: u64,
    pub(crate) source: Digest,
}

/// Provisioned concurrency that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Provisioned {
    pub(crate) requested: u32,
    pub(crate) last_modified: Timestamp,
}

impl FunctionRecord {
    /// A function that has only `$LATEST`.
    pub(crate) fn new(name: &str, latest: VersionContent) -> Self {
        Self {
            name: name.into(),
            latest: Arc::new(latest),
            versions: BTreeMap::new(),
            last_version: 0,
            published: None,
            aliases: BTreeMap::new(),
            policies: BTreeMap::new(),
            urls: BTreeMap::new(),
            event_invoke: BTreeMap::new(),
            runtime_management: BTreeMap::new(),
            provisioned: BTreeMap::new(),
            tags: BTreeMap::new(),
            reserved: None,
            signing: None,
            recursive_loop: RecursiveLoop::default(),
        }
    }

    /// All versions, `$LATEST` first.
    pub(crate) fn all_versions(&self) -> impl Iterator<Item = (Version, &Arc<VersionContent>)> {
        let numbered =
            self.versions.iter().map(|(number, content)| (Version::Number(*number), content));
        std::iter::once((Version::Latest, &self.latest)).chain(numbered)
    }

    pub(crate) fn content(&self, version: Version) -> Option<&Arc<VersionContent>> {
        match version {
            Version::Latest => Some(&self.latest),
            Version::Number(number) => self.versions.get(&number),
        }
    }

    /// The version that a qualifier names, an alias's main one; without one, `$LATEST`.
    pub(crate) fn version_of(
        &self,
        home: &Home,
        qualifier: Option<&str>,
    ) -> Result<Version, Missing> {
        let Some(qualifier) = qualifier else { return Ok(Version::Latest) };
        let missing = || Missing::Function(home.function_arn(&self.name, Some(qualifier)));
        let version = match Version::parse(qualifier) {
            Some(version) => version,
            None => self.aliases.get(qualifier).ok_or_else(missing)?.version(),
        };
        self.content(version).map(|_| version).ok_or_else(missing)
    }

    /// Refuses a qualifier that names neither a version nor an alias.
    pub(crate) fn check_qualifier(
        &self,
        home: &Home,
        qualifier: Option<&str>,
    ) -> Result<(), Missing> {
        self.version_of(home, qualifier).map(|_| ())
    }

    /// The zip files that it needs.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.all_versions().flat_map(|(_, content)| {
            let code = match &content.code {
                Code::Zip { digest, .. } => Some(*digest),
                Code::Image { .. } | Code::Directory { .. } | Code::File { .. } => None,
            };
            let layers =
                content.configuration.layers.iter().filter_map(|layer| match layer.content {
                    LayerContent::Stored(digest) => Some(digest),
                    LayerContent::Path(_) => None,
                });
            code.into_iter().chain(layers)
        })
    }
}
