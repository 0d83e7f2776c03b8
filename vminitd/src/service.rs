//! The gRPC server, and the service of the machine itself.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use costrel_agent_proto::{
    MESSAGE_LIMIT,
    v1::{
        DescribeRequest, DescribeResponse, PowerOffRequest, PowerOffResponse, PrepareRequest,
        PrepareResponse, ResumeRequest, ResumeResponse, SuspendRequest, SuspendResponse,
        agent_server::{Agent, AgentServer},
        functions_server::FunctionsServer,
        processes_server::ProcessesServer,
        relay_server::RelayServer,
    },
};
use rustix::{
    process::Pid,
    system::{RebootCommand, reboot, sethostname, uname},
    time::{ClockId, Timespec, clock_gettime, clock_settime},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    cgroup::Cgroup,
    entropy::EntropyPool,
    function::FunctionService,
    processes::ProcessService,
    reaper::Reaper,
    relay::RelayService,
    reseed, root,
    transport::{Connection, Retirement},
};

/// Why the agent stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Children's ends cannot be learnt.
    #[error("cannot watch for children: {0}")]
    Signals(#[source] io::Error),
    /// The server failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves the host's connections, for ever.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    connections: impl Stream<Item = io::Result<Connection>>,
) -> Result<(), ServeError> {
    let reaper = Reaper::start().map_err(ServeError::Signals)?;
    let cgroup = Arc::new(OnceLock::new());
    let started = clock_gettime(ClockId::Boottime);
    let relay = RelayService::new();
    let machine = MachineService {
        cgroup: Arc::clone(&cgroup),
        entropy: OnceLock::new(),
        listeners: Mutex::default(),
        relay: relay.clone(),
        started,
    };
    let functions = FunctionService::new(reaper.clone(), Arc::clone(&cgroup));
    let processes = ProcessService::new(reaper, cgroup);
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(AgentServer::new(machine))
        .add_service(FunctionsServer::new(functions).max_decoding_message_size(MESSAGE_LIMIT))
        .add_service(ProcessesServer::new(processes).max_decoding_message_size(MESSAGE_LIMIT))
        .add_service(RelayServer::new(relay))
        .serve_with_incoming(connections)
        .await?;
    Ok(())
}

#[derive(Debug)]
struct MachineService {
    /// Both are set once the root was prepared, the cgroup last.
    cgroup: Arc<OnceLock<Cgroup>>,
    entropy: OnceLock<EntropyPool>,
    /// Who is to be told when a machine is restored. Written when it is suspended.
    listeners: Mutex<Vec<Pid>>,
    relay: RelayService,
    started: Timespec,
}

impl MachineService {
    async fn prepare(&self, request: &PrepareRequest) -> Result<(), Status> {
        if self.cgroup.get().is_some() {
            return Err(Status::failed_precondition("the machine was prepared before"));
        }
        if request.clock_unix_nanos > 0 {
            set_clock(request.clock_unix_nanos).map_err(|error| failed("set the clock", error))?;
        }
        let entropy =
            EntropyPool::open().map_err(|error| failed("open the random device", error))?;
        if !request.entropy.is_empty() {
            // Not credited: the kernel has its own sources for that.
            entropy.mix(&request.entropy).map_err(|error| failed("add entropy", error))?;
        }
        let hostname = if request.hostname.is_empty() { "localhost" } else { &request.hostname };
        sethostname(hostname.as_bytes())
            .map_err(|error| failed("set the host name", error.into()))?;
        let limit = (request.memory_limit_bytes > 0).then_some(request.memory_limit_bytes);
        let cgroup = Cgroup::create(Path::new("/sys/fs/cgroup"), limit)
            .map_err(|error| failed("make the cgroup", error))?;
        root::enter(request).map_err(|error| Status::internal(error.to_string()))?;
        self.relay
            .listen(&request.host_ports)
            .await
            .map_err(|error| failed("listen at the host's ports", error))?;
        let _ = self.entropy.set(entropy);
        let _ = self.cgroup.set(cgroup);
        Ok(())
    }

    fn prepared(&self) -> Result<(&Cgroup, &EntropyPool), Status> {
        self.cgroup
            .get()
            .zip(self.entropy.get())
            .ok_or_else(|| Status::failed_precondition("the machine was not prepared"))
    }

    async fn suspend(&self) -> Result<(), Status> {
        let (cgroup, _) = self.prepared()?;
        cgroup.freezer().freeze().await.map_err(|error| failed("stop the workload", error))?;
        *self.listeners() = reseed::listeners(cgroup)
            .map_err(|error| failed("look for programs with random numbers", error))?;
        Ok(())
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Pid>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workload goes on last: it must not see the old clock, draw what others draw too, or run
    /// at all in a machine that is not in order.
    async fn resume(&self, request: &ResumeRequest) -> Result<(), Status> {
        let (cgroup, entropy) = self.prepared()?;
        if (1..ENTROPY_MINIMUM).contains(&request.entropy.len()) {
            let what = format!("fewer than {ENTROPY_MINIMUM} bytes of entropy");
            return Err(Status::invalid_argument(what));
        }
        if request.clock_unix_nanos > 0 {
            set_clock(request.clock_unix_nanos).map_err(|error| failed("set the clock", error))?;
        }
        if !request.entropy.is_empty() {
            entropy
                .reseed(&request.entropy)
                .map_err(|error| failed("reseed the random numbers", error))?;
            reseed::tell(&self.listeners())
                .map_err(|error| failed("have programs reseed theirs", error))?;
        }
        if !request.hostname.is_empty() {
            sethostname(request.hostname.as_bytes())
                .map_err(|error| failed("set the host name", error.into()))?;
        }
        cgroup.freezer().thaw().map_err(|error| failed("let the workload go on", error))
    }
}

/// What the kernel's generator takes for a whole seed, in bytes.
const ENTROPY_MINIMUM: usize = 32;

#[expect(clippy::needless_pass_by_value, reason = "it ends here, as `map_err` has it")]
fn failed(what: &str, error: io::Error) -> Status {
    Status::internal(format!("cannot {what}: {error}"))
}

fn set_clock(unix_nanos: u64) -> io::Result<()> {
    let tv_sec = i64::try_from(unix_nanos / 1_000_000_000).map_err(io::Error::other)?;
    let tv_nsec = i64::try_from(unix_nanos % 1_000_000_000).map_err(io::Error::other)?;
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })?)
}

/// `VmRSS` of this process, in bytes; 0 if the kernel does not say.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
        * 1024
}

#[tonic::async_trait]
impl Agent for MachineService {
    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let micros = self.started.tv_sec * 1_000_000 + self.started.tv_nsec / 1000;
        Ok(Response::new(DescribeResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: uname().release().to_string_lossy().into_owned(),
            agent_started_after_us: micros.cast_unsigned(),
            agent_resident_bytes: resident_bytes(),
        }))
    }

    async fn prepare(
        &self,
        request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        MachineService::prepare(self, request.get_ref()).await?;
        Ok(Response::new(PrepareResponse {}))
    }

    async fn suspend(
        &self,
        request: Request<SuspendRequest>,
    ) -> Result<Response<SuspendResponse>, Status> {
        MachineService::suspend(self).await?;
        if let Some(connection) = request.extensions().get::<Retirement>() {
            connection.retire();
        }
        Ok(Response::new(SuspendResponse {}))
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        let began = Instant::now();
        MachineService::resume(self, request.get_ref()).await?;
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(Response::new(ResumeResponse { took_us }))
    }

    async fn power_off(
        &self,
        _request: Request<PowerOffRequest>,
    ) -> Result<Response<PowerOffResponse>, Status> {
        let cgroup = Arc::clone(&self.cgroup);
        tokio::spawn(async move {
            if let Some(cgroup) = cgroup.get() {
                cgroup.kill();
            }
            // Time for the reply to leave.
            tokio::time::sleep(Duration::from_millis(5)).await;
            rustix::fs::sync();
            let _ = reboot(RebootCommand::PowerOff);
        });
        Ok(Response::new(PowerOffResponse {}))
    }
}
