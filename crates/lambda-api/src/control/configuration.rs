//! A function's configuration on the wire, in both directions.

use std::collections::BTreeMap;

use costrel_catalog::{
    ApplyOn, Code, ConfigurationChange, FileSystem, FunctionVersion, ImageOverrides, Invalid,
    LogFormat, Logging, PackageType, State, TracingMode, Version, Violations, Vpc,
};
use serde::{Deserialize, Serialize};

use super::input::choose;
use crate::ApiError;

/// What `CreateFunction` and `UpdateFunctionConfiguration` say.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FunctionInput {
    pub(super) function_name: Option<String>,
    pub(super) code: Option<CodeInput>,
    pub(super) publish: Option<bool>,
    pub(super) package_type: Option<String>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    pub(super) code_signing_config_arn: Option<String>,
    pub(super) architectures: Option<Vec<String>>,
    pub(super) revision_id: Option<String>,
    pub(super) role: Option<String>,
    runtime: Option<String>,
    handler: Option<String>,
    description: Option<String>,
    timeout: Option<i64>,
    memory_size: Option<i64>,
    vpc_config: Option<VpcInput>,
    dead_letter_config: Option<DeadLetter>,
    environment: Option<EnvironmentInput>,
    #[serde(rename = "KMSKeyArn")]
    kms_key_arn: Option<String>,
    tracing_config: Option<TracingInput>,
    layers: Option<Vec<String>>,
    file_system_configs: Option<Vec<FileSystemWire>>,
    image_config: Option<ImageConfig>,
    ephemeral_storage: Option<EphemeralStorage>,
    snap_start: Option<SnapStartInput>,
    logging_config: Option<LoggingConfig>,
    tenancy_config: Option<serde_json::Value>,
    capacity_provider_config: Option<serde_json::Value>,
    durable_config: Option<serde_json::Value>,
}

/// Where code comes from.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CodeInput {
    pub(super) zip_file: Option<String>,
    pub(super) image_uri: Option<String>,
    #[serde(rename = "S3Bucket")]
    pub(super) s3_bucket: Option<String>,
    #[serde(rename = "S3Key")]
    pub(super) s3_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VpcInput {
    subnet_ids: Option<Vec<String>>,
    security_group_ids: Option<Vec<String>>,
    ipv6_allowed_for_dual_stack: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeadLetter {
    target_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EnvironmentInput {
    variables: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TracingInput {
    mode: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileSystemWire {
    arn: String,
    local_mount_path: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_point: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EphemeralStorage {
    size: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnapStartInput {
    apply_on: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LoggingConfig {
    log_format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_log_level: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_log_level: Option<String>,
    log_group: Option<String>,
}

/// Refuses what only runs elsewhere.
pub(super) fn check_architectures(architectures: Option<&[String]>) -> Result<(), ApiError> {
    let mut violations = Violations::new();
    let given = architectures.unwrap_or_default();
    for architecture in given {
        violations.one_of("architectures", architecture, &["x86_64", "arm64"]);
    }
    if architectures.is_some() && given.len() != 1 {
        violations.add("architectures", given.join(", "), "have length equal to 1");
    }
    violations.check()?;
    if given.iter().any(|architecture| architecture == "arm64") {
        return Err(Invalid::Architecture.into());
    }
    Ok(())
}

impl FunctionInput {
    /// The package type that it says.
    pub(super) fn package(&self) -> Result<Option<PackageType>, ApiError> {
        let mut violations = Violations::new();
        let values = [("Zip", PackageType::Zip), ("Image", PackageType::Image)];
        let package = choose(&mut violations, "packageType", self.package_type.as_deref(), &values);
        violations.check()?;
        Ok(package)
    }

    /// What it says of the configuration.
    pub(super) fn into_change(self) -> Result<ConfigurationChange, ApiError> {
        let mut violations = Violations::new();
        let tracing = self.tracing_config.and_then(|tracing| tracing.mode);
        let modes = [("Active", TracingMode::Active), ("PassThrough", TracingMode::PassThrough)];
        let tracing = choose(&mut violations, "tracingConfig.mode", tracing.as_deref(), &modes);
        let applied = self.snap_start.and_then(|snap_start| snap_start.apply_on);
        let choices = [("PublishedVersions", ApplyOn::PublishedVersions), ("None", ApplyOn::None)];
        let snap_start = choose(&mut violations, "snapStart.applyOn", applied.as_deref(), &choices);
        let logging = self.logging_config.map(|logging| {
            let formats = [("JSON", LogFormat::Json), ("Text", LogFormat::Text)];
            let format = logging.log_format.as_deref();
            let format = choose(&mut violations, "loggingConfig.logFormat", format, &formats);
            Logging {
                format: format.unwrap_or_default(),
                application_level: logging.application_log_level,
                system_level: logging.system_log_level,
                group: logging.log_group.filter(|group| !group.is_empty()),
            }
        });
        violations.check()?;
        for (given, what) in [
            (self.durable_config.is_some(), "Durable functions are not supported here."),
            (self.tenancy_config.is_some(), "Tenant isolation is not supported here."),
            (self.capacity_provider_config.is_some(), "Capacity providers are not supported here."),
        ] {
            if given {
                return Err(Invalid::Unsupported(what).into());
            }
        }
        Ok(ConfigurationChange {
            description: self.description,
            role: self.role,
            runtime: self.runtime,
            handler: self.handler,
            timeout: self.timeout,
            memory_size: self.memory_size,
            ephemeral_storage: self.ephemeral_storage.map(|storage| storage.size),
            environment: self
                .environment
                .map(|environment| environment.variables.unwrap_or_default()),
            layers: self.layers,
            image: self.image_config.map(|image| ImageOverrides {
                entry_point: image.entry_point.filter(|words| !words.is_empty()),
                command: image.command.filter(|words| !words.is_empty()),
                working_directory: image.working_directory.filter(|path| !path.is_empty()),
            }),
            snap_start,
            tracing,
            logging,
            dead_letter: self
                .dead_letter_config
                .map(|target| target.target_arn.unwrap_or_default()),
            kms_key: self.kms_key_arn,
            vpc: self.vpc_config.map(|vpc| Vpc {
                subnet_ids: vpc.subnet_ids.unwrap_or_default(),
                security_group_ids: vpc.security_group_ids.unwrap_or_default(),
                ipv6_allowed_for_dual_stack: vpc.ipv6_allowed_for_dual_stack.unwrap_or_default(),
            }),
            file_systems: self.file_system_configs.map(|systems| {
                let systems = systems.into_iter().map(|system| FileSystem {
                    arn: system.arn,
                    local_mount_path: system.local_mount_path,
                });
                systems.collect()
            }),
        })
    }
}

/// `FunctionConfiguration`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FunctionConfiguration {
    function_name: String,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<String>,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    handler: Option<String>,
    code_size: u64,
    description: String,
    timeout: u32,
    memory_size: u32,
    last_modified: String,
    code_sha256: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vpc_config: Option<VpcOutput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_config: Option<DeadLetter>,
    // An empty one would be a difference to Terraform.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<EnvironmentOutput>,
    #[serde(rename = "KMSKeyArn", skip_serializing_if = "Option::is_none")]
    kms_key_arn: Option<String>,
    tracing_config: TracingOutput,
    #[serde(skip_serializing_if = "Option::is_none")]
    master_arn: Option<String>,
    revision_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerOutput>,
    #[serde(flatten)]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    file_system_configs: Vec<FileSystemWire>,
    package_type: PackageType,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_config_response: Option<ImageConfigResponse>,
    architectures: [&'static str; 1],
    ephemeral_storage: EphemeralStorage,
    snap_start: SnapStartOutput,
    logging_config: LoggingConfig,
}

/// What lists do not tell.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason_code: Option<String>,
    last_update_status: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VpcOutput {
    subnet_ids: Vec<String>,
    security_group_ids: Vec<String>,
    vpc_id: &'static str,
    ipv6_allowed_for_dual_stack: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EnvironmentOutput {
    variables: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TracingOutput {
    mode: TracingMode,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayerOutput {
    arn: String,
    code_size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfigResponse {
    image_config: ImageConfig,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SnapStartOutput {
    apply_on: ApplyOn,
    optimization_status: &'static str,
}

impl FunctionConfiguration {
    /// As an operation about this version tells it.
    pub(super) fn of(version: &FunctionVersion, arn: String) -> Self {
        let (state, state_reason, state_reason_code) = match &version.content.state {
            State::Active => ("Active", None, None),
            State::Pending => {
                let reason = "The function is being created.".to_owned();
                ("Pending", Some(reason), Some("Creating".to_owned()))
            }
            State::Failed { code, reason } => ("Failed", Some(reason.clone()), Some(code.clone())),
        };
        let last_update_status = "Successful";
        let status = Status { state, state_reason, state_reason_code, last_update_status };
        Self { status: Some(status), ..Self::in_list(version, arn) }
    }

    /// As a list tells it: without its state.
    pub(super) fn in_list(version: &FunctionVersion, arn: String) -> Self {
        let content = &version.content;
        let configuration = &content.configuration;
        let image = &configuration.image;
        let is_number = matches!(version.version, Version::Number(_));
        let optimized = is_number
            && configuration.snap_start == ApplyOn::PublishedVersions
            && content.state == State::Active;
        let logging = &configuration.logging;
        let format = match logging.format {
            LogFormat::Text => "Text",
            LogFormat::Json => "JSON",
        };
        Self {
            function_name: version.name.to_string(),
            function_arn: arn,
            runtime: configuration.runtime.clone(),
            role: configuration.role.clone(),
            handler: configuration.handler.clone(),
            code_size: content.code.size(),
            description: configuration.description.clone(),
            timeout: configuration.timeout,
            memory_size: configuration.memory_size,
            last_modified: content.last_modified_text(),
            code_sha256: content.code.sha256(),
            version: version.version.to_string(),
            vpc_config: configuration.vpc.as_ref().map(|vpc| VpcOutput {
                subnet_ids: vpc.subnet_ids.clone(),
                security_group_ids: vpc.security_group_ids.clone(),
                vpc_id: "",
                ipv6_allowed_for_dual_stack: vpc.ipv6_allowed_for_dual_stack,
            }),
            dead_letter_config: configuration
                .dead_letter
                .clone()
                .map(|target_arn| DeadLetter { target_arn: Some(target_arn) }),
            environment: Some(configuration.environment.clone())
                .filter(|variables| !variables.is_empty())
                .map(|variables| EnvironmentOutput { variables }),
            kms_key_arn: configuration.kms_key.clone(),
            tracing_config: TracingOutput { mode: configuration.tracing },
            master_arn: is_number.then(|| version.function_arn()),
            revision_id: content.revision_id.clone(),
            layers: configuration
                .layers
                .iter()
                .map(|layer| LayerOutput { arn: layer.arn.clone(), code_size: layer.code_size })
                .collect(),
            status: None,
            file_system_configs: configuration
                .file_systems
                .iter()
                .map(|system| FileSystemWire {
                    arn: system.arn.clone(),
                    local_mount_path: system.local_mount_path.clone(),
                })
                .collect(),
            package_type: configuration.package_type,
            image_config_response: (!image.is_empty()).then(|| ImageConfigResponse {
                image_config: ImageConfig {
                    entry_point: image.entry_point.clone(),
                    command: image.command.clone(),
                    working_directory: image.working_directory.clone(),
                },
            }),
            architectures: ["x86_64"],
            ephemeral_storage: EphemeralStorage { size: configuration.ephemeral_storage.into() },
            snap_start: SnapStartOutput {
                apply_on: configuration.snap_start,
                optimization_status: if optimized { "On" } else { "Off" },
            },
            logging_config: LoggingConfig {
                log_format: Some(format.to_owned()),
                application_log_level: logging.application_level.clone(),
                system_log_level: logging.system_level.clone(),
                log_group: Some(
                    logging
                        .group
                        .clone()
                        .unwrap_or_else(|| format!("/aws/lambda/{}", version.name)),
                ),
            },
        }
    }
}

/// `FunctionCodeLocation`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CodeLocation {
    #[serde(skip_serializing_if = "Option::is_none")]
    repository_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_image_uri: Option<String>,
}

impl CodeLocation {
    /// Where this code is. `locate` makes an address of a zip file.
    pub(super) fn of(code: &Code, locate: impl FnOnce(&str) -> String) -> Self {
        let nowhere = Self {
            repository_type: None,
            location: None,
            image_uri: None,
            resolved_image_uri: None,
        };
        match code {
            Code::Zip { digest, .. } => Self {
                repository_type: Some("S3"),
                location: Some(locate(&digest.hex())),
                ..nowhere
            },
            Code::Image { uri } => Self {
                repository_type: Some("ECR"),
                image_uri: Some(uri.clone()),
                // A tag is resolved when the image is fetched, not before.
                resolved_image_uri: uri.contains("@sha256:").then(|| uri.clone()),
                ..nowhere
            },
            // On this host, and only there.
            Code::Directory { .. } | Code::File { .. } => nowhere,
        }
    }
}
