//! One life of the function: its extensions and its runtime, from their start to their end. The end
//! of any of them is the end of all, as on Lambda.
//!
//! ```text
//! launch extensions ─► all registered ─► launch runtime ─► one ends, or the host says so
//!                                                                      │
//!        host is told ◄─ all are gone ◄─ kill ◄─ extensions: SHUTDOWN ◄┘ runtime: SIGTERM
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use costrel_agent_proto::v1::{
    Exited, ExtensionFailure, RuntimeExited, RuntimeStartFailure, ShutdownReason, StartRuntime,
    guest_message::Message,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    extensions::{self, Event},
    invocation::Status,
    launch::{self, LaunchError, Launched, exited},
    session::{Runtime, Shared},
    telemetry::Record,
};
use crate::{cgroup::Cgroup, reaper::Ending, reseed};

/// How long the shutdown may take where there are external extensions.
const EXTERNAL_BUDGET: Duration = Duration::from_millis(2000);

/// How long where there are internal ones only; it is the runtime's.
const INTERNAL_BUDGET: Duration = Duration::from_millis(500);

/// What of the time is the runtime's where there are external ones only.
const RUNTIME_BUDGET: Duration = Duration::from_millis(300);

/// How long subscribers may take to get what there is before they are shut down.
const FLUSH_BUDGET: Duration = Duration::from_millis(300);

/// How long processes may take to be gone that were killed.
const KILL_BUDGET: Duration = Duration::from_secs(1);

/// Which of the processes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Who {
    Runtime,
    /// The external extension of this name.
    Extension(String),
}

/// How a life comes to its end.
#[derive(Debug)]
enum End {
    Ordered(ShutdownReason),
    /// This was the first process to end.
    Process(Who, Ending),
    /// An extension could not be started.
    NoExtension(String),
    /// The runtime could not be started.
    NoRuntime(String),
}

struct Life {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedReceiver<ShutdownReason>,
    processes: Processes,
    kills_before: u64,
}

/// The processes that were launched, by their main ones.
#[derive(Default)]
struct Processes {
    endings: JoinSet<(Who, Option<Ending>)>,
    running: Vec<(Who, Pid)>,
    runtime_ending: Option<Ending>,
}

/// Begins a life. Whatever becomes of it is a message to the host.
pub(super) fn begin(shared: &Arc<Shared>, mut start: StartRuntime) {
    let (sender, orders) = mpsc::unbounded_channel();
    shared.reset(Runtime::starting(&mut start, sender));
    shared.telemetry.open();
    for record in std::mem::take(&mut start.records) {
        shared.publish(record);
    }
    let life = Life {
        shared: Arc::clone(shared),
        orders,
        processes: Processes::default(),
        kills_before: shared.cgroup.get().map_or(0, Cgroup::out_of_memory_kills),
    };
    tokio::spawn(life.run(start));
}

impl Life {
    async fn run(mut self, start: StartRuntime) {
        let end = self.until_end(start).await;
        let began = Instant::now();
        let out_of_memory = self
            .shared
            .cgroup
            .get()
            .is_some_and(|cgroup| cgroup.out_of_memory_kills() > self.kills_before);
        let failure = if out_of_memory { None } else { self.extension_failure(&end) };
        self.shared.drain_output().await;
        self.tell_subscribers(&end, failure.as_ref(), out_of_memory).await;
        let reason = match end {
            End::Ordered(reason) => reason,
            _ => ShutdownReason::Failure,
        };
        self.shut_down(reason).await;
        self.kill().await;
        self.shared.drain_output().await;
        let peak_memory_bytes = self.shared.peak_memory();
        self.shared.telemetry.end();
        self.shared.reset(Runtime::default());
        let over = match end {
            End::NoRuntime(message) => {
                Message::RuntimeStartFailure(RuntimeStartFailure { message })
            }
            _ => Message::RuntimeExited(RuntimeExited {
                exited: self
                    .processes
                    .runtime_ending
                    .map(|ending| Exited { out_of_memory, ..exited(ending) }),
                peak_memory_bytes,
                extension_failure: failure,
                shutdown_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            }),
        };
        self.shared.send(over).await;
    }

    async fn until_end(&mut self, start: StartRuntime) -> End {
        let mut spec = start.process.unwrap_or_default();
        if start.reseed {
            reseed::enable(&mut spec.environment);
        }
        let directory = &self.shared.extensions;
        let paths = match extensions::find(directory) {
            Ok(paths) => paths,
            Err(error) => {
                return End::NoExtension(format!("open {}: {error}", directory.display()));
            }
        };
        for (index, path) in paths.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.shared.runtime().extensions.launching(&name);
            let launched = if index < extensions::LIMIT {
                launch::extension(&self.shared, path, &spec)
            } else {
                Err(LaunchError::TooManyExtensions)
            };
            match launched {
                Ok(launched) => self.watch(Who::Extension(name), launched),
                Err(error) => {
                    self.shared.runtime().extensions.not_launched(&name, error.kind());
                    return End::NoExtension(error.to_string());
                }
            }
        }
        let shared = Arc::clone(&self.shared);
        loop {
            let change = shared.change();
            if shared.runtime().extensions.all_registered() {
                break;
            }
            tokio::select! {
                biased;
                end = self.end() => return end,
                () = change => {}
            }
        }
        match launch::runtime(&self.shared, &start.bootstrap_candidates, &spec) {
            Ok(launched) => self.watch(Who::Runtime, launched),
            Err(error) => return End::NoRuntime(error.to_string()),
        }
        self.end().await
    }

    fn watch(&mut self, who: Who, Launched { pid, ended, output }: Launched) {
        self.shared.runtime().outputs.push(output);
        self.processes.running.push((who.clone(), pid));
        self.processes.endings.spawn(async move { (who, ended.await.ok()) });
    }

    /// Waits for the first process to end, or for the host's word.
    async fn end(&mut self) -> End {
        tokio::select! {
            biased;
            // The service that gives orders lives as long as this.
            Some(reason) = self.orders.recv() => End::Ordered(reason),
            (who, ending) = self.processes.next_ending() => End::Process(who, ending),
        }
    }

    /// What of the end is an extension's fault.
    fn extension_failure(&self, end: &End) -> Option<ExtensionFailure> {
        let fault = self.shared.runtime().extensions.fault();
        let (error_type, ending) = match (end, fault) {
            (End::Ordered(_) | End::NoRuntime(_), _) => return None,
            (End::NoExtension(message), _) => {
                return Some(ExtensionFailure {
                    error_type: "Extension.LaunchError".to_owned(),
                    exited: None,
                    message: message.clone(),
                });
            }
            // The first word counts: one that says it has failed ends, and others with it.
            (End::Process(_, ending), Some(fault)) => (fault.error_type(), ending),
            (End::Process(Who::Extension(_), ending), None) => ("Extension.Crash", ending),
            (End::Process(Who::Runtime, _), None) => return None,
        };
        Some(ExtensionFailure {
            error_type: error_type.to_owned(),
            exited: Some(exited(*ending)),
            message: String::new(),
        })
    }

    /// That what was under way is over.
    async fn tell_subscribers(
        &self,
        end: &End,
        failure: Option<&ExtensionFailure>,
        out_of_memory: bool,
    ) {
        let error_type = match (end, failure) {
            (_, Some(failure)) => failure.error_type.as_str(),
            (End::NoRuntime(_), None) => "Runtime.InvalidEntrypoint",
            _ if out_of_memory => "Runtime.OutOfMemory",
            _ => "Runtime.ExitError",
        };
        let status = match end {
            End::Ordered(ShutdownReason::Timeout) => Status::Timeout,
            _ => Status::Error(error_type),
        };
        self.shared.telemetry.finish_lines();
        let (under_way, init) = {
            let mut runtime = self.shared.runtime();
            let under_way = runtime.under_way.take().map(|it| it.runtime_done(status));
            let initialising = runtime.extensions.close();
            (under_way, initialising.then(|| runtime.init.runtime_done(status)))
        };
        if let Some(record) = under_way {
            self.shared.telemetry.publish(&record);
        }
        if let Some(record) = init {
            self.shared.telemetry.publish(&record);
        }
        self.shared.tell_of_extensions().await;
    }

    async fn shut_down(&mut self, reason: ShutdownReason) {
        let (none, internal) = {
            let runtime = self.shared.runtime();
            (runtime.extensions.is_empty(), runtime.extensions.has_internal())
        };
        if none {
            return;
        }
        let external = self.processes.running.iter().any(|(who, _)| *who != Who::Runtime);
        let began = Instant::now();
        let deadline = began + if external { EXTERNAL_BUDGET } else { INTERNAL_BUDGET };
        self.processes.signal(&Who::Runtime, Signal::TERM);
        let share = if internal { INTERNAL_BUDGET } else { RUNTIME_BUDGET };
        self.processes.wait_until(began + share, |who| *who == Who::Runtime).await;
        self.processes.signal(&Who::Runtime, Signal::KILL);
        if !external {
            return;
        }
        self.shared.drain_output().await;
        self.shared.telemetry.finish_lines();
        let flushed = Instant::now() + FLUSH_BUDGET;
        let _ = timeout_at(flushed.min(deadline), self.shared.telemetry.flush()).await;
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline_unix = SystemTime::now() + left;
        let since = deadline_unix.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let deadline_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let untold: Vec<Who> = {
            let mut runtime = self.shared.runtime();
            runtime.extensions.post(&Event::shutdown(reason, deadline_ms));
            let is_untold = |who: &Who| match who {
                Who::Runtime => false,
                Who::Extension(name) => !runtime.extensions.is_told_of_shutdown(name),
            };
            self.processes
                .running
                .iter()
                .map(|(who, _)| who)
                .filter(|who| is_untold(who))
                .cloned()
                .collect()
        };
        self.shared.changed();
        for who in &untold {
            self.processes.signal(who, Signal::KILL);
        }
        self.processes.wait_until(deadline, |who| *who != Who::Runtime).await;
    }

    /// Whatever runs is killed. Returns when it is gone.
    async fn kill(&mut self) {
        if let Some(cgroup) = self.shared.cgroup.get() {
            cgroup.kill();
        }
        for (_, pid) in &self.processes.running {
            let _ = kill_process_group(*pid, Signal::KILL);
        }
        let deadline = Instant::now() + KILL_BUDGET;
        self.processes.wait_until(deadline, |_| true).await;
        // What they have left behind is nobody's child here, and has no end that can be awaited.
        if let Some(cgroup) = self.shared.cgroup.get() {
            while cgroup.processes().is_ok_and(|left| !left.is_empty()) && Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

impl Processes {
    /// The next process that ends; never, if none runs. Cancelling it loses nothing.
    async fn next_ending(&mut self) -> (Who, Ending) {
        loop {
            match self.endings.join_next().await {
                Some(Ok((who, ending))) => {
                    self.running.retain(|(running, _)| *running != who);
                    let Some(ending) = ending else { continue };
                    if who == Who::Runtime {
                        self.runtime_ending = Some(ending);
                    }
                    return (who, ending);
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until none of these runs any more, or the time is up.
    async fn wait_until(&mut self, deadline: Instant, these: impl Fn(&Who) -> bool) {
        while self.running.iter().any(|(who, _)| these(who)) {
            if timeout_at(deadline, self.next_ending()).await.is_err() {
                return;
            }
        }
    }

    fn signal(&self, whom: &Who, signal: Signal) {
        let Some((_, pid)) = self.running.iter().find(|(who, _)| who == whom) else { return };
        // It leads a group of its own. To end is for all of it, to be asked is for itself.
        let _ = match signal {
            Signal::KILL => kill_process_group(*pid, signal),
            _ => kill_process(*pid, signal),
        };
    }
}

/// The initialisation that a life begins with.
#[derive(Clone, Debug, Default)]
pub(super) struct Init {
    pub(super) initialization_type: String,
    pub(super) phase: &'static str,
}

impl Init {
    /// `platform.initRuntimeDone`.
    pub(super) fn runtime_done(&self, status: Status<'_>) -> Record {
        let mut record = serde_json::json!({
            "initializationType": self.initialization_type,
            "phase": self.phase,
            "status": status.name(),
        });
        if let Status::Error(error_type) = status {
            record["errorType"] = error_type.into();
        }
        Record::platform("platform.initRuntimeDone", &record)
    }
}
