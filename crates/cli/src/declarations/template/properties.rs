//! From a function's properties in a template to its declaration.

use std::path::PathBuf;

use super::{
    Reader,
    intrinsics::{list, text},
    node::{Node, TemplateError},
};
use crate::declarations::{Declaration, DeclaredCors, DeclaredEvents, DeclaredUrl};

/// What has no meaning on one machine, or none for a function that is called: passed over in silence.
const OF_AWS_ALONE: [&str; 22] = [
    "AssumeRolePolicyDocument",
    "AutoPublishAliasAllProperties",
    "AutoPublishCodeSha256",
    "CodeSigningConfigArn",
    "DeploymentPreference",
    "FunctionName",
    "KmsKeyArn",
    "LoggingConfig",
    "PermissionsBoundary",
    "Policies",
    "PropagateTags",
    "RecursiveLoop",
    "Role",
    "RolePath",
    "RuntimeManagementConfig",
    "SourceKMSKeyArn",
    "Tags",
    "TracingConfig",
    "Tracing",
    "VersionDescription",
    "VersionDeletionPolicy",
    "PublishToLatestPublished",
];

/// What is looked at.
pub(super) const USED: [&str; 21] = [
    "Architectures",
    "AutoPublishAlias",
    "Code",
    "CodeUri",
    "Description",
    "Environment",
    "EphemeralStorage",
    "EventInvokeConfig",
    "FunctionUrlConfig",
    "Handler",
    "ImageConfig",
    "ImageUri",
    "InlineCode",
    "Layers",
    "MemorySize",
    "PackageType",
    "ProvisionedConcurrencyConfig",
    "ReservedConcurrentExecutions",
    "Runtime",
    "SnapStart",
    "Timeout",
];

/// A function of a template, its properties computed.
pub(super) struct Properties<'a> {
    pub(super) id: &'a str,
    pub(super) kind: &'a str,
    pub(super) node: &'a Node,
    pub(super) resource: &'a Node,
    pub(super) reader: &'a Reader<'a>,
}

impl Properties<'_> {
    pub(super) fn declare(&self, name: String) -> Result<Declaration, TemplateError> {
        let mut function = Declaration { name, ..Declaration::default() };
        let mut image_config = None;
        let mut package_type = None;
        for (property, value) in self.node.entries() {
            if value.is_null() || OF_AWS_ALONE.contains(&property.as_str()) {
                continue;
            }
            let single = || text(value, property).map(str::to_owned);
            match property.as_str() {
                "Description" => function.description = single()?,
                "Runtime" => function.runtime = Some(single()?),
                "Handler" => function.handler = Some(single()?),
                "MemorySize" => function.memory = Some(number(value, property)?),
                "Timeout" => function.timeout = Some(number(value, property)?),
                "ReservedConcurrentExecutions" => {
                    function.reserved_concurrency = Some(number(value, property)?);
                }
                "PackageType" => package_type = Some(single()?),
                "ImageUri" => function.image = Some(single()?),
                "ImageConfig" => image_config = Some(value),
                "CodeUri" => function.code = Some(self.local(value, property)?),
                "Code" => self.code(value, &mut function)?,
                "InlineCode" => return Err(inline(value.line)),
                "Environment" => function.environment = variables(value)?,
                "Layers" => function.layers = self.layers(value)?,
                "EphemeralStorage" => {
                    function.tmp_size = Some(number(required(value, "Size")?, "Size")?);
                }
                "FunctionUrlConfig" => function.url = Some(url(value)?),
                "SnapStart" => {
                    let apply = text(required(value, "ApplyOn")?, "ApplyOn")?;
                    function.snap_start = apply == "PublishedVersions";
                }
                "AutoPublishAlias" => function.alias = Some(single()?),
                "ProvisionedConcurrencyConfig" => {
                    let count = required(value, "ProvisionedConcurrentExecutions")?;
                    function.provisioned_concurrency = Some(number(count, property)?);
                }
                "EventInvokeConfig" => function.events = Some(self.events(value)?),
                "Architectures" => self.architectures(value)?,
                _ => self.reader.scope.note(
                    value.line,
                    format!("{}: the property {property} has no effect here", self.id),
                ),
            }
        }
        if let Some(config) = image_config {
            function.entrypoint = strings(config, "EntryPoint")?;
            function.command = strings(config, "Command")?;
            let directory = config.get("WorkingDirectory").filter(|node| !node.is_null());
            function.working_directory = directory
                .map(|node| text(node, "WorkingDirectory").map(str::to_owned))
                .transpose()?;
        }
        self.complete(function, package_type.as_deref())
    }

    /// Whether there is all that a function needs.
    fn complete(
        &self,
        mut function: Declaration,
        package_type: Option<&str>,
    ) -> Result<Declaration, TemplateError> {
        let line = self.resource.line;
        if package_type == Some("Image") || (function.image.is_some() && function.runtime.is_none())
        {
            // What Globals say of functions with a runtime is not about this one.
            (function.runtime, function.handler, function.code) = (None, None, None);
            if function.image.is_none() {
                let dockerfile =
                    self.resource.get("Metadata").is_some_and(|it| it.get("Dockerfile").is_some());
                return Err(TemplateError::not_here(
                    line,
                    if dockerfile {
                        "it has no ImageUri; images are not built here: build it, and name it there"
                    } else {
                        "an image function needs an ImageUri"
                    },
                ));
            }
            return Ok(function);
        }
        if function.runtime.is_none() {
            return Err(TemplateError::new(line, "the function has neither Runtime nor ImageUri"));
        }
        if function.code.is_none() {
            if self.kind == "AWS::Lambda::Function" {
                return Err(TemplateError::not_here(
                    line,
                    "the function has no code on this machine",
                ));
            }
            // SAM's own default.
            function.code = Some(self.reader.directory.to_owned());
        }
        Ok(function)
    }

    fn local(&self, value: &Node, property: &str) -> Result<PathBuf, TemplateError> {
        local(self.reader, value, self.resource, property)
    }

    /// `Code` of `AWS::Lambda::Function`: a path, as `aws cloudformation package` takes it, or CDK's.
    fn code(&self, value: &Node, function: &mut Declaration) -> Result<(), TemplateError> {
        if let Some(image) = value.get("ImageUri") {
            function.image = Some(text(image, "ImageUri")?.to_owned());
            return Ok(());
        }
        if let Some(source) = value.get("ZipFile") {
            return Err(inline(source.line));
        }
        function.code = Some(self.local(value, "Code")?);
        Ok(())
    }

    fn layers(&self, value: &Node) -> Result<Vec<PathBuf>, TemplateError> {
        let mut layers = Vec::new();
        for item in list(value, "Layers")? {
            let name = text(item, "Layers")?;
            // What a `Ref` to a layer stands for is its name; what is written out is an ARN.
            if name.starts_with("arn:") {
                return Err(TemplateError::not_here(
                    item.line,
                    format!(
                        "the layer {name} is at AWS: download it, and give it as a LayerVersion"
                    ),
                ));
            }
            let id = name.strip_suffix(".Arn").or(name.strip_suffix(".LayerVersionArn"));
            layers.push(self.reader.layer(id.unwrap_or(name), item.line)?);
        }
        Ok(layers)
    }

    fn events(&self, value: &Node) -> Result<DeclaredEvents, TemplateError> {
        let of = |name: &str| value.get(name).filter(|node| !node.is_null());
        let destination = |name: &str| -> Result<Option<String>, TemplateError> {
            let found = of("DestinationConfig").and_then(|config| config.get(name));
            let Some(found) = found else { return Ok(None) };
            match found.get("Destination") {
                Some(target) => Ok(Some(text(target, "Destination")?.to_owned())),
                None => {
                    self.reader.scope.note(
                        found.line,
                        format!("{}: {name} has no Destination, and none is made here", self.id),
                    );
                    Ok(None)
                }
            }
        };
        Ok(DeclaredEvents {
            retries: of("MaximumRetryAttempts")
                .map(|it| number(it, "MaximumRetryAttempts"))
                .transpose()?,
            max_age: of("MaximumEventAgeInSeconds")
                .map(|it| number(it, "MaximumEventAgeInSeconds"))
                .transpose()?,
            on_success: destination("OnSuccess")?,
            on_failure: destination("OnFailure")?,
        })
    }

    fn architectures(&self, value: &Node) -> Result<(), TemplateError> {
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        match list(value, "Architectures")? {
            [one] if text(one, "Architectures")? != here => {
                self.reader.scope.note(
                    value.line,
                    format!(
                        "{}: for {}; it runs on {here} here, and its programs must be for that",
                        self.id,
                        one.text().unwrap_or_default()
                    ),
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn inline(line: usize) -> TemplateError {
    TemplateError::not_here(
        line,
        "code within the template is not supported here: put it into a file",
    )
}

/// Something on this machine, relative to the template; CDK names it beside the properties.
pub(super) fn local(
    reader: &Reader<'_>,
    value: &Node,
    resource: &Node,
    property: &str,
) -> Result<PathBuf, TemplateError> {
    let asset = resource.get("Metadata").and_then(|metadata| metadata.get("aws:asset:path"));
    let path = match asset {
        Some(asset) => text(asset, "aws:asset:path")?,
        None => match value.text() {
            Some(path) => path,
            None => {
                return Err(TemplateError::not_here(
                    value.line,
                    format!("{property} is not on this machine: give a directory or a zip file"),
                ));
            }
        },
    };
    if path.starts_with("s3://") || path.starts_with("https://") {
        return Err(TemplateError::not_here(
            value.line,
            format!("{property} is {path}: give a directory or a zip file on this machine"),
        ));
    }
    let path = reader.directory.join(path);
    if !path.exists() {
        return Err(TemplateError::new(
            value.line,
            format!("{property}: there is no {}", path.display()),
        ));
    }
    Ok(path)
}

fn required<'n>(node: &'n Node, key: &str) -> Result<&'n Node, TemplateError> {
    node.get(key).ok_or_else(|| TemplateError::new(node.line, format!("{key} is missing")))
}

fn number<T: std::str::FromStr>(node: &Node, what: &str) -> Result<T, TemplateError> {
    let text = text(node, what)?;
    text.parse().map_err(|_| {
        TemplateError::new(node.line, format!("{what} is {text:?}: it must be a number"))
    })
}

fn switch(node: &Node, what: &str) -> Result<bool, TemplateError> {
    match text(node, what)? {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        text => Err(TemplateError::new(
            node.line,
            format!("{what} is {text:?}: it must be true or false"),
        )),
    }
}

/// A list of strings below a key, if it is there.
fn strings(node: &Node, key: &str) -> Result<Option<Vec<String>>, TemplateError> {
    let Some(items) = node.get(key).filter(|node| !node.is_null()) else { return Ok(None) };
    let items = list(items, key)?.iter();
    items.map(|item| text(item, key).map(str::to_owned)).collect::<Result<_, _>>().map(Some)
}

fn variables(node: &Node) -> Result<std::collections::BTreeMap<String, String>, TemplateError> {
    let variables = node.get("Variables").map(Node::entries).unwrap_or_default();
    let named = |(name, value): &(String, Node)| {
        let value = if value.is_null() { "" } else { text(value, name)? };
        Ok((name.clone(), value.to_owned()))
    };
    variables.iter().map(named).collect()
}

/// `FunctionUrlConfig`, or the properties of `AWS::Lambda::Url`.
pub(super) fn url(node: &Node) -> Result<DeclaredUrl, TemplateError> {
    let of = |name: &str| node.get(name).filter(|node| !node.is_null());
    let auth = of("AuthType").map(|it| text(it, "AuthType")).transpose()?;
    let mode = of("InvokeMode").map(|it| text(it, "InvokeMode")).transpose()?;
    let iam = match auth {
        None | Some("NONE") => false,
        Some("AWS_IAM") => true,
        Some(other) => {
            return Err(TemplateError::new(
                node.line,
                format!("AuthType is {other:?}: it must be NONE or AWS_IAM"),
            ));
        }
    };
    let streams = match mode {
        None | Some("BUFFERED") => false,
        Some("RESPONSE_STREAM") => true,
        Some(other) => {
            return Err(TemplateError::new(
                node.line,
                format!("InvokeMode is {other:?}: it must be BUFFERED or RESPONSE_STREAM"),
            ));
        }
    };
    let cors = of("Cors").map(|cors| {
        let strings = |key| strings(cors, key).map(Option::unwrap_or_default);
        Ok::<_, TemplateError>(DeclaredCors {
            allow_credentials: cors
                .get("AllowCredentials")
                .map_or(Ok(false), |it| switch(it, "AllowCredentials"))?,
            allow_headers: strings("AllowHeaders")?,
            allow_methods: strings("AllowMethods")?,
            allow_origins: strings("AllowOrigins")?,
            expose_headers: strings("ExposeHeaders")?,
            max_age: cors.get("MaxAge").map(|it| number(it, "MaxAge")).transpose()?,
        })
    });
    Ok(DeclaredUrl { iam, streams, cors: cors.transpose()? })
}
