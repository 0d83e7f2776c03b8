//! The conversation about the machine's Lambda function.

use costrel_agent_proto::v1::{
    ContinueRestore, Credentials, GuestMessage, HostMessage, Invoke, PlatformRecord, ShutDown,
    ShutdownReason, StartRuntime, guest_message, host_message::Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{AgentClient, AgentError, client::failed};

/// An attachment to the function: commands go in, events come out, in order.
#[derive(Debug)]
pub struct FunctionSession {
    commands: mpsc::Sender<HostMessage>,
    events: Streaming<GuestMessage>,
}

impl AgentClient {
    /// Attaches to the machine's function. What it said while nobody was attached comes first.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn attach_function(&self) -> Result<FunctionSession, AgentError> {
        let (commands, receiver) = mpsc::channel(4);
        let events = self.functions().attach(ReceiverStream::new(receiver)).await;
        Ok(FunctionSession {
            commands,
            events: events.map_err(failed("attach to the function"))?.into_inner(),
        })
    }
}

impl FunctionSession {
    /// Starts the runtime. Its first event is [`guest_message::Message::InitDone`] or a failure;
    /// where it may be restored, it may be [`guest_message::Message::RestoreReady`].
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn start_runtime(&self, start: StartRuntime) -> Result<(), AgentError> {
        self.send(Message::StartRuntime(start)).await
    }

    /// Lets the runtime go on that waits for it since [`guest_message::Message::RestoreReady`]. Its
    /// next event is as after its start.
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn continue_restore(&self) -> Result<(), AgentError> {
        self.send(Message::ContinueRestore(ContinueRestore {})).await
    }

    /// Gives the runtime credentials to ask for, in place of those given before.
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn set_credentials(&self, credentials: Credentials) -> Result<(), AgentError> {
        self.send(Message::Credentials(credentials)).await
    }

    /// Hands an invocation to the runtime.
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn invoke(&self, invoke: Invoke) -> Result<(), AgentError> {
        self.send(Message::Invoke(invoke)).await
    }

    /// Ends the runtime and its extensions, which takes up to 2 s if there are any. The event is
    /// [`guest_message::Message::RuntimeExited`].
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn shut_down(&self, reason: ShutdownReason) -> Result<(), AgentError> {
        self.send(Message::ShutDown(ShutDown { reason: reason.into() })).await
    }

    /// Tells who has subscribed to the platform's records.
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`].
    pub async fn tell_subscribers(&self, record: PlatformRecord) -> Result<(), AgentError> {
        self.send(Message::PlatformRecord(record)).await
    }

    async fn send(&self, message: Message) -> Result<(), AgentError> {
        let message = HostMessage { message: Some(message) };
        self.commands.send(message).await.map_err(|_| AgentError::BrokeOff)
    }

    /// The next event. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`AgentError::Call`] or [`AgentError::BrokeOff`]: the machine has ended, or its agent has.
    pub async fn event(&mut self) -> Result<guest_message::Message, AgentError> {
        loop {
            match self.events.message().await.map_err(failed("go on"))? {
                Some(GuestMessage { message: Some(message) }) => return Ok(message),
                // A kind of event that this host does not know.
                Some(GuestMessage { message: None }) => {}
                None => return Err(AgentError::BrokeOff),
            }
        }
    }
}
