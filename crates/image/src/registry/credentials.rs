//! Credentials as docker, podman and skopeo keep them: `config.json`, `auth.json`, helpers.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::Reference;

/// Docker's name for its own registry in `config.json`.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The files that credentials are looked for in, and the directories that credential helpers
/// are looked for in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthFiles {
    /// The first that knows a registry is believed. One that does not exist is passed over.
    pub files: Vec<PathBuf>,
    /// Where programs named `docker-credential-…` are.
    pub helper_directories: Vec<PathBuf>,
}

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// Exchanged for access tokens (docker's "identity token").
    RefreshToken(String),
    /// Shown as it is.
    AccessToken(String),
}

/// Why credentials cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("cannot read the credentials in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{} is not a file of credentials", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// An entry's `auth` is not the base64 of `user:password`.
    #[error("the entry for {registry:?} in {} is not the base64 of user:password", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        registry: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthFiles {
    /// The files that skopeo and docker use: `REGISTRY_AUTH_FILE` alone where it is set, else
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, `$XDG_CONFIG_HOME/containers/auth.json`, and
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`. Helpers are found by `PATH`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let helper_directories = variable("PATH")
            .map(|list| std::env::split_paths(&list).filter(|path| path.is_absolute()).collect())
            .unwrap_or_default();
        let files = match path("REGISTRY_AUTH_FILE") {
            Some(file) => vec![file],
            None => {
                let config = path("XDG_CONFIG_HOME")
                    .or_else(|| home.as_ref().map(|home| home.join(".config")));
                let docker = path("DOCKER_CONFIG")
                    .or_else(|| home.as_ref().map(|home| home.join(".docker")));
                [
                    path("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
                    config.map(|directory| directory.join("containers/auth.json")),
                    docker.map(|directory| directory.join("config.json")),
                ]
                .into_iter()
                .flatten()
                .collect()
            }
        };
        Self { files, helper_directories }
    }

    /// The credentials for the reference's repository. What a helper says other than credentials
    /// goes to `note`: without them the image may still be public. Blocks.
    pub(crate) fn find(
        &self,
        reference: &Reference,
        note: &dyn Fn(String),
    ) -> Result<Option<Credentials>, CredentialsError> {
        for path in &self.files {
            let bytes = match fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(CredentialsError::Read { path: path.clone(), source }),
            };
            let file: AuthFile = serde_json::from_slice(&bytes)
                .map_err(|source| CredentialsError::Parse { path: path.clone(), source })?;
            if let Some(found) = self.find_in(&file, path, reference, note)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        file: &AuthFile,
        path: &Path,
        reference: &Reference,
        note: &dyn Fn(String),
    ) -> Result<Option<Credentials>, CredentialsError> {
        for scope in scopes(reference) {
            let key = |entry: &&String| normalised(entry) == scope;
            if let Some(entry) = file.cred_helpers.keys().find(key)
                && let Some(found) = self.ask_helper(&file.cred_helpers[entry], entry, note)
            {
                return Ok(Some(found));
            }
            if let Some(entry) = file.auths.keys().find(key)
                && let Some(found) = file.auths[entry].credentials().map_err(|()| {
                    CredentialsError::Entry { path: path.to_owned(), registry: entry.clone() }
                })?
            {
                return Ok(Some(found));
            }
        }
        let server = match reference.registry() {
            "docker.io" => DOCKER_HUB_KEY,
            registry => registry,
        };
        let store = file.creds_store.as_deref().filter(|name| !name.is_empty());
        Ok(store.and_then(|name| self.ask_helper(name, server, note)))
    }

    /// Speaks docker's protocol: the server's name on stdin, JSON on stdout.
    fn ask_helper(&self, name: &str, server: &str, note: &dyn Fn(String)) -> Option<Credentials> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            username: String,
            secret: String,
        }
        let program = format!("docker-credential-{name}");
        if name.contains('/') {
            note(format!("the credential helper {name:?} is not a name"));
            return None;
        }
        let mut directories = self.helper_directories.iter();
        let path = directories.find_map(|directory| {
            let path = directory.join(&program);
            path.is_file().then_some(path)
        });
        let Some(path) = path else {
            note(format!("the credential helper {program} is not installed: going without"));
            return None;
        };
        let run = || {
            let mut child = Command::new(&path)
                .arg("get")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A helper that reads nothing closes its end: what it says matters.
                let _ = stdin.write_all(server.as_bytes());
            }
            child.wait_with_output()
        };
        let output = match run() {
            Ok(output) => output,
            Err(error) => {
                note(format!("the credential helper {program} cannot be run: {error}"));
                return None;
            }
        };
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            if !said.contains("credentials not found") {
                note(format!("the credential helper {program} failed: {}", said.trim()));
            }
            return None;
        }
        match serde_json::from_slice::<Answer>(&output.stdout) {
            Ok(answer) if answer.username == "<token>" => {
                Some(Credentials::RefreshToken(answer.secret))
            }
            Ok(answer) => {
                Some(Credentials::Password { user: answer.username, password: answer.secret })
            }
            Err(error) => {
                note(format!("the credential helper {program} answers unintelligibly: {error}"));
                None
            }
        }
    }
}

impl AuthEntry {
    /// None for the empty entries that docker writes where a helper keeps the secret.
    fn credentials(&self) -> Result<Option<Credentials>, ()> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::AccessToken(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::RefreshToken(self.identitytoken.clone())));
        }
        if !self.auth.is_empty() {
            let bytes = STANDARD.decode(self.auth.trim()).map_err(|_| ())?;
            let text = String::from_utf8(bytes).map_err(|_| ())?;
            let (user, password) = text.split_once(':').ok_or(())?;
            // Some writers pad with NULs, which docker trims.
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        if !self.username.is_empty() {
            let (user, password) = (self.username.clone(), self.password.clone());
            return Ok(Some(Credentials::Password { user, password }));
        }
        Ok(None)
    }
}

/// What may stand for a repository in a file, the most specific first: `auth.json` may have
/// credentials for a part of a registry.
fn scopes(reference: &Reference) -> Vec<String> {
    let mut scopes = Vec::new();
    let mut path = format!("{}/{}", reference.registry(), reference.repository());
    loop {
        scopes.push(path.clone());
        match path.rfind('/') {
            Some(slash) => path.truncate(slash),
            None => break,
        }
    }
    if reference.registry() == "docker.io" {
        scopes.extend(["index.docker.io".to_owned(), reference.api_host().to_owned()]);
    }
    scopes
}

/// Docker's older entries are URLs.
fn normalised(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

#[cfg(test)]
mod tests;
