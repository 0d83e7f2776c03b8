//! Changes of `$LATEST`: its configuration and its code.

use std::{collections::BTreeMap, sync::Arc};

use costrel_image::ImageSource;
use jiff::Timestamp;

use crate::{
    ApplyOn, Catalog, CatalogError, Code, Configuration, FileSystem, FunctionReference,
    FunctionVersion, ImageOverrides, Invalid, LayerArn, LayerContent, LayerUse, Logging,
    PackageType, PreparationTicket, State, TracingMode, UploadedCode, Version, VersionContent,
    Violations, Vpc, record::FunctionRecord, validate::check_whole, version::new_revision,
};

/// What a request says of a configuration; what it does not say stays. Quantities are as they were
/// given: they are checked when they are applied.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConfigurationChange {
    /// A description.
    pub description: Option<String>,
    /// An execution role's ARN.
    pub role: Option<String>,
    /// A runtime's name.
    pub runtime: Option<String>,
    /// A handler.
    pub handler: Option<String>,
    /// In seconds.
    pub timeout: Option<i64>,
    /// In MB.
    pub memory_size: Option<i64>,
    /// In MB.
    pub ephemeral_storage: Option<i64>,
    /// All variables.
    pub environment: Option<BTreeMap<String, String>>,
    /// ARNs of all layers.
    pub layers: Option<Vec<String>>,
    /// The image's overrides, all of them.
    pub image: Option<ImageOverrides>,
    /// SnapStart.
    pub snap_start: Option<ApplyOn>,
    /// X-Ray.
    pub tracing: Option<TracingMode>,
    /// Logs.
    pub logging: Option<Logging>,
    /// The dead-letter target's ARN; empty for none.
    pub dead_letter: Option<String>,
    /// A key's ARN; empty for none.
    pub kms_key: Option<String>,
    /// A network; without subnets, none.
    pub vpc: Option<Vpc>,
    /// All file systems.
    pub file_systems: Option<Vec<FileSystem>>,
}

/// A request to change a function's code.
#[derive(Debug)]
pub struct UpdateCode {
    /// The new code.
    pub code: NewCode,
    /// Whether to publish it as a version.
    pub publish: bool,
    /// Whether only to check.
    pub dry_run: bool,
    /// What the caller believes the revision to be.
    pub revision_id: Option<String>,
}

/// Code as it comes with a request.
#[derive(Debug)]
pub enum NewCode {
    /// A zip file.
    Zip(UploadedCode),
    /// An image.
    Image(String),
}

impl NewCode {
    /// The package type it is of.
    #[must_use]
    pub fn package_type(&self) -> PackageType {
        match self {
            Self::Zip(_) => PackageType::Zip,
            Self::Image(_) => PackageType::Image,
        }
    }

    /// Checks it, and says where it is.
    pub(crate) fn code(&self) -> Result<Code, Invalid> {
        match self {
            Self::Zip(uploaded) => Ok(uploaded.code()),
            Self::Image(uri) => match ImageSource::parse(uri) {
                Ok(_) => Ok(Code::Image { uri: uri.clone() }),
                Err(error) => Err(Invalid::Image { uri: uri.clone(), reason: error.to_string() }),
            },
        }
    }
}

impl ConfigurationChange {
    /// Checks the change and makes it.
    pub(crate) fn apply(
        self,
        configuration: &mut Configuration,
        catalog: &Catalog,
    ) -> Result<(), CatalogError> {
        let mut violations = Violations::new();
        self.check_members(&mut violations);
        violations.check()?;
        // In bounds, as was just checked.
        let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        macro_rules! set {
            ($($field:ident: $convert:expr),* $(,)?) => {
                $(if let Some(value) = self.$field {
                    configuration.$field = $convert(value);
                })*
            };
        }
        if let Some(layers) = &self.layers {
            configuration.layers = catalog.layers_in_use(layers)?;
        }
        set! {
            description: |value| value, role: |value| value, runtime: Some, handler: Some,
            timeout: number, memory_size: number, ephemeral_storage: number,
            environment: |value| value, image: |value| value, snap_start: |value| value,
            tracing: |value| value, logging: |value| value, dead_letter: text, kms_key: text,
            vpc: |vpc: Vpc| Some(vpc).filter(|vpc| !vpc.subnet_ids.is_empty()),
            file_systems: |value| value,
        }
        check_whole(configuration)?;
        Ok(())
    }
}

impl Catalog {
    /// Changes `$LATEST`'s configuration.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn update_configuration(
        &self,
        reference: &FunctionReference,
        revision_id: Option<&str>,
        change: ConfigurationChange,
    ) -> Result<FunctionVersion, CatalogError> {
        self.change_uploaded(reference, |record| {
            check_revision(record, revision_id)?;
            let mut latest = (*record.latest).clone();
            change.apply(&mut latest.configuration, self)?;
            check_size(&latest)?;
            latest.touch();
            record.latest = Arc::new(latest);
            Ok::<_, CatalogError>(self.latest(record))
        })
    }

    /// Changes `$LATEST`'s code, and publishes it if asked to. Returns the new version, or what it
    /// would be.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn update_code(
        &self,
        reference: &FunctionReference,
        request: &UpdateCode,
    ) -> Result<FunctionVersion, CatalogError> {
        let edit = |record: &mut FunctionRecord| {
            check_revision(record, request.revision_id.as_deref())?;
            let mut latest = (*record.latest).clone();
            let (was, is) = (latest.configuration.package_type, request.code.package_type());
            if was != is {
                return Err(match was {
                    PackageType::Zip => Invalid::OtherPackage("ImageUri", "Zip"),
                    PackageType::Image => Invalid::OtherPackage("ZipFile", "Image"),
                }
                .into());
            }
            latest.code = request.code.code()?;
            check_size(&latest)?;
            latest.touch();
            record.latest = Arc::new(latest);
            if request.publish {
                return Ok::<_, CatalogError>(self.publish_record(record, None));
            }
            Ok((self.latest(record), false))
        };
        if request.dry_run {
            let mut copy = (*self.record(reference)?).clone();
            return edit(&mut copy).map(|(version, _)| version);
        }
        let (version, pending) = self.change_uploaded(reference, edit)?;
        if pending {
            self.begin_preparation(&version);
        }
        Ok(version)
    }

    pub(crate) fn latest(&self, record: &FunctionRecord) -> FunctionVersion {
        FunctionVersion {
            home: Arc::clone(self.home()),
            name: Arc::clone(&record.name),
            version: Version::Latest,
            content: Arc::clone(&record.latest),
        }
    }

    /// Finds layers by their ARNs.
    fn layers_in_use(&self, arns: &[String]) -> Result<Vec<LayerUse>, CatalogError> {
        if arns.len() > 5 {
            return Err(Invalid::LayerCount.into());
        }
        let state = self.state();
        let mut layers: Vec<(LayerArn, LayerUse)> = Vec::new();
        for arn in arns {
            let parsed = LayerArn::parse(arn).ok_or_else(|| Invalid::LayerArn(arn.clone()))?;
            let number = parsed.version.ok_or_else(|| Invalid::LayerArn(arn.clone()))?;
            if let Some((_, other)) = layers.iter().find(|(other, _)| other.name == parsed.name) {
                return Err(Invalid::SameLayer(arn.clone(), other.arn.clone()).into());
            }
            let ours = *arn == self.home().layer_version_arn(&parsed.name, number);
            let record = state.layers.get(&parsed.name).filter(|_| ours);
            let version = record
                .and_then(|record| record.versions.get(&number))
                .ok_or_else(|| Invalid::NoLayer(arn.clone()))?;
            let layer = LayerUse {
                arn: arn.clone(),
                content: LayerContent::Stored(version.digest),
                code_size: version.size,
                unzipped_size: version.unzipped_size,
            };
            layers.push((parsed, layer));
        }
        Ok(layers.into_iter().map(|(_, layer)| layer).collect())
    }

    pub(crate) fn begin_preparation(&self, version: &FunctionVersion) {
        let preparation = self.preparation();
        if let Some(preparation) = preparation
            && version.content.state == State::Pending
        {
            let version = Arc::new(version.clone());
            let ticket = PreparationTicket { catalog: self.clone(), version: Arc::clone(&version) };
            preparation.prepare(version, ticket);
        }
    }
}

impl VersionContent {
    /// Marks it as changed now.
    pub(crate) fn touch(&mut self) {
        self.revision_id = new_revision();
        self.last_modified = Timestamp::now();
    }
}

pub(crate) fn check_revision(
    record: &FunctionRecord,
    revision_id: Option<&str>,
) -> Result<(), CatalogError> {
    match revision_id {
        Some(given) if given != record.latest.revision_id => {
            Err(CatalogError::Revision { call: "GetFunction/GetAlias" })
        }
        _ => Ok(()),
    }
}

/// Code and layers together.
pub(crate) fn check_size(content: &VersionContent) -> Result<(), Invalid> {
    let layers = content.configuration.layers.iter().map(|layer| layer.unzipped_size);
    let total = layers.fold(content.code.unzipped_size(), u64::saturating_add);
    if total > costrel_rootfs::DEFAULT_UNPACKED_LIMIT {
        return Err(Invalid::Combined(total));
    }
    Ok(())
}
