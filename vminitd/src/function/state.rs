//! What the runtime may ask for next: the state machine behind the Runtime API.
//!
//! ```text
//! Absent ─start─► Started ─next─► Ready ─invoke─► Running ─response│error─► ResponseSent
//!                    │              ▲                                            │
//!                    │└init/error─► InitError     └────────────────next──────────┘
//!                    │
//!                    └restore/next─► RestoreReady ─host─► Restoring ─next─► Ready
//!                                                            └restore/error─► RestoreError
//! ```
//! The states' names are those of AWS's emulator, which says them where it refuses a call.

use costrel_agent_proto::v1::Invoke;

/// Where the runtime is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum RuntimeState {
    /// No process runs.
    #[default]
    Absent,
    /// It initialises.
    Started,
    /// It said that its initialisation failed.
    InitError,
    /// It waits to be restored: what its hooks do before a snapshot is done.
    RestoreReady,
    /// It runs what its hooks do after a restore.
    Restoring,
    /// It said that they failed.
    RestoreError,
    /// It waits for an invocation.
    Ready,
    /// It works on the invocation of this id.
    Running(String),
    /// It has answered the invocation of this id.
    ResponseSent(String),
}

/// A call that the state does not allow. The text is what AWS's emulator answers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
    )]
    Transition { from: &'static str, to: &'static str },
    #[error("Invalid request ID")]
    RequestId,
}

/// What a call for the next invocation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Init,
    /// What is done after a restore.
    Restore,
    Invocation,
    Nothing,
}

impl RuntimeState {
    /// The state's name in AWS's messages.
    fn name(&self) -> &'static str {
        match self {
            Self::Absent | Self::Started => "Started",
            Self::InitError => "InitError",
            Self::RestoreReady => "RestoreReady",
            Self::Restoring => "Restoring",
            Self::RestoreError => "RestoreError",
            Self::Ready => "Ready",
            Self::Running(_) => "Running",
            Self::ResponseSent(_) => "ResponseSent",
        }
    }

    fn refuse<T>(&self, to: &'static str) -> Result<T, Refusal> {
        Err(Refusal::Transition { from: self.name(), to })
    }

    /// `GET invocation/next`.
    pub(super) fn ask_next(&mut self) -> Result<Ended, Refusal> {
        let ended = match self {
            Self::Absent | Self::Started => Ended::Init,
            Self::Restoring => Ended::Restore,
            Self::Ready => Ended::Nothing,
            Self::ResponseSent(_) => Ended::Invocation,
            Self::InitError | Self::RestoreReady | Self::RestoreError | Self::Running(_) => {
                return self.refuse("Ready");
            }
        };
        *self = Self::Ready;
        Ok(ended)
    }

    /// An invocation is handed out.
    pub(super) fn begin(&mut self, invoke: &Invoke) {
        *self = Self::Running(invoke.request_id.clone());
    }

    /// `POST invocation/{id}/response` or `…/error`: may it begin? `to` is the state's name that
    /// the call leads to, for the refusal.
    pub(super) fn check_answer(&self, id: &str, to: &'static str) -> Result<(), Refusal> {
        match self {
            Self::Running(current) if current == id => Ok(()),
            Self::ResponseSent(current) if current == id => self.refuse(to),
            _ => Err(Refusal::RequestId),
        }
    }

    /// The answer to invocation `id` is complete.
    pub(super) fn answered(&mut self, id: &str) {
        // Unless the runtime was replaced meanwhile.
        if matches!(self, Self::Running(current) if current == id) {
            *self = Self::ResponseSent(id.to_owned());
        }
    }

    /// `POST init/error`.
    pub(super) fn init_failed(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Started => {
                *self = Self::InitError;
                Ok(())
            }
            _ => self.refuse("InitError"),
        }
    }

    /// `GET restore/next`. Where it is refused, AWS's emulator names the wrong state, as here.
    pub(super) fn ask_restore(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Started => {
                *self = Self::RestoreReady;
                Ok(())
            }
            _ => self.refuse("Ready"),
        }
    }

    /// The host lets the runtime go on.
    pub(super) fn restored(&mut self) {
        // Unless the runtime was replaced meanwhile.
        if *self == Self::RestoreReady {
            *self = Self::Restoring;
        }
    }

    /// `POST restore/error`.
    pub(super) fn restore_failed(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Restoring => {
                *self = Self::RestoreError;
                Ok(())
            }
            _ => self.refuse("RestoreError"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_from_start_to_end() {
        let mut state = RuntimeState::Started;
        assert_eq!(state.ask_next(), Ok(Ended::Init));
        assert_eq!(state.ask_next(), Ok(Ended::Nothing));
        state.begin(&Invoke { request_id: "a".into(), ..Invoke::default() });
        assert_eq!(state.check_answer("b", "InvocationResponse"), Err(Refusal::RequestId));
        assert_eq!(state.check_answer("a", "InvocationResponse"), Ok(()));
        state.answered("b");
        assert_eq!(state, RuntimeState::Running("a".into()));
        state.answered("a");
        assert!(matches!(
            state.check_answer("a", "InvocationResponse"),
            Err(Refusal::Transition { .. })
        ));
        assert_eq!(state.ask_next(), Ok(Ended::Invocation));
    }

    #[test]
    fn refuses_in_the_emulators_words() {
        let mut state = RuntimeState::Ready;
        assert_eq!(
            state.init_failed().unwrap_err().to_string(),
            "State transition from Ready to InitError failed for runtime. Error: State transition is not allowed"
        );
        let mut state = RuntimeState::Running("a".into());
        assert!(
            state
                .ask_next()
                .unwrap_err()
                .to_string()
                .starts_with("State transition from Running to Ready")
        );
        assert_eq!(
            RuntimeState::Started.check_answer("a", "InvocationResponse"),
            Err(Refusal::RequestId)
        );
    }
}
