//! Layers: zip files that functions share.

use std::collections::BTreeMap;
use std::sync::Arc;

use costrel_store::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, LayerArn, Missing, Page, PageRequest, Permission, PolicyDocument,
    UploadedCode, Violations, policy::Policy, reference::is_name, version::timestamp,
};

const LAYER_PATTERN: &str =
    r"(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";

/// A request to publish a version of a layer.
#[derive(Debug)]
pub struct PublishLayer {
    /// The layer's name or ARN.
    pub layer: String,
    /// Up to 256 characters.
    pub description: String,
    /// Up to 512 characters.
    pub license: Option<String>,
    /// Runtimes that it is for, at most 15; told, not checked.
    pub runtimes: Vec<String>,
    /// Architectures that it is for, at most 2; told, not checked.
    pub architectures: Vec<String>,
    /// Its files.
    pub code: UploadedCode,
}

/// Which layers are listed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LayerFilter {
    /// Those that are for this runtime.
    pub runtime: Option<String>,
    /// Those that are for this architecture.
    pub architecture: Option<String>,
}

/// A version of a layer, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerDescription {
    /// The layer's ARN.
    pub layer_arn: String,
    /// The version's ARN.
    pub arn: String,
    /// Its number.
    pub version: u64,
    /// Its description.
    pub description: String,
    /// Its license.
    pub license: Option<String>,
    /// Runtimes that it is for.
    pub runtimes: Vec<String>,
    /// Architectures that it is for.
    pub architectures: Vec<String>,
    /// When it was published, as Lambda writes it.
    pub created: String,
    /// Its zip file.
    pub digest: Digest,
    /// Its zip file's size in bytes.
    pub size: u64,
}

/// A layer with its newest version that fits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayerSummary {
    /// Its name.
    pub name: String,
    /// The version.
    pub latest: LayerDescription,
}

/// What the catalog knows of one layer: the content of its file. It stays when all versions are
/// gone, so that no number is given twice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) name: String,
    pub(crate) last_version: u64,
    pub(crate) versions: BTreeMap<u64, LayerVersion>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct LayerVersion {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) unzipped_size: u64,
    description: String,
    license: Option<String>,
    runtimes: Vec<String>,
    architectures: Vec<String>,
    created: Timestamp,
    #[serde(default)]
    policy: Policy,
}

impl LayerRecord {
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.versions.values().map(|version| version.digest)
    }
}

impl LayerVersion {
    fn fits(&self, filter: &LayerFilter) -> bool {
        let among = |wanted: &Option<String>, all: &[String]| {
            wanted.as_ref().is_none_or(|wanted| all.contains(wanted))
        };
        among(&filter.runtime, &self.runtimes) && among(&filter.architecture, &self.architectures)
    }
}

impl Catalog {
    /// Publishes a version of a layer.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn publish_layer(&self, request: PublishLayer) -> Result<LayerDescription, CatalogError> {
        let PublishLayer { layer, description, license, runtimes, architectures, code } = request;
        let name = self.layer_name(&layer)?;
        let mut violations = Violations::new();
        violations.length("description", &description, 0, 256);
        violations.length("licenseInfo", license.as_deref().unwrap_or_default(), 0, 512);
        if runtimes.len() > 15 {
            let constraint = "have length less than or equal to 15";
            violations.add("compatibleRuntimes", runtimes.join(", "), constraint);
        }
        for architecture in &architectures {
            violations.one_of("compatibleArchitectures", architecture, &["x86_64", "arm64"]);
        }
        violations.check()?;
        let version = LayerVersion {
            digest: code.digest,
            size: code.size,
            unzipped_size: code.unzipped_size,
            description,
            license,
            runtimes,
            architectures,
            created: Timestamp::now(),
            policy: Policy::default(),
        };
        let _writing = self.writing();
        let record = self.state().layers.get(&name).map(|record| (**record).clone());
        let mut record = record.unwrap_or_else(|| LayerRecord {
            name: name.clone(),
            last_version: 0,
            versions: BTreeMap::new(),
        });
        record.last_version += 1;
        let number = record.last_version;
        let description = self.describe_layer(&name, number, &version);
        record.versions.insert(number, version);
        self.install_layer(record)?;
        Ok(description)
    }

    fn install_layer(&self, record: LayerRecord) -> Result<(), CatalogError> {
        self.inner.layers.write(&record.name, &record)?;
        self.update_state(|state| state.layers.insert(record.name.clone(), Arc::new(record)));
        Ok(())
    }

    /// A version of a layer, named by the layer's name or ARN.
    ///
    /// # Errors
    /// [`Missing::Resource`]; [`CatalogError::Violations`] for a name that is none.
    pub fn get_layer(&self, layer: &str, version: i64) -> Result<LayerDescription, CatalogError> {
        let name = self.layer_name(layer)?;
        self.with_layer(&name, version, |number, found| {
            Ok(self.describe_layer(&name, number, found))
        })
    }

    /// A version of a layer, by its ARN.
    ///
    /// # Errors
    /// As [`Catalog::get_layer`].
    pub fn get_layer_by_arn(&self, arn: &str) -> Result<LayerDescription, CatalogError> {
        let parsed = LayerArn::parse(arn);
        let Some((parsed, number)) = parsed.and_then(|arn| Some((arn.clone(), arn.version?)))
        else {
            let pattern =
                r"(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)";
            let constraint = format!("satisfy regular expression pattern: {pattern}");
            return Err(Violations::one("arn", arn, &constraint).into());
        };
        if arn != self.home().layer_version_arn(&parsed.name, number) {
            return Err(Missing::Resource.into());
        }
        self.get_layer(&parsed.name, i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn with_layer<T>(
        &self,
        name: &str,
        version: i64,
        read: impl FnOnce(u64, &LayerVersion) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let state = self.state();
        let number = u64::try_from(version).map_err(|_| Missing::Resource)?;
        let record = state.layers.get(name).ok_or(Missing::Resource)?;
        read(number, record.versions.get(&number).ok_or(Missing::Resource)?)
    }

    /// All layers that have a version that fits, by name.
    ///
    /// # Errors
    /// As all pages.
    pub fn list_layers(
        &self,
        filter: &LayerFilter,
        page: &PageRequest,
    ) -> Result<Page<LayerSummary>, CatalogError> {
        let state = self.state();
        let items = state.layers.iter().filter_map(|(name, record)| {
            let (number, version) =
                record.versions.iter().rev().find(|(_, version)| version.fits(filter))?;
            let latest = self.describe_layer(name, *number, version);
            Some((name.clone(), LayerSummary { name: name.clone(), latest }))
        });
        page.page("ListLayers", 50, items)
    }

    /// All versions of a layer that fit, the newest first. None of a layer that is not there.
    ///
    /// # Errors
    /// As all pages, and for a name that is none.
    pub fn list_layer_versions(
        &self,
        layer: &str,
        filter: &LayerFilter,
        page: &PageRequest,
    ) -> Result<Page<LayerDescription>, CatalogError> {
        let name = self.layer_name(layer)?;
        let state = self.state();
        let versions =
            state.layers.get(&name).into_iter().flat_map(|record| record.versions.iter());
        let items =
            versions.rev().filter(|(_, version)| version.fits(filter)).map(|(number, version)| {
                let key = format!("{:020}", u64::MAX - number);
                (key, self.describe_layer(&name, *number, version))
            });
        page.page("ListLayerVersions", 50, items.collect::<Vec<_>>())
    }

    /// Deletes a version of a layer. Functions that use it go on. One that is not there is deleted
    /// without a word.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn delete_layer(&self, layer: &str, version: i64) -> Result<(), CatalogError> {
        let name = self.layer_name(layer)?;
        let writing = self.writing();
        let record = self.state().layers.get(&name).map(|record| (**record).clone());
        let Some(mut record) = record else { return Ok(()) };
        let removed =
            u64::try_from(version).ok().and_then(|number| record.versions.remove(&number));
        if let Some(removed) = removed {
            self.install_layer(record)?;
            self.collect(&writing, [removed.digest])?;
        }
        Ok(())
    }

    /// Adds a statement to the policy of a version of a layer. Returns it, as JSON, and the policy's
    /// revision.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn add_layer_permission(
        &self,
        layer: &str,
        version: i64,
        permission: &Permission,
    ) -> Result<(String, String), CatalogError> {
        self.change_layer(layer, version, |arn, version| {
            let statement = version.policy.add(permission, arn, "GetLayerVersionPolicy")?;
            Ok((statement, version.policy.revision_id.clone()))
        })
    }

    /// The policy of a version of a layer.
    ///
    /// # Errors
    /// [`Missing::Policy`] where nothing was allowed, and as [`Catalog::get_layer`].
    pub fn layer_policy(&self, layer: &str, version: i64) -> Result<PolicyDocument, CatalogError> {
        let name = self.layer_name(layer)?;
        self.with_layer(&name, version, |_, version| match version.policy.statements.is_empty() {
            true => Err(Missing::Policy.into()),
            false => Ok(version.policy.document()),
        })
    }

    /// Removes a statement from the policy of a version of a layer.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn remove_layer_permission(
        &self,
        layer: &str,
        version: i64,
        statement_id: &str,
        revision_id: Option<&str>,
    ) -> Result<(), CatalogError> {
        self.change_layer(layer, version, |_, version| {
            version.policy.remove(statement_id, revision_id, "GetLayerVersionPolicy")
        })
    }

    fn change_layer<T>(
        &self,
        layer: &str,
        version: i64,
        edit: impl FnOnce(&str, &mut LayerVersion) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let name = self.layer_name(layer)?;
        let _writing = self.writing();
        let record = self.state().layers.get(&name).map(|record| (**record).clone());
        let mut record = record.ok_or(Missing::Resource)?;
        let number = u64::try_from(version).map_err(|_| Missing::Resource)?;
        let arn = self.home().layer_version_arn(&name, number);
        let version = record.versions.get_mut(&number).ok_or(Missing::Resource)?;
        let value = edit(&arn, version)?;
        self.install_layer(record)?;
        Ok(value)
    }

    /// The name of a layer of ours that is named so, or by its ARN.
    fn layer_name(&self, layer: &str) -> Result<String, CatalogError> {
        if is_name(layer) && layer.len() <= 140 {
            return Ok(layer.to_owned());
        }
        match LayerArn::parse(layer) {
            Some(arn) if arn.version.is_none() => {
                if layer == self.home().layer_arn(&arn.name) {
                    Ok(arn.name)
                } else {
                    Err(Missing::Resource.into())
                }
            }
            _ => {
                let constraint = format!("satisfy regular expression pattern: {LAYER_PATTERN}");
                Err(Violations::one("layerName", layer, &constraint).into())
            }
        }
    }

    fn describe_layer(&self, name: &str, number: u64, version: &LayerVersion) -> LayerDescription {
        LayerDescription {
            layer_arn: self.home().layer_arn(name),
            arn: self.home().layer_version_arn(name, number),
            version: number,
            description: version.description.clone(),
            license: version.license.clone(),
            runtimes: version.runtimes.clone(),
            architectures: version.architectures.clone(),
            created: timestamp(version.created),
            digest: version.digest,
            size: version.size,
        }
    }
}
