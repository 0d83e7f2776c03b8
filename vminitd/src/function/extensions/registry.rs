//! Which extensions there are, and what each may ask for next.

use uuid::Uuid;

use super::{Event, ExtensionRefusal, LIMIT, Subscription};

/// The extensions of one life of the runtime.
#[derive(Debug, Default)]
pub(in super::super) struct Registry {
    extensions: Vec<Extension>,
    /// The runtime has initialised: no more extensions, and no more telemetry subscriptions.
    closed: bool,
    /// The first extension that said that it failed.
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Extension {
    id: Uuid,
    name: String,
    kind: Kind,
    state: State,
    subscriptions: Vec<Subscription>,
    /// What it failed with; empty if it did not, or did not say.
    error_type: String,
    /// It gets this when it asks.
    pending: Option<Event>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A process of its own.
    External,
    /// A part of the runtime.
    Internal,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Started,
    Registered,
    Ready,
    Running,
    InitError,
    ExitError,
    LaunchError,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InitError => "InitError",
            Self::ExitError => "ExitError",
            Self::LaunchError => "LaunchError",
        }
    }
}

/// The call by which an extension said that it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Fault {
    Init,
    Exit,
}

impl Fault {
    /// AWS's name for the failure of the whole.
    pub(in super::super) fn error_type(self) -> &'static str {
        match self {
            Self::Init => "Extension.InitError",
            Self::Exit => "Extension.ExitError",
        }
    }

    fn state(self) -> State {
        match self {
            Self::Init => State::InitError,
            Self::Exit => State::ExitError,
        }
    }
}

/// An extension as it is told to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Status {
    pub(in super::super) name: String,
    pub(in super::super) state: &'static str,
    pub(in super::super) subscriptions: Vec<&'static str>,
    pub(in super::super) error_type: String,
}

impl Registry {
    /// An external extension is about to be launched.
    pub(in super::super) fn launching(&mut self, name: &str) {
        self.add(name, Kind::External, State::Started, vec![]);
    }

    /// It could not be.
    pub(in super::super) fn not_launched(&mut self, name: &str, error_type: &str) {
        if let Some(extension) = self.extensions.iter_mut().find(|it| it.name == name) {
            extension.state = State::LaunchError;
            error_type.clone_into(&mut extension.error_type);
        }
    }

    fn add(&mut self, name: &str, kind: Kind, state: State, to: Vec<Subscription>) -> Uuid {
        let id = Uuid::new_v4();
        self.extensions.push(Extension {
            id,
            name: name.to_owned(),
            kind,
            state,
            subscriptions: to,
            error_type: String::new(),
            pending: None,
        });
        id
    }

    /// `POST register`: the extension's identifier.
    pub(super) fn register(
        &mut self,
        name: &str,
        events: &[String],
    ) -> Result<Uuid, ExtensionRefusal> {
        let external = self
            .extensions
            .iter_mut()
            .find(|extension| extension.name == name && extension.kind == Kind::External);
        let mut subscriptions = Vec::new();
        for event in events {
            let subscription = Subscription::of_name(event)
                .ok_or_else(|| ExtensionRefusal::EventType(event.clone()))?;
            if subscription == Subscription::Shutdown && external.is_none() {
                return Err(ExtensionRefusal::InternalShutdown);
            }
            if !subscriptions.contains(&subscription) {
                subscriptions.push(subscription);
            }
        }
        if let Some(extension) = external {
            if extension.state != State::Started {
                return Err(extension.refuse(State::Registered));
            }
            extension.state = State::Registered;
            extension.subscriptions = subscriptions;
            return Ok(extension.id);
        }
        if self.closed {
            return Err(ExtensionRefusal::RegistrationClosed);
        }
        if self.extensions.len() >= LIMIT {
            return Err(ExtensionRefusal::TooMany);
        }
        if self.extensions.iter().any(|extension| extension.name == name) {
            return Err(ExtensionRefusal::NameTaken);
        }
        Ok(self.add(name, Kind::Internal, State::Registered, subscriptions))
    }

    /// The name behind an identifier.
    pub(in super::super) fn name(&self, id: Uuid) -> Result<&str, ExtensionRefusal> {
        let extension = self.extensions.iter().find(|extension| extension.id == id);
        extension
            .map(|extension| extension.name.as_str())
            .ok_or_else(|| ExtensionRefusal::UnknownIdentifier(id.to_string()))
    }

    fn known(&mut self, id: Uuid) -> Result<&mut Extension, ExtensionRefusal> {
        self.extensions
            .iter_mut()
            .find(|extension| extension.id == id)
            .ok_or_else(|| ExtensionRefusal::UnknownIdentifier(id.to_string()))
    }

    /// `GET event/next` begins to wait.
    pub(super) fn ask_next(&mut self, id: Uuid) -> Result<(), ExtensionRefusal> {
        let extension = self.known(id)?;
        match extension.state {
            State::Registered | State::Running => {
                extension.state = State::Ready;
                Ok(())
            }
            _ => Err(extension.refuse(State::Ready)),
        }
    }

    /// The event that a waiting extension gets, once there is one.
    pub(super) fn take_event(&mut self, id: Uuid) -> Result<Option<Event>, ExtensionRefusal> {
        let extension = self.known(id)?;
        if extension.state != State::Ready {
            return Err(extension.refuse(State::Running));
        }
        let event = extension.pending.take();
        if event.is_some() {
            extension.state = State::Running;
        }
        Ok(event)
    }

    /// `POST init/error` or `exit/error`. It may be repeated; the first counts.
    pub(super) fn failed(
        &mut self,
        id: Uuid,
        fault: Fault,
        error_type: &str,
    ) -> Result<(), ExtensionRefusal> {
        let extension = self.known(id)?;
        match (extension.state, fault) {
            (State::InitError, Fault::Init) | (State::ExitError, Fault::Exit) => return Ok(()),
            (State::Registered, _) | (State::Ready | State::Running, Fault::Exit) => {}
            _ => return Err(extension.refuse(fault.state())),
        }
        extension.state = fault.state();
        error_type.clone_into(&mut extension.error_type);
        self.fault.get_or_insert(fault);
        Ok(())
    }

    /// How the first of those failed that said that they did.
    pub(in super::super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Has an event wait for all who registered for it.
    pub(in super::super) fn post(&mut self, event: &Event) {
        for extension in &mut self.extensions {
            if extension.subscriptions.contains(&event.kind) {
                extension.pending = Some(event.clone());
            }
        }
    }

    /// Ends the time for registrations. Says whether it was not over yet.
    pub(in super::super) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closed, true)
    }

    /// Whether all that were launched have registered.
    pub(in super::super) fn all_registered(&self) -> bool {
        self.extensions.iter().all(|extension| extension.state != State::Started)
    }

    /// Whether all have asked for their next event and none has one left.
    pub(in super::super) fn all_ready(&self) -> bool {
        self.extensions.iter().all(Extension::is_ready)
    }

    /// Whether all have that take part in invocations.
    pub(in super::super) fn invocation_over(&self) -> bool {
        let mut taking_part = self
            .extensions
            .iter()
            .filter(|extension| extension.subscriptions.contains(&Subscription::Invoke));
        taking_part.all(Extension::is_ready)
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.extensions.is_empty()
    }

    pub(in super::super) fn has_internal(&self) -> bool {
        self.extensions.iter().any(|extension| extension.kind == Kind::Internal)
    }

    /// Whether the external extension of this name is to be told of the shutdown.
    pub(in super::super) fn is_told_of_shutdown(&self, name: &str) -> bool {
        self.extensions.iter().any(|extension| {
            extension.name == name && extension.subscriptions.contains(&Subscription::Shutdown)
        })
    }

    /// All, in the order in which they came.
    pub(in super::super) fn statuses(&self) -> Vec<Status> {
        let status = |extension: &Extension| Status {
            name: extension.name.clone(),
            state: extension.state.name(),
            subscriptions: extension.subscriptions.iter().map(|it| it.name()).collect(),
            error_type: extension.error_type.clone(),
        };
        self.extensions.iter().map(status).collect()
    }
}

impl Extension {
    fn is_ready(&self) -> bool {
        self.state == State::Ready && self.pending.is_none()
    }

    fn refuse(&self, to: State) -> ExtensionRefusal {
        let (from, to) = (self.state.name(), to.name());
        ExtensionRefusal::Transition { from, to, extension: self.id.to_string() }
    }
}

impl Status {
    /// As AWS logs it at the end of an initialisation.
    pub(in super::super) fn line(&self) -> String {
        let Self { name, state, subscriptions, error_type } = self;
        let mut line = format!(
            "EXTENSION\tName: {name}\tState: {state}\tEvents: [{}]",
            subscriptions.join(",")
        );
        if !error_type.is_empty() {
            line += "\tError Type: ";
            line += error_type;
        }
        line
    }
}
