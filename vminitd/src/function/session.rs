//! The conversation with the host about the function, and what its parts share.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use costrel_agent_proto::v1::{
    ContinueRestore, Credentials, GuestMessage, HostMessage, Invoke, KillRuntime,
    functions_server::Functions, guest_message, host_message::Message,
};
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{protocol, runtime_api, state::RuntimeState, supervisor};
use crate::{cgroup::Cgroup, output::Output, reaper::Reaper, transport::Retirement};

/// What the Runtime API, the supervisor and the session share.
#[derive(Debug)]
pub(super) struct Shared {
    runtime: Mutex<Runtime>,
    credentials: Mutex<Option<Credentials>>,
    /// An invocation has come, or word that the runtime may go on after a restore.
    arrived: Notify,
    outbox: mpsc::Sender<guest_message::Message>,
    pub(super) reaper: Reaper,
    /// Set once the root was prepared.
    pub(super) cgroup: Arc<OnceLock<Cgroup>>,
}

/// The runtime process as the agent knows it.
#[derive(Debug, Default)]
pub(super) struct Runtime {
    pub(super) state: RuntimeState,
    pub(super) output: Option<Arc<Output>>,
    /// Whether it was told that it may be restored.
    pub(super) snap_start: bool,
    waiting: Option<Invoke>,
}

impl Runtime {
    /// A process that has just started.
    pub(super) fn started(output: Option<Arc<Output>>, snap_start: bool) -> Self {
        Self { state: RuntimeState::Started, output, snap_start, waiting: None }
    }
}

impl Shared {
    pub(super) fn runtime(&self) -> MutexGuard<'_, Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the host, after all that it was told before. Waits while the host does not listen.
    pub(super) async fn send(&self, message: guest_message::Message) {
        // The receiver lives as long as the service.
        let _ = self.outbox.send(message).await;
    }

    /// Returns when all that the function has printed was sent.
    pub(super) async fn drain_output(&self) {
        let output = self.runtime().output.clone();
        if let Some(output) = output {
            output.drain().await;
        }
    }

    pub(super) fn peak_memory(&self) -> u64 {
        self.cgroup.get().map_or(0, Cgroup::peak_memory)
    }

    /// Waits for an invocation and hands it out.
    pub(super) async fn next_invocation(&self) -> Invoke {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut runtime = self.runtime();
                if let Some(invoke) = runtime.waiting.take() {
                    runtime.state.begin(&invoke);
                    return invoke;
                }
            }
            arrived.await;
        }
    }

    /// Waits until the host lets the runtime go on from `restore/next`.
    pub(super) async fn restored(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.runtime().state == RuntimeState::Restoring {
                return;
            }
            arrived.await;
        }
    }

    fn continue_restore(&self) {
        self.runtime().state.restored();
        self.arrived.notify_waiters();
    }

    /// What the runtime gets where it asks for credentials; nothing until the host has given any.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials);
    }

    fn invoke(&self, invoke: Invoke) {
        self.runtime().waiting = Some(invoke);
        self.arrived.notify_waiters();
    }

    /// A runtime process is about to start, or has ended: whatever was under way is void.
    pub(super) fn reset(&self, runtime: Runtime) {
        *self.runtime() = runtime;
    }
}

/// The gRPC service of the function.
#[derive(Clone, Debug)]
pub(crate) struct FunctionService {
    shared: Arc<Shared>,
    // Whoever is attached holds it.
    pub(super) inbox: Arc<AsyncMutex<mpsc::Receiver<guest_message::Message>>>,
    serving: Arc<AsyncMutex<bool>>,
    port: u16,
}

impl FunctionService {
    /// A service without a function; the Runtime API is served from the first runtime on.
    pub(crate) fn new(reaper: Reaper, cgroup: Arc<OnceLock<Cgroup>>) -> Self {
        Self::on_port(reaper, cgroup, protocol::PORT)
    }

    pub(super) fn on_port(reaper: Reaper, cgroup: Arc<OnceLock<Cgroup>>, port: u16) -> Self {
        let (outbox, inbox) = mpsc::channel(8);
        let shared = Shared {
            runtime: Mutex::default(),
            credentials: Mutex::default(),
            arrived: Notify::new(),
            outbox,
            reaper,
            cgroup,
        };
        Self {
            shared: Arc::new(shared),
            inbox: Arc::new(AsyncMutex::new(inbox)),
            serving: Arc::default(),
            port,
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Starts the Runtime API unless it is there. Returns its port.
    pub(super) async fn serve_runtime_api(&self) -> Result<u16, Status> {
        let mut serving = self.serving.lock().await;
        if *serving {
            return Ok(self.port);
        }
        let failed = |error| Status::internal(format!("cannot serve the Runtime API: {error}"));
        let listener = runtime_api::bind(self.port).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        tokio::spawn(runtime_api::serve(listener, Arc::clone(&self.shared)));
        *serving = true;
        Ok(port)
    }

    pub(super) async fn obey(&self, message: Message) -> Result<(), Status> {
        match message {
            Message::StartRuntime(start) => {
                self.serve_runtime_api().await?;
                supervisor::start(&self.shared, start).await;
            }
            Message::Invoke(invoke) => self.shared.invoke(invoke),
            Message::ContinueRestore(ContinueRestore {}) => self.shared.continue_restore(),
            Message::Credentials(credentials) => self.shared.set_credentials(credentials),
            Message::KillRuntime(KillRuntime {}) => {
                if let Some(cgroup) = self.shared.cgroup.get() {
                    cgroup.kill();
                }
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Functions for FunctionService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<GuestMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<HostMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let connection = request.extensions().get::<Retirement>().cloned();
        let retired = async move {
            match connection {
                Some(connection) => connection.retired().await,
                None => std::future::pending().await,
            }
        };
        let mut commands = request.into_inner();
        let service = self.clone();
        let replies = async_stream::stream! {
            let mut inbox = service.inbox.lock().await;
            let mut retired = std::pin::pin!(retired);
            loop {
                tokio::select! {
                    biased;
                    // What is said from now on is for the next who attaches. To end in due form
                    // would put words on the stream that may come out when another has it.
                    () = &mut retired => std::future::pending().await,
                    command = commands.next() => match command {
                        Some(Ok(HostMessage { message: Some(message) })) => {
                            if let Err(status) = service.obey(message).await {
                                yield Err(status);
                                return;
                            }
                        }
                        Some(Ok(HostMessage { message: None })) => {
                            yield Err(Status::invalid_argument("an empty message"));
                            return;
                        }
                        // The host has left.
                        Some(Err(_)) | None => return,
                    },
                    Some(message) = inbox.recv() => yield Ok(GuestMessage { message: Some(message) }),
                }
            }
        };
        Ok(Response::new(Box::pin(replies)))
    }
}
