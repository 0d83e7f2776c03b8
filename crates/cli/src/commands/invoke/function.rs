//! From the command's options to a function.

use std::{io, path::Path};

use costrel_functions::{
    Credentials, EphemeralStorage, FunctionMemory, FunctionSpec, FunctionTimeout, Initialization,
    Launch, Package, Runtime, is_reserved, needs_image,
};
use costrel_image::ImageSource;
use costrel_rootfs::CodeSource;

use super::Arguments;
use crate::{config::Config, environment::Environment, failure::Failure};

/// docker-lambda's defaults, where neither option nor variable says otherwise.
const DEFAULT_MEMORY_MB: u64 = 1536;
const DEFAULT_TIMEOUT_S: u64 = 300;
const DEFAULT_REGION: &str = "us-east-1";

/// Checks all options against each other. Says beside the function what ARN it is invoked by.
pub(super) fn describe(
    arguments: &Arguments,
    environment: &Environment,
    config: &Config,
) -> Result<(FunctionSpec, String), Failure> {
    let (owners, settings) = variables(arguments, environment)?;
    let setting = |name: &str| settings.text(name);
    let number = |option: Option<u64>, name: &str, default: u64| match (option, setting(name)) {
        (Some(value), _) => Ok(value),
        (None, None) => Ok(default),
        (None, Some(text)) => text
            .parse()
            .map_err(|_| Failure::usage(format!("{name} is {text:?}: it must be a number"))),
    };
    let memory = number(arguments.memory, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", DEFAULT_MEMORY_MB)?;
    let timeout = number(arguments.timeout, "AWS_LAMBDA_FUNCTION_TIMEOUT", DEFAULT_TIMEOUT_S)?;
    let name = arguments.name.as_deref().or(setting("AWS_LAMBDA_FUNCTION_NAME")).unwrap_or("test");
    let region = setting("AWS_REGION").or(setting("AWS_DEFAULT_REGION")).unwrap_or(DEFAULT_REGION);
    let account = setting("AWS_ACCOUNT_ID").unwrap_or("000000000000");
    let arn = setting("AWS_LAMBDA_FUNCTION_INVOKED_ARN").map_or_else(
        || format!("arn:aws:lambda:{region}:{account}:function:{name}"),
        str::to_owned,
    );
    let limit = |error: costrel_functions::LimitError| Failure::usage(error.to_string());
    if arguments.layers.len() > 5 {
        return Err(Failure::usage(format!(
            "{} layers are given: a function has at most 5",
            arguments.layers.len()
        )));
    }
    for layer in &arguments.layers {
        exists("the layer", layer)?;
    }
    let spec = FunctionSpec {
        package: package(arguments, environment, config)?,
        name: name.to_owned(),
        version: setting("AWS_LAMBDA_FUNCTION_VERSION").unwrap_or("$LATEST").to_owned(),
        account_id: account.to_owned(),
        region: region.to_owned(),
        handler: arguments.handler.clone().or_else(|| {
            let variables = ["AWS_LAMBDA_FUNCTION_HANDLER", "_HANDLER"];
            variables.into_iter().find_map(setting).map(str::to_owned)
        }),
        entrypoint: None,
        command: None,
        working_directory: None,
        layers: arguments.layers.clone(),
        environment: owners,
        credentials: credentials(&settings),
        memory: FunctionMemory::megabytes(memory).map_err(limit)?,
        timeout: FunctionTimeout::seconds(timeout).map_err(limit)?,
        ephemeral_storage: EphemeralStorage::megabytes(arguments.tmp_size).map_err(limit)?,
        initialization: if arguments.snap_start {
            Initialization::SnapStart
        } else {
            Initialization::OnDemand
        },
        host_ports: arguments.host_ports.clone(),
    };
    Ok((spec, arn))
}

/// Parts `-e` into the function's own variables and those that are settings: what Lambda itself
/// sets is taken from `-e` as docker-lambda does, or from this process's environment, but never
/// credentials, which a function gets only by name.
struct Settings<'a> {
    given: Vec<(String, String)>,
    environment: &'a Environment,
}

impl Settings<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.given(name).or_else(|| self.environment.text(name))
    }

    fn given(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

type Variables = Vec<(String, String)>;

fn variables<'a>(
    arguments: &Arguments,
    environment: &'a Environment,
) -> Result<(Variables, Settings<'a>), Failure> {
    let (mut owners, mut given) = (Vec::new(), Vec::new());
    for text in &arguments.environment {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value),
            None => match environment.text(text) {
                Some(value) => (text.as_str(), value),
                // As docker: a variable that is not set here is not set there.
                None => continue,
            },
        };
        let variable = (name.to_owned(), value.to_owned());
        match name {
            "AWS_LAMBDA_RUNTIME_API"
            | "AWS_LAMBDA_INITIALIZATION_TYPE"
            | "LAMBDA_TASK_ROOT"
            | "LAMBDA_RUNTIME_DIR"
            | "AWS_EXECUTION_ENV"
            | "AWS_ACCESS_KEY" => {
                return Err(Failure::usage(format!(
                    "-e {name}: only Lambda itself sets this variable"
                )));
            }
            name if is_reserved(name)
                || [
                    "AWS_LAMBDA_FUNCTION_TIMEOUT",
                    "AWS_LAMBDA_FUNCTION_INVOKED_ARN",
                    "AWS_ACCOUNT_ID",
                ]
                .contains(&name)
                || name == "AWS_LAMBDA_FUNCTION_HANDLER" =>
            {
                given.push(variable);
            }
            _ => owners.push(variable),
        }
    }
    Ok((owners, Settings { given, environment }))
}

fn credentials(settings: &Settings<'_>) -> Option<Credentials> {
    Some(Credentials {
        access_key_id: settings.given("AWS_ACCESS_KEY_ID")?.to_owned(),
        secret_access_key: settings.given("AWS_SECRET_ACCESS_KEY")?.to_owned(),
        session_token: settings.given("AWS_SESSION_TOKEN").map(str::to_owned),
    })
}

fn package(
    arguments: &Arguments,
    environment: &Environment,
    config: &Config,
) -> Result<Package, Failure> {
    let code = arguments.code.as_deref().map(code_source).transpose()?;
    let image =
        |text: &str| ImageSource::parse(text).map_err(|error| Failure::usage(error.to_string()));
    let given = arguments.image.as_deref().map(image).transpose()?;
    let Some(name) = &arguments.runtime else {
        let image = given.ok_or_else(|| {
            Failure::usage(
                "neither --runtime nor --image is given: what should the function run on?",
            )
        })?;
        return Ok(Package { image: Some(image), code, launch: Launch::Entrypoint });
    };
    let runtime: Runtime = name.parse().map_err(|error: costrel_functions::UnknownRuntime| {
        Failure::usage(error.to_string()).with_hint("--image runs a function from any other image")
    })?;
    let Some(code) = code else {
        return Err(Failure::usage(format!(
            "--runtime {runtime} needs the function's code: --code"
        )));
    };
    let image = match given {
        Some(image) => Some(image),
        None if runtime.is_provided() && !provided_needs_image(&code)? => None,
        None => Some(image(&config.image_of(runtime, environment))?),
    };
    Ok(Package { image, code: Some(code), launch: Launch::Bootstrap(runtime) })
}

/// A bootstrap that is not in the code may be in a layer, which only staging unpacks.
fn provided_needs_image(code: &CodeSource) -> Result<bool, Failure> {
    match needs_image(code) {
        Ok(needed) => Ok(needed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        // What is wrong with the zip file is told, with its name, when it is staged.
        Err(_) => Ok(false),
    }
}

fn code_source(path: &Path) -> Result<CodeSource, Failure> {
    exists("the code", path)?;
    Ok(if path.is_dir() {
        CodeSource::Directory(path.to_owned())
    } else {
        CodeSource::Zip(path.to_owned())
    })
}

fn exists(what: &str, path: &Path) -> Result<(), Failure> {
    match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Failure::usage(format!("cannot read {what}, {}: {error}", path.display())))
        }
    }
}
