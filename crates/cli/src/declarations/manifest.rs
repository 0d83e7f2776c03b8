//! `costrel.toml`: functions in a table each.
//!
//! ```toml
//! [functions.hello]
//! runtime = "python3.12"
//! code = "hello"                  # a directory or a zip file; relative to this file
//! handler = "app.handler"
//! layers = ["layers/requests.zip"]
//! memory = 256                    # MB, 128 to 10240
//! timeout = 10                    # seconds, 1 to 900
//! tmp-size = 512                  # MB, 512 to 10240
//! environment = { TABLE = "orders" }
//! url = true                      # or { auth = "iam", streams = true, cors = { allow-origins = ["*"] } }
//! snap-start = true
//! reserved-concurrency = 4
//! events = { retries = 1, on-failure = "file:///tmp/failed.jsonl" }
//!
//! [functions.thumbnails]
//! image = "registry.example/thumbnails:3"
//! command = ["app.handler"]
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Declaration, Declarations, DeclaredCors, DeclaredEvents, DeclaredUrl};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    functions: BTreeMap<String, Function>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Function {
    description: String,
    runtime: Option<String>,
    image: Option<String>,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    working_directory: Option<String>,
    code: Option<PathBuf>,
    handler: Option<String>,
    layers: Vec<PathBuf>,
    memory: Option<u64>,
    timeout: Option<u64>,
    tmp_size: Option<u64>,
    environment: BTreeMap<String, Variable>,
    url: Option<Url>,
    snap_start: bool,
    alias: Option<String>,
    reserved_concurrency: Option<u32>,
    provisioned_concurrency: Option<u32>,
    events: Option<Events>,
}

/// What people write without quotes is meant as what it looks like.
#[derive(Deserialize)]
#[serde(untagged)]
enum Variable {
    Text(String),
    Integer(i64),
    Switch(bool),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Url {
    Switch(bool),
    Settings(UrlSettings),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct UrlSettings {
    auth: Auth,
    streams: bool,
    cors: Option<Cors>,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Auth {
    #[default]
    None,
    Iam,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Cors {
    allow_credentials: bool,
    allow_headers: Vec<String>,
    allow_methods: Vec<String>,
    allow_origins: Vec<String>,
    expose_headers: Vec<String>,
    max_age: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Events {
    retries: Option<u32>,
    max_age: Option<u32>,
    on_success: Option<String>,
    on_failure: Option<String>,
}

/// Reads the file's text; its paths are relative to `directory`.
pub(super) fn read(text: &str, directory: &Path) -> Result<Declarations, String> {
    let manifest: Manifest = toml::from_str(text).map_err(|error| error.to_string())?;
    let functions = manifest.functions.into_iter().map(|(name, function)| {
        let given = function.runtime.is_some() || function.image.is_some();
        if given { Ok(function.declare(name, directory)) } else { Err(name) }
    });
    let functions = functions.collect::<Result<_, _>>().map_err(|name| {
        format!("[functions.{name}] has neither `runtime` nor `image`: what should it run on?")
    })?;
    Ok(Declarations { functions, notes: Vec::new() })
}

impl Function {
    fn declare(self, name: String, directory: &Path) -> Declaration {
        let url = match self.url {
            None | Some(Url::Switch(false)) => None,
            Some(Url::Switch(true)) => Some(DeclaredUrl::default()),
            Some(Url::Settings(url)) => Some(DeclaredUrl {
                iam: url.auth == Auth::Iam,
                streams: url.streams,
                cors: url.cors.map(|cors| DeclaredCors {
                    allow_credentials: cors.allow_credentials,
                    allow_headers: cors.allow_headers,
                    allow_methods: cors.allow_methods,
                    allow_origins: cors.allow_origins,
                    expose_headers: cors.expose_headers,
                    max_age: cors.max_age,
                }),
            }),
        };
        let environment = self.environment.into_iter().map(|(name, value)| match value {
            Variable::Text(text) => (name, text),
            Variable::Integer(number) => (name, number.to_string()),
            Variable::Switch(switch) => (name, switch.to_string()),
        });
        Declaration {
            name,
            description: self.description,
            runtime: self.runtime,
            image: self.image,
            entrypoint: self.entrypoint,
            command: self.command,
            working_directory: self.working_directory,
            code: self.code.map(|path| directory.join(path)),
            handler: self.handler,
            layers: self.layers.iter().map(|path| directory.join(path)).collect(),
            memory: self.memory,
            timeout: self.timeout,
            tmp_size: self.tmp_size,
            environment: environment.collect(),
            url,
            snap_start: self.snap_start,
            alias: self.alias,
            reserved_concurrency: self.reserved_concurrency,
            provisioned_concurrency: self.provisioned_concurrency,
            events: self.events.map(|events| DeclaredEvents {
                retries: events.retries,
                max_age: events.max_age,
                on_success: events.on_success,
                on_failure: events.on_failure,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Declaration>, String> {
        read(text, Path::new("/app")).map(|declarations| declarations.functions)
    }

    #[test]
    fn everything_at_once() {
        let functions = parse(
            r#"
            [functions.hello]
            runtime = "python3.12"
            code = "hello"
            handler = "app.handler"
            layers = ["one.zip", "/abs/two"]
            memory = 256
            timeout = 10
            tmp-size = 1024
            environment = { TABLE = "orders", RETRIES = 3, DEBUG = true }
            url = { auth = "iam", streams = true, cors = { allow-origins = ["*"], max-age = 5 } }
            snap-start = true
            reserved-concurrency = 4
            events = { retries = 1, on-failure = "file:///tmp/failed" }

            [functions.image]
            image = "example:1"
            command = ["a", "b"]
            url = true
            "#,
        )
        .unwrap();
        let hello = &functions[0];
        assert_eq!(hello.code.as_deref(), Some(Path::new("/app/hello")));
        assert_eq!(hello.layers, [Path::new("/app/one.zip"), Path::new("/abs/two")]);
        assert_eq!(
            (hello.memory, hello.timeout, hello.tmp_size),
            (Some(256), Some(10), Some(1024))
        );
        let variables = [("DEBUG", "true"), ("RETRIES", "3"), ("TABLE", "orders")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(hello.environment, variables.into());
        let url = hello.url.as_ref().unwrap();
        assert!(url.iam && url.streams);
        assert_eq!(url.cors.as_ref().unwrap().max_age, Some(5));
        assert_eq!(hello.events.as_ref().unwrap().retries, Some(1));
        assert_eq!(functions[1].command.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(functions[1].url, Some(DeclaredUrl::default()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert!(wrong("[functions.f]\nhandler = \"x\"").contains("[functions.f] has neither"));
        let unknown = wrong("[functions.f]\nruntime = \"x\"\nmemroy = 1");
        assert!(unknown.contains("memroy") && unknown.contains("line 3"), "{unknown}");
        assert!(wrong("").contains("functions"));
        assert!(wrong("[functions.f]\nruntime = 1").contains("string"));
    }
}
