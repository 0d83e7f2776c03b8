//! The connection, and the calls that concern the machine itself.

use std::{io, sync::Mutex, time::Duration};

use costrel_agent_proto::{
    MESSAGE_LIMIT,
    relay::PIECE_LIMIT,
    v1::{
        DescribeRequest, DescribeResponse, PowerOffRequest, PrepareRequest, ResumeRequest,
        SuspendRequest, agent_client::AgentClient as AgentStub, functions_client::FunctionsClient,
        processes_client::ProcessesClient, relay_client::RelayClient,
    },
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

/// A failed conversation with the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The stream could not be used.
    #[error("cannot talk to the agent in the guest")]
    Connect(#[source] tonic::transport::Error),
    /// A call failed. The text is the agent's, or says that the stream broke.
    #[error("the agent in the guest failed to {call}: {}", status.message())]
    Call {
        /// What it was asked to do, as a verb.
        call: &'static str,
        /// Its answer.
        #[source]
        status: Box<tonic::Status>,
    },
    /// The agent ended a conversation that only the host may end.
    #[error("the agent in the guest broke off")]
    BrokeOff,
}

impl AgentError {
    /// Whether it is the stream that failed, and not the agent that could not do as it was asked.
    #[must_use]
    pub fn is_broken_stream(&self) -> bool {
        match self {
            Self::Connect(_) | Self::BrokeOff => true,
            // What the client says itself where no answer came.
            Self::Call { status, .. } => {
                matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
            }
        }
    }
}

/// A connection to the agent of one machine. Clones share it; it closes with the last of them.
#[derive(Clone, Debug)]
pub struct AgentClient {
    channel: Channel,
}

impl AgentClient {
    /// Takes over a byte stream to the agent's port. Does not wait for the agent.
    ///
    /// # Errors
    /// [`AgentError::Connect`].
    pub async fn connect(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, AgentError> {
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_| {
            // There is one stream; when it is gone, so is the connection.
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        // The name stands in a header that nobody reads. The windows let output flow in pieces of
        // a pipe's size while a response of megabytes is under way.
        let channel = Endpoint::from_static("http://agent")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_with_connector(connector)
            .await
            .map_err(AgentError::Connect)?;
        Ok(Self { channel })
    }

    fn machine(&self) -> AgentStub<Channel> {
        AgentStub::new(self.channel.clone())
    }

    pub(crate) fn functions(&self) -> FunctionsClient<Channel> {
        FunctionsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub(crate) fn processes(&self) -> ProcessesClient<Channel> {
        ProcessesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    pub(crate) fn relay(&self) -> RelayClient<Channel> {
        // A piece, and what surrounds it.
        RelayClient::new(self.channel.clone()).max_decoding_message_size(2 * PIECE_LIMIT)
    }

    /// Asks who answers. Waits for the agent to start.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn describe(&self) -> Result<DescribeResponse, AgentError> {
        Ok(self
            .machine()
            .describe(DescribeRequest {})
            .await
            .map_err(failed("describe itself"))?
            .into_inner())
    }

    /// Has the workload's root file system made.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn prepare(&self, request: PrepareRequest) -> Result<(), AgentError> {
        self.machine().prepare(request).await.map_err(failed("prepare the root file system"))?;
        Ok(())
    }

    /// Has the workload stand still, so that the machine can be saved. The agent listens to this
    /// connection no longer, and ends it: drop it, with the sessions on it.
    ///
    /// # Errors
    /// [`AgentError::Call`]: the workload goes on.
    pub async fn suspend(&self) -> Result<(), AgentError> {
        self.machine().suspend(SuspendRequest {}).await.map_err(failed("suspend the machine"))?;
        Ok(())
    }

    /// Has the workload go on, in the machine that was suspended or in one restored from it. May be
    /// called again when it failed. Says how long it took, in the guest's own time.
    ///
    /// # Errors
    /// [`AgentError::Call`]: the workload stands still as before.
    pub async fn resume(&self, request: ResumeRequest) -> Result<Duration, AgentError> {
        let resumed = self.machine().resume(request).await.map_err(failed("resume the machine"))?;
        Ok(Duration::from_micros(resumed.into_inner().took_us))
    }

    /// Asks the machine to end. It may do so before it answers.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn power_off(&self) -> Result<(), AgentError> {
        self.machine().power_off(PowerOffRequest {}).await.map_err(failed("power off"))?;
        Ok(())
    }
}

pub(crate) fn failed(call: &'static str) -> impl FnOnce(tonic::Status) -> AgentError {
    move |status| AgentError::Call { call, status: Box::new(status) }
}
