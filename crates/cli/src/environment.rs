//! The process's environment, read once: nothing below the command line looks at it.

use std::{
    collections::HashMap,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

/// A copy of the environment's variables.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    variables: HashMap<OsString, OsString>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self { variables: env::vars_os().collect() }
    }

    /// Only these variables.
    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| (name.into(), value.into());
        Self { variables: variables.iter().map(owned).collect() }
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// As [`Environment::get`], if it is UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        // The XDG specification: a relative path is to be ignored.
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn base(&self, variable: &str, below_home: &str) -> PathBuf {
        let home = || self.path("HOME").unwrap_or_else(|| PathBuf::from("/"));
        self.path(variable).unwrap_or_else(|| home().join(below_home)).join("costrel")
    }

    /// Where images and functions are kept.
    pub(crate) fn data(&self) -> PathBuf {
        self.base("XDG_DATA_HOME", ".local/share")
    }

    /// Where that is kept which can be made again.
    pub(crate) fn cache(&self) -> PathBuf {
        self.base("XDG_CACHE_HOME", ".cache")
    }

    /// The configuration file, whether or not it exists.
    pub(crate) fn config_file(&self) -> PathBuf {
        match self.path("COSTREL_CONFIG") {
            Some(path) => path,
            None => self.base("XDG_CONFIG_HOME", ".config").join("config.toml"),
        }
    }
}
