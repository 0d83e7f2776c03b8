//! A function as its owner describes it.

use std::path::PathBuf;

use crate::{EphemeralStorage, FunctionMemory, FunctionTimeout, Package};

/// One version of a function.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// Its version: a number, or `$LATEST`.
    pub version: String,
    /// The account that it believes to belong to: 12 digits.
    pub account_id: String,
    /// The region that it believes to be in.
    pub region: String,
    /// What it is made of.
    pub package: Package,
    /// The handler, where it has one.
    pub handler: Option<String>,
    /// In place of the image's entry point (`ImageConfig.EntryPoint`).
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's command, and of the handler (`ImageConfig.Command`).
    pub command: Option<Vec<String>>,
    /// In place of the image's working directory (`ImageConfig.WorkingDirectory`).
    pub working_directory: Option<String>,
    /// Layers, in order: zip files or directories, at most 5.
    pub layers: Vec<PathBuf>,
    /// Its owner's environment variables; [`crate::is_reserved`] ones are refused.
    pub environment: Vec<(String, String)>,
    /// What it signs its calls to AWS with.
    pub credentials: Option<Credentials>,
    /// Its memory.
    pub memory: FunctionMemory,
    /// How long an invocation may take.
    pub timeout: FunctionTimeout,
    /// The size of its /tmp.
    pub ephemeral_storage: EphemeralStorage,
    /// How its runtime is told that it is initialised.
    pub initialization: Initialization,
    /// Ports of the host's loopback that it reaches at the same port of its own, beside those that
    /// its environment names in URLs and addresses of `localhost`. It can then not listen there
    /// itself.
    pub host_ports: Vec<u16>,
}

/// `AWS_LAMBDA_INITIALIZATION_TYPE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Initialization {
    /// `on-demand`: for the invocation that comes next.
    #[default]
    OnDemand,
    /// `provisioned-concurrency`: ahead of any invocation.
    ProvisionedConcurrency,
    /// `snap-start`: to be saved. The runtime runs its hooks before a snapshot and after a restore.
    SnapStart,
}

impl Initialization {
    /// The variable's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::ProvisionedConcurrency => "provisioned-concurrency",
            Self::SnapStart => "snap-start",
        }
    }
}

/// AWS credentials, handed to the function as environment variables.
#[derive(Clone)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
}

impl Credentials {
    /// In the form of the AWS SDKs' container credentials provider. They ask again before the time
    /// that is given there.
    pub(crate) fn to_json(&self, now: jiff::Timestamp) -> String {
        let expiration = now.checked_add(jiff::Span::new().hours(6)).unwrap_or(now);
        serde_json::json!({
            "AccessKeyId": self.access_key_id,
            "SecretAccessKey": self.secret_access_key,
            "Token": self.session_token.as_deref().unwrap_or_default(),
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
        .to_string()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}
