//! The configuration file, `$XDG_CONFIG_HOME/costrel/config.toml`.
//!
//! ```toml
//! [runtimes]                      # which image a runtime's name stands for
//! "python3.12" = "registry.example/python:3.12"
//!
//! [registries]
//! plain-http = ["registry.lan:5000"]              # besides those on loopback
//! root-certificates = ["/etc/ssl/our-ca.pem"]
//!
//! [isolation]
//! strict = true                   # as --strict, or COSTREL_STRICT=1
//!
//! [snapshots]
//! enabled = false                 # as --no-snapshot, or COSTREL_SNAPSHOTS=0
//! limit-mib = 4096                # how much they may occupy together, or COSTREL_SNAPSHOTS_LIMIT
//!
//! [serve]                         # defaults of `costrel serve`'s options
//! listen = "127.0.0.1:9001"
//! memory-limit = 8192             # MiB
//! idle = 600                      # seconds
//! queue = 1000
//! concurrency = 1000
//! expose-host = [5432]
//! ```
//! `COSTREL_RUNTIME_IMAGE_PYTHON3_12` and its like override the first section.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use costrel_functions::Runtime;
use serde::Deserialize;

use crate::{environment::Environment, failure::Failure};

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Config {
    runtimes: BTreeMap<String, String>,
    pub(crate) registries: Registries,
    pub(crate) isolation: Isolation,
    pub(crate) snapshots: Snapshots,
    pub(crate) serve: Serve,
}

/// Defaults of `costrel serve`'s options.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Serve {
    pub(crate) listen: Option<String>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) idle: Option<u64>,
    pub(crate) queue: Option<usize>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) expose_host: Vec<u16>,
}

/// How machines are separated from the host.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Isolation {
    pub(crate) strict: bool,
}

/// What is kept of initialised functions.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Snapshots {
    pub(crate) enabled: bool,
    pub(crate) limit_mib: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { enabled: true, limit_mib: 8192 }
    }
}

/// How registries are reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Registries {
    pub(crate) plain_http: Vec<String>,
    pub(crate) root_certificates: Vec<PathBuf>,
}

impl Config {
    /// Reads the file; a missing one is empty.
    pub(crate) fn read(environment: &Environment) -> Result<Self, Failure> {
        let path = environment.config_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Failure::usage(format!("cannot read {}: {error}", path.display())));
            }
        };
        toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    /// The image of a runtime: by the environment, by the file, or AWS's own.
    pub(crate) fn image_of(&self, runtime: Runtime, environment: &Environment) -> String {
        let named = |letter: char| {
            if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }
        };
        let variable: String = runtime.name().chars().map(named).collect();
        environment
            .text(&format!("COSTREL_RUNTIME_IMAGE_{variable}"))
            .or_else(|| self.runtimes.get(runtime.name()).map(String::as_str))
            .map_or_else(|| runtime.default_image(), str::to_owned)
    }
}
