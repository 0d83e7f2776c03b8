//! The conversation with the host about the function, and what its parts share.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use costrel_agent_proto::v1::{
    ContinueRestore, Credentials, FunctionIdentity, GuestMessage, HostMessage, InitPhase, Invoke,
    PlatformRecord, ShutdownReason, StartRuntime, functions_server::Functions, guest_message,
    host_message::Message,
};
use tokio::sync::{Mutex as AsyncMutex, Notify, futures::Notified, mpsc};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{
    extensions::{self, Event, Registry},
    invocation::UnderWay,
    life::{self, Init},
    protocol, server,
    state::RuntimeState,
    telemetry::{Hub, Record},
};
use crate::{cgroup::Cgroup, output::Output, reaper::Reaper, transport::Retirement};

/// What the parts of this module share.
#[derive(Debug)]
pub(super) struct Shared {
    runtime: Mutex<Runtime>,
    pub(super) telemetry: Hub,
    credentials: Mutex<Option<Credentials>>,
    /// Something about the runtime or an extension is not as it was.
    change: Notify,
    outbox: mpsc::Sender<guest_message::Message>,
    pub(super) reaper: Reaper,
    /// Where external extensions lie.
    pub(super) extensions: PathBuf,
    /// Set once the root was prepared.
    pub(super) cgroup: Arc<OnceLock<Cgroup>>,
}

/// The runtime and its extensions as the agent knows them.
#[derive(Debug, Default)]
pub(super) struct Runtime {
    /// Counts the times that they were started or have ended.
    pub(super) life: u64,
    pub(super) state: RuntimeState,
    pub(super) extensions: Registry,
    /// Whether what became of them was told.
    pub(super) extensions_told: bool,
    pub(super) function: FunctionIdentity,
    pub(super) init: Init,
    /// Of each process.
    pub(super) outputs: Vec<Arc<Output>>,
    /// Whether the runtime was told that it may be restored.
    pub(super) snap_start: bool,
    pub(super) under_way: Option<UnderWay>,
    waiting: Option<Invoke>,
    /// Where whoever lives is told to end.
    orders: Option<mpsc::UnboundedSender<ShutdownReason>>,
}

impl Runtime {
    /// A life that is about to start.
    pub(super) fn starting(
        start: &mut StartRuntime,
        orders: mpsc::UnboundedSender<ShutdownReason>,
    ) -> Self {
        Self {
            state: RuntimeState::Started,
            function: start.function.take().unwrap_or_default(),
            init: Init {
                initialization_type: std::mem::take(&mut start.initialization_type),
                phase: match start.phase() {
                    InitPhase::Init => "init",
                    InitPhase::Invoke => "invoke",
                },
            },
            snap_start: start.snap_start,
            orders: Some(orders),
            ..Self::default()
        }
    }
}

impl Shared {
    pub(super) fn runtime(&self) -> MutexGuard<'_, Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends at the next change. To be asked for before one looks at what may change.
    pub(super) fn change(&self) -> Notified<'_> {
        self.change.notified()
    }

    /// Has whoever waits for a change look again.
    pub(super) fn changed(&self) {
        self.change.notify_waiters();
    }

    /// Tells the host, after all that it was told before. Waits while the host does not listen.
    pub(super) async fn send(&self, message: guest_message::Message) {
        // The receiver lives as long as the service.
        let _ = self.outbox.send(message).await;
    }

    /// Returns when all that runtime and extensions have printed was sent.
    pub(super) async fn drain_output(&self) {
        let outputs = self.runtime().outputs.clone();
        for output in outputs {
            output.drain().await;
        }
    }

    pub(super) fn peak_memory(&self) -> u64 {
        self.cgroup.get().map_or(0, Cgroup::peak_memory)
    }

    /// Notes something of the invocation under way.
    pub(super) fn under_way(&self, note: impl FnOnce(&mut UnderWay)) {
        if let Some(under_way) = &mut self.runtime().under_way {
            note(under_way);
        }
    }

    /// Waits for an invocation and hands it out. None once the runtime that waits is gone: its call
    /// may be seen to be broken off only later, and must not take what is for the next one.
    pub(super) async fn next_invocation(&self) -> Option<Invoke> {
        let life = self.runtime().life;
        loop {
            let change = self.change();
            {
                let mut runtime = self.runtime();
                if runtime.life != life {
                    return None;
                }
                if let Some(invoke) = runtime.waiting.take() {
                    runtime.state.begin(&invoke);
                    return Some(invoke);
                }
            }
            change.await;
        }
    }

    /// Waits until the host lets the runtime go on from `restore/next`, or it is gone.
    pub(super) async fn restored(&self) {
        let life = self.runtime().life;
        loop {
            let change = self.change();
            {
                let runtime = self.runtime();
                if runtime.state == RuntimeState::Restoring || runtime.life != life {
                    return;
                }
            }
            change.await;
        }
    }

    fn continue_restore(&self) {
        self.runtime().state.restored();
        self.changed();
    }

    /// What the runtime gets where it asks for credentials; nothing until the host has given any.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials);
    }

    fn invoke(&self, invoke: Invoke) {
        {
            let mut runtime = self.runtime();
            runtime.under_way = Some(UnderWay::begin(&invoke));
            runtime.extensions.post(&Event::invoke(&invoke));
            runtime.waiting = Some(invoke);
        }
        self.changed();
    }

    /// Hands what the host knows to who has subscribed.
    pub(super) fn publish(&self, record: PlatformRecord) {
        // The host is trusted to send JSON; what is none would reach nobody.
        if let Ok(value) = serde_json::from_slice(&record.record) {
            self.telemetry.publish(&Record::platform(record.r#type, &value));
        }
    }

    fn shut_down(&self, reason: ShutdownReason) {
        if let Some(orders) = &self.runtime().orders {
            let _ = orders.send(reason);
        }
    }

    /// Runtime and extensions are about to start, or have ended: whatever was under way is void.
    pub(super) fn reset(&self, runtime: Runtime) {
        {
            let mut current = self.runtime();
            let life = current.life + 1;
            *current = Runtime { life, ..runtime };
        }
        self.changed();
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
    /// A service without a function; its APIs are served from the first runtime on.
    pub(crate) fn new(reaper: Reaper, cgroup: Arc<OnceLock<Cgroup>>) -> Self {
        Self::on_port(reaper, cgroup, protocol::PORT, PathBuf::from(extensions::DIRECTORY))
    }

    pub(super) fn on_port(
        reaper: Reaper,
        cgroup: Arc<OnceLock<Cgroup>>,
        port: u16,
        extensions: PathBuf,
    ) -> Self {
        let (outbox, inbox) = mpsc::channel(8);
        let shared = Shared {
            runtime: Mutex::default(),
            telemetry: Hub::default(),
            credentials: Mutex::default(),
            change: Notify::new(),
            outbox,
            reaper,
            extensions,
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
        let listener = server::bind(self.port).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        tokio::spawn(server::serve(listener, Arc::clone(&self.shared)));
        *serving = true;
        Ok(port)
    }

    pub(super) async fn obey(&self, message: Message) -> Result<(), Status> {
        match message {
            Message::StartRuntime(start) => {
                self.serve_runtime_api().await?;
                life::begin(&self.shared, start);
            }
            Message::Invoke(invoke) => self.shared.invoke(invoke),
            Message::ContinueRestore(ContinueRestore {}) => self.shared.continue_restore(),
            Message::Credentials(credentials) => self.shared.set_credentials(credentials),
            Message::ShutDown(order) => self.shared.shut_down(order.reason()),
            Message::PlatformRecord(record) => self.shared.publish(record),
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
