//! The functions that are served without any call of the API: where they are declared, and what the
//! catalogue is told of them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use costrel_functions::{
    EphemeralStorage, FunctionMemory, FunctionTimeout, LimitError, Runtime, is_reserved,
};
use costrel_image::ImageSource;

use super::{Arguments, Settings};
use crate::{
    declarations::{self, Declaration, Declarations, TemplateSettings},
    environment::Environment,
    failure::Failure,
};

/// docker-lambda's defaults, for a function that is given by options.
const DEFAULT_MEMORY_MB: u64 = 1536;
const DEFAULT_TIMEOUT_S: u64 = 300;

/// Where functions are declared.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Nowhere: only the API makes functions.
    Nowhere,
    /// On the command line.
    Options(Box<Declaration>),
    /// In a file.
    File(PathBuf, TemplateSettings),
}

impl Source {
    /// Finds out where functions are declared.
    pub(super) fn find(
        arguments: &Arguments,
        settings: &Settings,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let by_options = arguments.function.is_given();
        let file = match (&arguments.config_file, &arguments.path) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(path)) if !by_options => {
                Some(declarations::find(path).ok_or_else(|| {
                    let what = if path.is_dir() {
                        "has neither costrel.toml nor template.yaml, template.yml or template.json"
                    } else if path.exists() {
                        "is neither a directory nor a .toml, .yaml or .json file"
                    } else {
                        "is not there"
                    };
                    Failure::usage(format!("{} {what}", path.display())).with_hint(
                        "--runtime and --handler, or --image, say how its code is to be run",
                    )
                })?)
            }
            (None, _) => None,
        };
        match file {
            Some(_) if by_options => Err(Failure::usage(
                "--config-file declares functions, and so do --runtime, --handler, --image and the \
                 like: give either",
            )),
            Some(file) => {
                let parameters = arguments.parameters.iter().map(|text| {
                    text.split_once('=')
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .ok_or_else(|| {
                            Failure::usage(format!("--parameter {text}: it must be NAME=VALUE"))
                        })
                });
                let settings = TemplateSettings {
                    parameters: parameters.collect::<Result<_, _>>()?,
                    account_id: settings.account_id.clone(),
                    region: settings.region.clone(),
                };
                Ok(Self::File(file, settings))
            }
            None if !arguments.parameters.is_empty() => {
                Err(Failure::usage("--parameter is for a template, and none is given"))
            }
            None if by_options => Self::of_options(arguments, environment),
            None => Ok(Self::Nowhere),
        }
    }

    fn of_options(arguments: &Arguments, environment: &Environment) -> Result<Self, Failure> {
        let options = &arguments.function;
        let mut variables = BTreeMap::new();
        for text in &options.environment {
            match text.split_once('=') {
                Some((name, value)) => {
                    variables.insert(name.to_owned(), value.to_owned());
                }
                None => {
                    // As docker: a variable that is not set here is not set there.
                    if let Some(value) = environment.text(text) {
                        variables.insert(text.clone(), value.to_owned());
                    }
                }
            }
        }
        let name = match &options.name {
            Some(name) => name.clone(),
            None => name_of(arguments.path.as_deref(), options.image.as_deref()),
        };
        // An image function's handler is its command.
        let command = match (&options.runtime, &options.handler) {
            (None, Some(handler)) => Some(vec![handler.clone()]),
            _ => None,
        };
        Ok(Self::Options(Box::new(Declaration {
            name,
            runtime: options.runtime.clone(),
            image: options.image.clone(),
            handler: options.handler.clone().filter(|_| command.is_none()),
            command,
            code: arguments.path.clone(),
            layers: options.layers.clone(),
            memory: Some(options.memory.unwrap_or(DEFAULT_MEMORY_MB)),
            timeout: Some(options.timeout.unwrap_or(DEFAULT_TIMEOUT_S)),
            tmp_size: options.tmp_size,
            environment: variables,
            url: options.url.then(Default::default),
            ..Declaration::default()
        })))
    }

    /// The functions, checked, and what there is to say of them.
    pub(super) fn read(&self) -> Result<Declarations, Failure> {
        let declarations = match self {
            Self::Nowhere => Declarations::default(),
            Self::Options(declaration) => {
                Declarations { functions: vec![(**declaration).clone()], notes: Vec::new() }
            }
            Self::File(file, settings) => {
                let declarations = declarations::read(file, settings)?;
                if declarations.functions.is_empty() {
                    let failure = Failure::usage(format!(
                        "{} declares no function that can be served",
                        file.display()
                    ));
                    return Err(match declarations.notes.first() {
                        Some(note) => failure.with_hint(note.clone()),
                        None => failure,
                    });
                }
                declarations
            }
        };
        for function in &declarations.functions {
            check(function).map_err(|message| {
                Failure::usage(format!("the function {}: {message}", function.name))
            })?;
        }
        Ok(declarations)
    }

    /// The file that declares functions.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(file, _) => Some(file),
            _ => None,
        }
    }
}

/// A name for a function that was given none: its directory's, or its image's.
fn name_of(path: Option<&Path>, image: Option<&str>) -> String {
    let path = path.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let named = path.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy());
    // Without its registry and its tag.
    let image = image.and_then(|image| image.rsplit('/').next()?.split([':', '@']).next());
    let image = image.map(Into::into);
    let name = named.or(image).unwrap_or_default();
    let allowed = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' }
    };
    let name: String = name.chars().map(allowed).take(64).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "function".to_owned() } else { name.to_owned() }
}

/// What AWS checks when a function is made.
fn check(function: &Declaration) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=64).contains(&function.name.len()) || !function.name.bytes().all(allowed) {
        return Err("its name must be 1 to 64 letters, digits, `-` or `_`".to_owned());
    }
    let limit = |error: LimitError| error.to_string();
    function.memory.map(FunctionMemory::megabytes).transpose().map_err(limit)?;
    function.timeout.map(FunctionTimeout::seconds).transpose().map_err(limit)?;
    function.tmp_size.map(EphemeralStorage::megabytes).transpose().map_err(limit)?;
    if function.layers.len() > 5 {
        return Err(format!("it has {} layers, and may have 5", function.layers.len()));
    }
    if let Some(name) = function.environment.keys().find(|name| is_reserved(name)) {
        return Err(format!("only Lambda itself sets the variable {name}"));
    }
    if let Some(runtime) = &function.runtime {
        let runtime: Runtime = runtime
            .parse()
            .map_err(|error: costrel_functions::UnknownRuntime| error.to_string())?;
        if function.code.is_none() {
            return Err(format!("{runtime} needs code: a directory or a zip file"));
        }
        if function.handler.is_none()
            && !runtime.is_provided()
            && runtime.default_handler().is_none()
        {
            return Err(format!("{runtime} needs a handler, such as app.handler"));
        }
    } else if function.image.is_none() {
        return Err("it has neither a runtime nor an image: what should it run on?".to_owned());
    } else if function.code.is_some() {
        return Err(
            "it has an image and code, and no runtime: without one, the image brings its code"
                .to_owned(),
        );
    }
    if let Some(image) = &function.image {
        ImageSource::parse(image).map_err(|error| error.to_string())?;
    }
    for (what, path) in function
        .code
        .iter()
        .map(|path| ("the code", path))
        .chain(function.layers.iter().map(|path| ("the layer", path)))
    {
        path.metadata()
            .map_err(|error| format!("cannot read {what}, {}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_after_their_place() {
        let name = |path: &str| name_of(Some(Path::new(path)), None);
        assert_eq!(name("/nowhere/hello"), "hello");
        assert_eq!(name("/nowhere/my app.zip"), "my-app");
        assert_eq!(name("/"), "function");
        assert_eq!(name_of(None, Some("registry.example:5000/team/hello:3")), "hello");
        assert_eq!(name_of(None, Some("oci:/images/thumbs")), "thumbs");
        assert_eq!(name_of(None, Some("hello@sha256:00")), "hello");
    }

    #[test]
    fn what_is_wrong_with_a_function_is_told() {
        let good = Declaration {
            name: "f".into(),
            runtime: Some("python3.12".into()),
            code: Some("/".into()),
            handler: Some("a.b".into()),
            ..Declaration::default()
        };
        check(&good).unwrap();
        let wrong = |change: &dyn Fn(&mut Declaration)| {
            let mut function = good.clone();
            change(&mut function);
            check(&function).unwrap_err()
        };
        assert!(wrong(&|it| it.name = "a b".into()).starts_with("its name must be"));
        assert!(wrong(&|it| it.memory = Some(64)).contains("128"));
        assert!(wrong(&|it| it.timeout = Some(901)).contains("900"));
        assert!(wrong(&|it| it.tmp_size = Some(1)).contains("512"));
        assert!(wrong(&|it| it.layers = vec!["/".into(); 6]).contains("6 layers"));
        assert!(
            wrong(&|it| drop(it.environment.insert("AWS_REGION".into(), String::new())))
                .contains("AWS_REGION")
        );
        assert!(wrong(&|it| it.runtime = Some("cobol1".into())).contains("cobol1"));
        assert!(wrong(&|it| it.code = None).contains("needs code"));
        assert!(wrong(&|it| it.handler = None).contains("needs a handler"));
        assert!(wrong(&|it| it.runtime = None).contains("neither a runtime nor an image"));
        assert!(
            wrong(&|it| it.code = Some("/nowhere".into()))
                .contains("cannot read the code, /nowhere")
        );
        let image = |it: &mut Declaration| {
            it.runtime = None;
            it.image = Some("example:1".into());
        };
        assert!(wrong(&image).contains("brings its code"));
    }
}
