//! What people are told when something fails, and with which exit code.

use std::{fmt::Write as _, process::ExitCode};

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for makes no sense: exit code 2.
    Usage { message: String, hint: Option<String> },
    /// It could not be done: exit code 1.
    Failed { error: anyhow::Error, hint: Option<String> },
    /// It was done, and its outcome is a failure that was already told: exit code 1.
    Told,
    /// A signal of this number has ended it: exit code 128 and that.
    Signal(u8),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    pub(crate) fn with_hint(self, text: impl Into<String>) -> Self {
        let hint = Some(text.into());
        match self {
            Self::Usage { message, .. } => Self::Usage { message, hint },
            Self::Failed { error, .. } => Self::Failed { error, hint },
            Self::Told | Self::Signal(_) => self,
        }
    }

    /// What people are told, in one text.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Usage { message, .. } => message.clone(),
            Self::Failed { error, .. } => chain(error),
            Self::Told | Self::Signal(_) => String::new(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed { error: error.into(), hint: None }
    }
}

/// The outcome of a command.
pub(crate) type Outcome = Result<(), Failure>;

/// Tells the failure, if there is one, and returns the exit code.
pub(crate) fn exit_code(outcome: Outcome) -> ExitCode {
    let (message, hint, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Signal(number)) => return ExitCode::from(128 + number),
        Err(Failure::Usage { message, hint }) => (message, hint, ExitCode::from(2)),
        Err(Failure::Failed { error, hint }) => (chain(&error), hint, ExitCode::FAILURE),
    };
    eprintln!("error: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    code
}

/// An error and its causes; one that only repeats what was said is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, "\n  caused by: {cause}");
        }
    }
    text
}
