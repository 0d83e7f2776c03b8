//! The functions that the catalogue knows, run by the fleet: what the API, the queue of events and
//! the status page work with.

mod events;
mod invoker;
mod readiness;
mod status;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use costrel_catalog::{Catalog, FunctionVersion, SpecError};
use costrel_events::EventQueue;
use costrel_fleet::{Fleet, FleetVersion, SnapshotUse, VersionKey};
use costrel_functions::{Credentials, Runtime};
use costrel_image::ImageSource;
use costrel_lambda_api::Recorder;
use costrel_logs::LogReader;

use crate::{config::Config, environment::Environment};

/// What runs functions. A clone is another handle to the same.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inner>);

struct Inner {
    catalog: Catalog,
    fleet: Fleet,
    /// Set once: the queue needs this engine to run its events.
    events: OnceLock<EventQueue>,
    logs: LogReader,
    recorder: Recorder,
    setup: EngineSetup,
    /// What instances are made of, by version and revision: to find that out takes a look at files.
    versions: Mutex<HashMap<VersionKey, Arc<FleetVersion>>>,
    runtime: tokio::runtime::Handle,
}

/// What all functions have in common.
pub(super) struct EngineSetup {
    pub(super) config: Config,
    pub(super) environment: Environment,
    pub(super) credentials: Option<Credentials>,
    pub(super) host_ports: Vec<u16>,
    /// Where function URLs are, but for their first label: `lambda-url.localhost:9001`, say.
    pub(super) url_suffix: String,
}

impl Engine {
    pub(super) fn new(
        catalog: Catalog,
        fleet: Fleet,
        logs: LogReader,
        recorder: Recorder,
        setup: EngineSetup,
    ) -> Self {
        Self(Arc::new(Inner {
            catalog,
            fleet,
            events: OnceLock::new(),
            logs,
            recorder,
            setup,
            versions: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// From now on, asynchronous invocations are accepted.
    pub(super) fn set_events(&self, events: EventQueue) {
        let _ = self.0.events.set(events);
    }

    /// What instances of a version are made of.
    fn fleet_version(&self, version: &FunctionVersion) -> Result<Arc<FleetVersion>, SpecError> {
        let key = key(version);
        if let Some(known) = self.versions().get(&key) {
            return Ok(Arc::clone(known));
        }
        let setup = &self.0.setup;
        let image = |runtime: Runtime| {
            let name = setup.config.image_of(runtime, &setup.environment);
            // A name that makes no sense is told by whoever fetches it.
            ImageSource::parse(&name).or_else(|_| ImageSource::parse(&runtime.default_image()))
        };
        // A runtime's own image always has a name that makes sense.
        let fallback = ImageSource::parse("public.ecr.aws/lambda/provided:al2023")?;
        let image = |runtime| image(runtime).unwrap_or_else(|_| fallback.clone());
        let mut spec = version.to_spec(&image, setup.credentials.clone())?;
        spec.host_ports.extend(&setup.host_ports);
        let made = FleetVersion { key: key.clone(), spec, snapshots: SnapshotUse::IfPossible };
        Ok(Arc::clone(self.versions().entry(key).or_insert_with(|| Arc::new(made))))
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<VersionKey, Arc<FleetVersion>>> {
        self.0.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function has changed, or is gone: instances of what it was end.
    pub(super) fn refresh(&self, function: &str) {
        let current: Vec<VersionKey> =
            self.0.catalog.versions_of(function).iter().map(key).collect();
        self.versions().retain(|known, _| known.function != function || current.contains(known));
        self.0.fleet.set_reserved(function, self.0.catalog.reserved_concurrency(function));
        self.0.fleet.retire(function, &|known| current.contains(known));
        if current.is_empty() {
            self.0.recorder.forget_function(function);
        }
    }

    /// As [`Engine::refresh`], of all functions.
    pub(super) fn refresh_all(&self) {
        let mut names: Vec<Arc<str>> = self.0.catalog.names();
        names.extend(self.versions().keys().map(|key| key.function.as_str().into()));
        names.sort();
        names.dedup();
        names.iter().for_each(|name| self.refresh(name));
    }

    /// Follows the catalogue's changes.
    pub(super) async fn follow(self) {
        use tokio::sync::broadcast::error::RecvError;
        let mut changes = self.0.catalog.subscribe();
        self.refresh_all();
        loop {
            match changes.recv().await {
                Ok(change) => self.refresh(&change.function),
                Err(RecvError::Lagged(_)) => self.refresh_all(),
                Err(RecvError::Closed) => return,
            }
        }
    }
}

fn key(version: &FunctionVersion) -> VersionKey {
    VersionKey {
        function: version.name.to_string(),
        version: version.version.to_string(),
        revision: version.content.revision_id.clone(),
    }
}
