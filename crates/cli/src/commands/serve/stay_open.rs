//! docker-lambda's stay-open mode: the API on one port, for one function of whatever name.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use costrel_agent_client::wire::OutputStream;
use costrel_fleet::{
    Fleet, FleetLimits, FleetObserver, FleetStatus, FleetVersion, InvocationRecord, InvokeError,
    Invoked, LogLine, LogSource, SnapshotUse, VersionKey,
};
use costrel_functions::{FunctionSpec, Invocation, ResponsePart, log::LogSink as _};
use costrel_lambda_api::{
    ApiError, Callable, FunctionRow, FunctionUrl, GaugeSource, Gauges, HistoryEntry, Invoker,
    Remote, Server, ServerLimits, StatusSource, docker_lambda_router,
};
use costrel_rootfs::CodeSource;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    declare::CHANGED,
    memory,
    server::{self, Machines},
    stamp::stamp,
    watch::Watch,
};
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    log_printer::LogPrinter,
};

const DEFAULT_PORT: u16 = 9001;

/// How long what is under way may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// The one function, and the instances of its present revision.
#[derive(Clone)]
pub(super) struct OneFunction {
    fleet: Fleet,
    arn: Arc<str>,
    version: Arc<Mutex<Arc<FleetVersion>>>,
}

/// Serves the function until SIGINT or SIGTERM. SIGHUP restarts it.
pub(crate) async fn stay_open(
    spec: FunctionSpec,
    arn: String,
    log: LogPrinter,
    machines: &Machines<'_>,
    (environment, config): (&Environment, &Config),
) -> Outcome {
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let port = match environment.text("DOCKER_LAMBDA_API_PORT") {
        None => DEFAULT_PORT,
        Some(text) => text.parse().map_err(|_| {
            Failure::usage(format!("DOCKER_LAMBDA_API_PORT is {text:?}: it must be a port"))
        })?,
    };
    for (name, why) in [
        ("DOCKER_LAMBDA_RUNTIME_PORT", "the runtime has a machine of its own, where 9001 is free"),
        ("DOCKER_LAMBDA_DEBUG", "no debugger reaches into the function's machine"),
    ] {
        if environment.get(name).is_some() {
            eprintln!("warning: {name} has no effect: {why}");
        }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = Server::bind(address, Remote::Refused, None, ServerLimits::default()).await?;
    let limits = FleetLimits::of_memory(memory::default_limit());
    let observer = Arc::new(Plain(log));
    let fleet = server::fleet(limits, machines, observer, (environment, config))?;
    let watched = environment.get("DOCKER_LAMBDA_WATCH").map(|_| made_of(&spec));
    let name = spec.name.clone();
    let function = OneFunction::new(fleet.clone(), spec, arn.into());
    let services = server::services_of_one(function.clone(), environment);
    let router = docker_lambda_router(&services, &name);
    eprintln!("Lambda API listening on port {}...", server.address().port());
    let serving = server.serve(router, std::future::pending(), GRACE);
    tokio::pin!(serving);
    let watching = watch(function.clone(), watched);
    tokio::pin!(watching);
    loop {
        tokio::select! {
            () = &mut serving => break,
            () = &mut watching => {}
            _ = hangup.recv() => function.restart(),
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    tokio::select! {
        () = fleet.drain(GRACE) => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The code and the layers.
fn made_of(spec: &FunctionSpec) -> Vec<PathBuf> {
    let code = spec.package.code.as_ref().map(|code| match code {
        CodeSource::Directory(path) | CodeSource::Zip(path) => path.clone(),
    });
    code.into_iter().chain(spec.layers.iter().cloned()).collect()
}

/// Restarts the function when what it is made of changes. Never ends.
async fn watch(function: OneFunction, paths: Option<Vec<PathBuf>>) {
    let Some(paths) = paths else { return std::future::pending().await };
    let mut watch = Watch::new(&paths);
    if let Some(obstacle) = &watch.obstacle {
        eprintln!("warning: the kernel does not tell of changes ({obstacle})");
    }
    let mut known = stamp(&paths).ok();
    loop {
        watch.changed().await;
        watch.renew(&paths);
        let found = stamp(paths.iter().map(PathBuf::as_path).filter(|path: &&Path| path.exists()));
        if found.as_ref().ok() != known.as_ref() {
            eprintln!("{CHANGED}");
            known = found.ok();
            function.restart();
        }
    }
}

impl OneFunction {
    fn new(fleet: Fleet, spec: FunctionSpec, arn: Arc<str>) -> Self {
        let key = VersionKey {
            function: spec.name.clone(),
            version: spec.version.clone(),
            revision: uuid::Uuid::new_v4().to_string(),
        };
        let version = FleetVersion { key, spec, snapshots: SnapshotUse::IfPossible };
        Self { fleet, arn, version: Arc::new(Mutex::new(Arc::new(version))) }
    }

    fn version(&self) -> Arc<FleetVersion> {
        Arc::clone(&self.version.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next invocation gets a new instance, of the code as it is then.
    fn restart(&self) {
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = (**version).clone();
        fresh.key.revision = uuid::Uuid::new_v4().to_string();
        let key = fresh.key.clone();
        *version = Arc::new(fresh);
        drop(version);
        self.fleet.retire(&key.function, &|known| *known == key);
    }
}

/// Nothing shows it: docker-lambda has no page.
impl StatusSource for OneFunction {
    fn functions(&self) -> Vec<FunctionRow> {
        Vec::new()
    }

    fn fleet(&self) -> FleetStatus {
        self.fleet.status()
    }

    fn log(&self, _: &HistoryEntry) -> Result<Vec<costrel_logs::LogLine>, String> {
        Ok(Vec::new())
    }
}

impl GaugeSource for OneFunction {
    fn read(&self) -> Gauges {
        Gauges { fleet: Some(self.fleet.status()), ..Gauges::default() }
    }
}

impl Invoker for OneFunction {
    fn resolve(&self, _: &str, _: Option<&str>) -> Result<Arc<dyn Callable>, ApiError> {
        let (version, function) = (self.version(), self.clone());
        Ok(Arc::new(OneVersion { version, function }))
    }

    fn function_url(&self, _: &str) -> Option<Arc<FunctionUrl>> {
        None
    }
}

struct OneVersion {
    version: Arc<FleetVersion>,
    function: OneFunction,
}

#[async_trait]
impl Callable for OneVersion {
    fn function(&self) -> &str {
        &self.version.key.function
    }

    fn version(&self) -> &str {
        &self.version.key.version
    }

    fn arn(&self) -> &str {
        &self.function.arn
    }

    async fn invoke(
        &self,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        self.function.fleet.invoke(&self.version, invocation, response).await
    }

    /// As docker-lambda does it: run at once, and once.
    async fn enqueue(&self, invocation: Invocation) -> Result<(), ApiError> {
        let (fleet, version) = (self.function.fleet.clone(), Arc::clone(&self.version));
        tokio::spawn(async move {
            if let Err(error) = fleet.invoke(&version, invocation, None).await {
                eprintln!("warning: an event was not run: {error}");
            }
        });
        Ok(())
    }
}

/// The log as docker-lambda prints it: without names.
struct Plain(LogPrinter);

impl FleetObserver for Plain {
    fn log(&self, line: &LogLine) {
        match line.source {
            LogSource::Platform => self.0.platform(&String::from_utf8_lossy(&line.bytes)),
            LogSource::Notice => self.0.notice(&String::from_utf8_lossy(&line.bytes)),
            LogSource::Stdout | LogSource::Stderr | LogSource::Extension => {
                let mut bytes = line.bytes.to_vec();
                bytes.push(b'\n');
                self.0.function(OutputStream::Stderr, &bytes);
            }
        }
    }

    fn invoked(&self, _record: &InvocationRecord) {}
}
