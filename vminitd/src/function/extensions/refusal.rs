//! Why an extension's call is refused.

use super::LIMIT;

/// A refused call, always with status 403. Texts and types are those of AWS's emulator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(in super::super) enum ExtensionRefusal {
    #[error("Empty extension name")]
    EmptyName,
    #[error("{0}")]
    Format(String),
    #[error("{0}: ErrorInvalidEventType")]
    EventType(String),
    #[error("SHUTDOWN: ShutdownEventNotSupportedForInternalExtension")]
    InternalShutdown,
    #[error("Extension registration closed already")]
    RegistrationClosed,
    #[error("Extension with this name already registered")]
    NameTaken,
    #[error("Extension limit ({LIMIT}) reached")]
    TooMany,
    #[error("Missing Lambda-Extension-Identifier header")]
    NoIdentifier,
    #[error("Invalid Lambda-Extension-Identifier")]
    BadIdentifier,
    #[error("Unknown extension {0}")]
    UnknownIdentifier(String),
    #[error("Lambda-Extension-Function-Error-Type not found")]
    NoErrorType,
    #[error(
        "State transition from {from} to {to} failed for extension {extension}. Error: State transition is not allowed"
    )]
    Transition { from: &'static str, to: &'static str, extension: String },
}

impl ExtensionRefusal {
    /// `errorType`.
    pub(in super::super) fn kind(&self) -> &'static str {
        match self {
            Self::EmptyName => "Extension.InvalidExtensionName",
            Self::Format(_) => "InvalidRequestFormat",
            Self::EventType(_) | Self::InternalShutdown => "Extension.InvalidEventType",
            Self::RegistrationClosed => "Extension.RegistrationClosed",
            Self::NameTaken | Self::Transition { .. } => "Extension.InvalidExtensionState",
            Self::TooMany => "Extension.TooManyExtensions",
            Self::NoIdentifier => "Extension.MissingExtensionIdentifier",
            Self::BadIdentifier => "Extension.InvalidExtensionIdentifier",
            Self::UnknownIdentifier(_) => "Extension.UnknownExtensionIdentifier",
            Self::NoErrorType => "Extension.MissingHeader",
        }
    }
}
