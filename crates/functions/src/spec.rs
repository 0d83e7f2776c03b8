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
    /// The ARN that it is invoked by.
    pub invoked_arn: String,
    /// The region that it believes to be in.
    pub region: String,
    /// What it is made of.
    pub package: Package,
    /// The handler, where it has one.
    pub handler: Option<String>,
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

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}
