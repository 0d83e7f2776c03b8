//! One sandbox that runs a function.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use costrel_agent_client::{
    AgentError, FunctionSession,
    wire::{
        Account, Credentials, FunctionIdentity, InitPhase as WirePhase, OutputStream, ProcessSpec,
        RootAccess, RuntimeExited, StartRuntime, guest_message::Message,
    },
};
use costrel_sandbox::{Sandbox, SandboxSpec, StartError};
use costrel_vmm::{Exit, Memory, Saving, SpecError, VcpuCount};
use tokio::{sync::mpsc, time::timeout_at};

use crate::{
    FunctionError, FunctionMemory, Initialization, Invocation, Outcome, Reply, Report,
    ResponsePart, ShutdownReason, StagedFunction, Timeline,
    cold_start::Publishing,
    environment::credentials_token,
    failure::{
        RESPONSE_TOO_LARGE, exit_reason, extension_error_type, extension_reason, timeout_reason,
    },
    init::{InitFailure, Stand},
    log::{self, FailureStatus, InitPhase, LogSink},
    records,
    response::ResponseIntake,
};

/// How long runtime and extensions that are to end may take to be gone: 2 s are for themselves.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The memory, in MB, with which a function gets one vCPU's worth of CPU on AWS.
const MEMORY_PER_VCPU: u32 = 1769;

/// A failure of the machine or the agent: not the function's, and not to be told to its caller
/// as such. The instance is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The sandbox did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The machine cannot be as the function wants it.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The machine ended.
    #[error("the function's virtual machine ended: {0}")]
    Ended(Exit),
    /// The agent failed while the machine ran on.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The runtime could not be killed.
    #[error("the function's runtime did not end within {} s of being told to", KILL_LIMIT.as_secs())]
    Unkillable,
}

/// A running instance of a function. Dropping it ends its machine.
pub struct Instance {
    pub(crate) function: Arc<StagedFunction>,
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) sandbox: Sandbox,
    pub(crate) session: FunctionSession,
    pub(crate) runtime: RuntimeStatus,
    pub(crate) fitness: Fitness,
    pub(crate) peak_memory: u64,
    /// What of the invocation's time went into ending runtime and extensions.
    pub(crate) shutting_down: Duration,
    /// Whether instances to come go on from this one.
    pub(crate) saving: Saving,
    /// A snapshot of it that is being completed.
    pub(crate) publishing: Option<Publishing>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("sandbox", &self.sandbox)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

/// Whether an instance may serve again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fitness {
    Fit,
    /// In an invocation. Where that ends half-way, it stays so: nobody knows what runs in there.
    Busy,
    /// What it was restored for has failed: AWS throws such a one away.
    Spent,
}

#[derive(Clone, Debug)]
pub(crate) enum RuntimeStatus {
    /// It waits for an invocation. How it came to be ready, if no REPORT has said so yet.
    Ready { unreported: Option<ColdStart> },
    /// It must be started first.
    Down,
    /// What it does after a restore has failed, which is what the next invocation is told.
    Broken(InitFailure),
}

/// What the first invocation has waited for, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ColdStart {
    Init(Duration),
    Restore(Duration),
}

/// What an invocation came to, before REPORT.
struct Answer {
    reply: Result<Reply, FunctionError>,
    failure: Option<FailureStatus>,
}

impl Instance {
    /// The sandbox.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// What the agent occupies in the guest's memory, in bytes, if it says.
    pub async fn agent_memory(&self) -> Option<u64> {
        self.sandbox.agent().describe().await.ok().map(|agent| agent.agent_resident_bytes)
    }

    /// Ends the instance. Nothing of it is left when this returns; a snapshot that was taken of it
    /// is complete.
    pub async fn stop(mut self) {
        let publishing = self.publishing.take();
        self.sandbox.kill().await;
        if let Some(publishing) = publishing {
            publishing.done(&*self.log).await;
        }
    }

    /// Whether it may serve another invocation. A runtime that has ended, or was killed since its
    /// time was up, is no obstacle: as on AWS, the next invocation starts it anew in the same
    /// machine, where nothing has stayed but the contents of /tmp.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.fitness == Fitness::Fit
    }

    /// Ends the instance as [`Instance::stop`] does, after its extensions were told why and had
    /// their time to end.
    pub async fn shut_down(mut self, reason: ShutdownReason) {
        if self.fitness == Fitness::Fit && matches!(self.runtime, RuntimeStatus::Ready { .. }) {
            // The machine ends in any case.
            let _ = self.end_runtime(reason).await;
        }
        self.stop().await;
    }

    /// Runs one invocation, to the runtime's readiness for the next or to the end of it.
    ///
    /// `response`: where the response goes as it comes, for a caller who streams; it is not read
    /// any faster than it is received there, and nobody minds if the receiver is gone. Without, it
    /// is collected into the outcome.
    ///
    /// # Errors
    /// [`InstanceError`]; the function's own failures are in the outcome. The instance is of no use
    /// after an error, nor if this is cancelled.
    pub async fn invoke(
        &mut self,
        invocation: &Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
        timeline: &mut Timeline,
    ) -> Result<Outcome, InstanceError> {
        self.fitness = Fitness::Busy;
        self.shutting_down = Duration::ZERO;
        let id = &invocation.request_id;
        let spec = &self.function.spec;
        let limit = spec.timeout.as_duration();
        self.log.platform(&log::start(id, &spec.version));
        let began = Instant::now();
        let deadline = (began + limit, SystemTime::now() + limit);
        let mut cold_start = None;
        let mut fitness = Fitness::Fit;
        let answer = match std::mem::replace(&mut self.runtime, RuntimeStatus::Down) {
            RuntimeStatus::Ready { unreported } => {
                cold_start = unreported;
                self.run(invocation, response, deadline).await?
            }
            RuntimeStatus::Down => match self.initialise_anew(deadline.0).await? {
                Ok(()) => self.run(invocation, response, deadline).await?,
                Err(failure) => {
                    let status = failure.status();
                    self.log.platform(&log::init_report(
                        began.elapsed(),
                        InitPhase::Invoke,
                        &status,
                    ));
                    let error = failure.into_error(id, FunctionError::timed_out(id, limit));
                    Answer { reply: Err(error), failure: Some(status) }
                }
            },
            RuntimeStatus::Broken(failure) => {
                fitness = Fitness::Spent;
                let status = failure.status();
                let error = failure.into_error(id, FunctionError::restore_timed_out());
                Answer { reply: Err(error), failure: Some(status) }
            }
        };
        if answer.failure == Some(FailureStatus::Timeout) {
            self.log.platform(&log::timed_out(jiff::Timestamp::now(), id, &timeout_reason(limit)));
        }
        let spec = &self.function.spec;
        let report = Report {
            // What is above the limit is this side's own doing.
            duration: began.elapsed().saturating_sub(self.shutting_down).min(limit),
            init_duration: cold_start.and_then(|it| match it {
                ColdStart::Init(took) => Some(took),
                ColdStart::Restore(_) => None,
            }),
            restore_duration: cold_start.and_then(|it| match it {
                ColdStart::Init(_) => None,
                ColdStart::Restore(took) => Some(took),
            }),
            memory_size_mb: spec.memory.as_megabytes(),
            max_memory_used_mb: megabytes(self.peak_memory, spec.memory),
            failure: answer.failure,
        };
        timeline.end("invoke", began);
        self.log.platform(&log::end(id));
        self.log.platform(&log::report(id, &report));
        if let Some(line) = log::xray(&invocation.trace_id) {
            self.log.platform(&line);
        }
        if matches!(self.runtime, RuntimeStatus::Ready { .. }) {
            // The outcome stands. That the machine is gone since then is for the next to find.
            let _ = self.session.tell_subscribers(records::end(invocation)).await;
            let _ = self.session.tell_subscribers(records::report(invocation, &report)).await;
        }
        self.fitness = fitness;
        Ok(Outcome { reply: answer.reply, report })
    }

    /// Starts the runtime and waits until it is initialised. When it fails, nothing of it runs on.
    pub(crate) async fn initialise(
        &mut self,
        phase: InitPhase,
        deadline: Instant,
    ) -> Result<Result<Stand, InitFailure>, InstanceError> {
        let function = &self.function;
        let process = ProcessSpec {
            arguments: function.arguments.clone(),
            environment: function.environment.clone(),
            working_directory: function.working_directory.clone(),
            user: format!("{SANDBOX_UID}:{SANDBOX_GID}"),
        };
        let spec = &function.spec;
        let identity = FunctionIdentity {
            name: spec.name.clone(),
            version: spec.version.clone(),
            handler: function.handler.clone().unwrap_or_default(),
            account_id: spec.account_id.clone(),
        };
        let start = StartRuntime {
            process: Some(process),
            bootstrap_candidates: function.bootstraps.clone(),
            snap_start: spec.initialization == Initialization::SnapStart,
            reseed: self.saving == Saving::Expected,
            function: Some(identity),
            initialization_type: spec.initialization.name().to_owned(),
            phase: WirePhase::from(phase).into(),
            records: vec![records::init_start(function, phase)],
        };
        self.give_credentials().await?;
        self.session.start_runtime(start).await?;
        self.initialised(deadline).await
    }

    /// Starts the runtime again. It goes straight on where it would be saved.
    async fn initialise_anew(
        &mut self,
        deadline: Instant,
    ) -> Result<Result<(), InitFailure>, InstanceError> {
        let began = Instant::now();
        let ready = match self.initialise(InitPhase::Invoke, deadline).await? {
            Ok(Stand::Next) => Ok(()),
            Ok(Stand::RestoreNext) => self.go_on(deadline).await?,
            Err(failure) => Err(failure),
        };
        if ready.is_ok() {
            let spec = &self.function.spec;
            let report = records::init_report(spec, InitPhase::Invoke, began.elapsed());
            self.session.tell_subscribers(report).await?;
        }
        Ok(ready)
    }

    /// Lets a runtime go on that waits in `restore/next`, to its readiness for an invocation.
    pub(crate) async fn go_on(
        &mut self,
        deadline: Instant,
    ) -> Result<Result<(), InitFailure>, InstanceError> {
        self.session.continue_restore().await?;
        Ok(self.initialised(deadline).await?.map(drop))
    }

    /// Has the agent serve the function's credentials, where they are not in its environment.
    pub(crate) async fn give_credentials(&self) -> Result<(), InstanceError> {
        let spec = &self.function.spec;
        if let (Some(credentials), Initialization::SnapStart) =
            (&spec.credentials, spec.initialization)
        {
            let authorization_token = credentials_token(spec);
            let body = credentials.to_json(jiff::Timestamp::now()).into();
            self.session.set_credentials(Credentials { authorization_token, body }).await?;
        }
        Ok(())
    }

    /// Waits until the runtime asks for what comes next.
    async fn initialised(
        &mut self,
        deadline: Instant,
    ) -> Result<Result<Stand, InitFailure>, InstanceError> {
        let failure = loop {
            match self.event_until(deadline).await? {
                Some(Message::InitDone(_)) => return Ok(Ok(Stand::Next)),
                Some(Message::RestoreReady(_)) => return Ok(Ok(Stand::RestoreNext)),
                Some(Message::InitError(report) | Message::RestoreError(report)) => {
                    self.end_runtime(ShutdownReason::Failure).await?;
                    break InitFailure::Reported {
                        error_type: report.error_type,
                        body: report.body,
                    };
                }
                Some(Message::RuntimeExited(over)) => {
                    self.note_end(&over);
                    break over.into();
                }
                Some(Message::RuntimeStartFailure(failure)) => {
                    break InitFailure::NoRuntime(failure.message);
                }
                // Nothing else belongs here.
                Some(_) => {}
                None => {
                    self.end_runtime(ShutdownReason::Timeout).await?;
                    break InitFailure::Timeout;
                }
            }
        };
        Ok(Err(failure))
    }

    /// Hands the invocation to a runtime that is ready.
    async fn run(
        &mut self,
        invocation: &Invocation,
        parts: Option<mpsc::Sender<ResponsePart>>,
        (deadline, wall_deadline): (Instant, SystemTime),
    ) -> Result<Answer, InstanceError> {
        let id = &invocation.request_id;
        self.runtime = RuntimeStatus::Down;
        let version = &self.function.spec.version;
        self.session.tell_subscribers(records::start(invocation, version)).await?;
        self.session.invoke(invocation.to_wire(wall_deadline)).await?;
        let mut response = ResponseIntake::new(parts);
        loop {
            let Some(event) = self.event_until(deadline).await? else {
                return self.timed_out(id, response).await;
            };
            // Whoever takes the response in parts may keep it waiting, and is then cut off.
            let taken_in = match event {
                Message::ResponseStart(start) => {
                    timeout_at(deadline.into(), response.start(start)).await
                }
                Message::ResponseChunk(chunk) => {
                    timeout_at(deadline.into(), response.chunk(chunk)).await
                }
                Message::ResponseEnd(end) => timeout_at(deadline.into(), response.end(end)).await,
                Message::InvokeError(report) if report.request_id == *id => {
                    response.failed(report);
                    Ok(())
                }
                Message::InvokeDone(done) => {
                    self.peak_memory = self.peak_memory.max(done.peak_memory_bytes);
                    self.runtime = RuntimeStatus::Ready { unreported: None };
                    let reply = response.into_outcome().unwrap_or_else(|| {
                        Err(FunctionError::no_runtime(
                            id,
                            "Runtime asked for the next invocation without an answer",
                        ))
                    });
                    return Ok(Answer { reply, failure: None });
                }
                Message::RuntimeExited(over) => {
                    self.note_end(&over);
                    return Ok(self.exited_during(id, response.into_outcome(), over));
                }
                _ => Ok(()),
            };
            if taken_in.is_err() {
                return self.timed_out(id, response).await;
            }
        }
    }

    async fn timed_out(
        &mut self,
        id: &str,
        response: ResponseIntake,
    ) -> Result<Answer, InstanceError> {
        self.end_runtime(ShutdownReason::Timeout).await?;
        // A response that is complete stays one, even if the runtime never came back.
        let limit = self.function.spec.timeout.as_duration();
        let reply =
            response.into_outcome().unwrap_or_else(|| Err(FunctionError::timed_out(id, limit)));
        Ok(Answer { reply, failure: Some(FailureStatus::Timeout) })
    }

    /// Runtime and extensions have ended in an invocation. The next one starts them anew.
    fn exited_during(
        &self,
        id: &str,
        reply: Option<Result<Reply, FunctionError>>,
        over: RuntimeExited,
    ) -> Answer {
        // A client whose response was refused may end by that. It is no news.
        if let Some(Err(refused)) = &reply
            && refused.error_type == RESPONSE_TOO_LARGE
        {
            return Answer { reply: Err(refused.clone()), failure: None };
        }
        let (reason, error_type, error) = match over.extension_failure {
            Some(failure) => (
                extension_reason(&failure),
                extension_error_type(&failure),
                FunctionError::extension_failed(id, &failure),
            ),
            None => {
                let exited = over.exited.unwrap_or_default();
                (exit_reason(&exited), "Runtime.ExitError", FunctionError::exited(id, &exited))
            }
        };
        self.log.platform(&log::exited(id, &reason, error_type));
        let failure = Some(FailureStatus::Error(error.error_type.clone()));
        Answer { reply: reply.unwrap_or(Err(error)), failure }
    }

    fn note_end(&mut self, over: &RuntimeExited) {
        self.peak_memory = self.peak_memory.max(over.peak_memory_bytes);
        self.shutting_down += Duration::from_micros(over.shutdown_us);
    }

    /// Ends runtime and extensions, as on AWS where it resets a sandbox. What is in /tmp stays.
    async fn end_runtime(&mut self, reason: ShutdownReason) -> Result<(), InstanceError> {
        self.session.shut_down(reason.into()).await?;
        let deadline = Instant::now() + KILL_LIMIT;
        loop {
            match self.event_until(deadline).await? {
                Some(Message::RuntimeExited(over)) => {
                    self.note_end(&over);
                    return Ok(());
                }
                Some(_) => {}
                None => return Err(InstanceError::Unkillable),
            }
        }
    }

    /// The next event but what is printed, which goes to the log; nothing when the time is up.
    async fn event_until(&mut self, deadline: Instant) -> Result<Option<Message>, InstanceError> {
        loop {
            let event = match tokio::time::timeout_at(deadline.into(), self.session.event()).await {
                Err(_) => return Ok(None),
                Ok(Ok(event)) => event,
                Ok(Err(error)) => return Err(self.broken(error).await),
            };
            match event {
                Message::Output(output) => {
                    let stream =
                        OutputStream::try_from(output.stream).unwrap_or(OutputStream::Stderr);
                    self.log.function(stream, &output.data);
                }
                Message::PlatformLine(line) => self.log.platform(&log::guests_line(&line)),
                event => return Ok(Some(event)),
            }
            // A function that prints without a pause must not keep time from passing.
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// A broken stream is what a machine's end looks like from here. That end tells more.
    async fn broken(&self, error: AgentError) -> InstanceError {
        match tokio::time::timeout(Duration::from_secs(2), self.sandbox.machine().wait()).await {
            Ok(exit) => InstanceError::Ended(exit),
            Err(_) => error.into(),
        }
    }
}

impl From<InitPhase> for WirePhase {
    fn from(phase: InitPhase) -> Self {
        match phase {
            InitPhase::Init => Self::Init,
            InitPhase::Invoke => Self::Invoke,
        }
    }
}

/// The user and group that AWS runs functions as.
const SANDBOX_UID: u32 = 993;
const SANDBOX_GID: u32 = 990;

pub(crate) fn sandbox_spec(
    function: &StagedFunction,
    saving: Saving,
) -> Result<SandboxSpec, SpecError> {
    let memory = function.spec.memory;
    let vcpus = memory.as_megabytes().div_ceil(MEMORY_PER_VCPU).clamp(1, 6);
    let available = std::thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    Ok(SandboxSpec {
        memory: Memory::mib(memory.machine_bytes() >> 20)?,
        vcpus: VcpuCount::new(vcpus.min(available))?,
        workload_memory_limit: Some(memory.as_bytes()),
        root_disks: function.disks.clone(),
        root_access: RootAccess::ReadOnly,
        scratch_size: function.spec.ephemeral_storage.as_bytes(),
        accounts: vec![Account {
            name: "sbx_user1051".to_owned(),
            uid: SANDBOX_UID,
            gid: SANDBOX_GID,
        }],
        saving,
        host_ports: function.host_ports.clone(),
    })
}

fn megabytes(bytes: u64, most: FunctionMemory) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(most.as_megabytes())
}
