//! How an initialisation ends.

use bytes::Bytes;
use costrel_agent_client::wire::{Exited, ExtensionFailure, RuntimeExited};

use crate::{FunctionError, failure::extension_error_type, log::FailureStatus};

/// Where a runtime stands that has been initialised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stand {
    /// It waits for an invocation (`invocation/next`).
    Next,
    /// It waits to be saved and restored (`restore/next`).
    RestoreNext,
}

impl Stand {
    /// As it is noted in a snapshot.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Next => "invocation/next",
            Self::RestoreNext => "restore/next",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [Self::Next, Self::RestoreNext].into_iter().find(|stand| stand.name() == name)
    }
}

/// Why an initialisation failed, or what follows a restore.
#[derive(Clone, Debug)]
pub(crate) enum InitFailure {
    /// The runtime reported it.
    Reported {
        error_type: String,
        body: Bytes,
    },
    Exited(Exited),
    Extension(ExtensionFailure),
    NoRuntime(String),
    Timeout,
}

impl From<RuntimeExited> for InitFailure {
    fn from(over: RuntimeExited) -> Self {
        match over.extension_failure {
            Some(failure) => Self::Extension(failure),
            None => Self::Exited(over.exited.unwrap_or_default()),
        }
    }
}

impl InitFailure {
    pub(crate) fn status(&self) -> FailureStatus {
        FailureStatus::Error(match self {
            Self::Timeout => return FailureStatus::Timeout,
            Self::Reported { error_type, .. } => error_type.clone(),
            Self::Exited(exited) if exited.out_of_memory => "Runtime.OutOfMemory".to_owned(),
            Self::Exited(_) => "Runtime.ExitError".to_owned(),
            Self::Extension(failure) => extension_error_type(failure).to_owned(),
            Self::NoRuntime(_) => "Runtime.InvalidEntrypoint".to_owned(),
        })
    }

    /// What the invocation's caller is told; `timed_out`, if that was it.
    pub(crate) fn into_error(self, request_id: &str, timed_out: FunctionError) -> FunctionError {
        match self {
            // The caller gets what the runtime said, word for word.
            Self::Reported { error_type, body } => FunctionError { error_type, payload: body },
            Self::Exited(exited) => FunctionError::exited(request_id, &exited),
            Self::Extension(failure) => FunctionError::extension_failed(request_id, &failure),
            Self::NoRuntime(reason) => FunctionError::no_runtime(request_id, &reason),
            Self::Timeout => timed_out,
        }
    }
}
