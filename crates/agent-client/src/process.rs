//! A plain program in the guest.

use bytes::Bytes;
use costrel_agent_proto::v1::{
    CloseStdin, Exited, ProcessSpec, RunRequest, RunResponse, run_request::Request,
    run_response::Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{AgentClient, AgentError, client::failed};

/// A program that was started. Dropping it kills the program.
#[derive(Debug)]
pub struct Process {
    requests: mpsc::Sender<RunRequest>,
    responses: Streaming<RunResponse>,
}

impl AgentClient {
    /// Runs a program. Whether it could be started is the first response.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn run(&self, spec: ProcessSpec) -> Result<Process, AgentError> {
        let (requests, receiver) = mpsc::channel(4);
        let start = RunRequest { request: Some(Request::Start(spec)) };
        requests.send(start).await.map_err(|_| AgentError::BrokeOff)?;
        let responses = self.processes().run(ReceiverStream::new(receiver)).await;
        Ok(Process {
            requests,
            responses: responses.map_err(failed("run a program"))?.into_inner(),
        })
    }
}

/// The exit code that a shell would give: the program's own, or 128 and the signal's number.
#[must_use]
pub fn exit_code(exited: &Exited) -> u32 {
    exited.signal.map_or_else(|| exited.code.unwrap_or(0), |signal| 128 + signal)
}

impl Process {
    /// Writes to the program's standard input. Waits while the program does not read.
    ///
    /// # Errors
    /// [`AgentError::BrokeOff`] once the program has ended.
    pub async fn write_stdin(&self, data: Bytes) -> Result<(), AgentError> {
        self.send(Request::Stdin(data)).await
    }

    /// Closes the program's standard input.
    ///
    /// # Errors
    /// As [`Process::write_stdin`].
    pub async fn close_stdin(&self) -> Result<(), AgentError> {
        self.send(Request::CloseStdin(CloseStdin {})).await
    }

    /// Sends a signal, by its number, to the program.
    ///
    /// # Errors
    /// As [`Process::write_stdin`].
    pub async fn signal(&self, number: u32) -> Result<(), AgentError> {
        self.send(Request::Signal(number)).await
    }

    async fn send(&self, request: Request) -> Result<(), AgentError> {
        self.requests
            .send(RunRequest { request: Some(request) })
            .await
            .map_err(|_| AgentError::BrokeOff)
    }

    /// The next of what the program does; nothing after its end.
    ///
    /// # Errors
    /// [`AgentError::Call`].
    pub async fn response(&mut self) -> Result<Option<Response>, AgentError> {
        let response = self.responses.message().await.map_err(failed("go on"))?;
        Ok(response.and_then(|response| response.response))
    }
}
