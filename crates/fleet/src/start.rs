//! The start of one instance.

use std::sync::Arc;

use costrel_functions::{Initialization, ShutdownReason, Timeline};
use uuid::Uuid;

use crate::{
    FleetVersion, Launched, PrepareError, StartKind,
    fleet::{Resident, Shared},
    launcher::Stages,
    log::InstanceLog,
    pool::{Fresh, Purpose, Start, StartFailure},
};

/// A start that is under way. Where it is dropped, it has failed.
struct UnderWay {
    shared: Arc<Shared>,
    id: Option<Uuid>,
}

/// Starts an instance, and tells the pool how it went.
pub(crate) async fn run(shared: Arc<Shared>, start: Start) {
    let under_way = UnderWay { shared: Arc::clone(&shared), id: Some(start.id) };
    let mut ending = shared.ending.subscribe();
    let ended = async move { drop(ending.wait_for(|ending| *ending).await) };
    tokio::select! {
        () = attempt(&shared, start, under_way) => {}
        // What has been made so far is dropped, and gone.
        () = ended => {}
    }
}

async fn attempt(shared: &Arc<Shared>, start: Start, under_way: UnderWay) {
    let Start { id, version, stages, purpose } = start;
    let provisioned = matches!(purpose, Purpose::Provision);
    let log = InstanceLog::new(version.key.clone(), id, Arc::clone(&shared.observer));
    let log = Arc::new(log);
    let mut timeline = Timeline::default();
    let launched = launch(shared, &version, &stages, provisioned, &log, &mut timeline).await;
    if let Purpose::Preparation(answer) = purpose {
        let outcome = match launched {
            Ok(launched) => prepared(launched).await,
            Err(failure) => Err(failure.into_prepare_error()),
        };
        let saved = outcome.is_ok();
        shared.with(|pool, now| pool.first_settled(&version.key, false, saved, now));
        under_way.ended(None);
        // Whoever asked may have left.
        let _ = answer.send(outcome);
        return;
    }
    let Launched { runner, start: kind, snapshot, .. } = match launched {
        Ok(launched) => launched,
        Err(failure) => return under_way.ended(Some(failure)),
    };
    let fresh = Fresh { start: kind, timeline };
    let saved = if snapshot.is_some() { None } else { Some(kind == StartKind::Restored) };
    under_way.succeeded(Resident { runner, log }, fresh, saved);
    if let Some(snapshot) = snapshot {
        let saved = snapshot.await;
        shared.with(|pool, now| pool.first_settled(&version.key, provisioned, saved, now));
    }
}

async fn launch(
    shared: &Arc<Shared>,
    version: &FleetVersion,
    stages: &Stages,
    provisioned: bool,
    log: &Arc<InstanceLog>,
    timeline: &mut Timeline,
) -> Result<Launched, StartFailure> {
    let mut spec = version.spec.clone();
    if provisioned && spec.initialization == Initialization::OnDemand {
        spec.initialization = Initialization::ProvisionedConcurrency;
    }
    let staged = stages.get(&*shared.launcher, &spec, provisioned, timeline).await;
    let staged = staged.map_err(|error| StartFailure::Staging(Arc::new(error)))?;
    let log = Arc::clone(log) as _;
    let launched = staged.launch(version.snapshots, log, timeline).await;
    launched.map_err(StartFailure::Instance)
}

/// Ends an instance that was started for its snapshot, which is complete then.
async fn prepared(launched: Launched) -> Result<(), PrepareError> {
    let Launched { runner, start, initialised, snapshot } = launched;
    let saved = match snapshot {
        Some(snapshot) => snapshot.await,
        None => start == StartKind::Restored,
    };
    runner.shut_down(ShutdownReason::Spindown).await;
    match (initialised, saved) {
        (false, _) => Err(PrepareError::Initialization),
        (true, false) => Err(PrepareError::NoSnapshot),
        (true, true) => Ok(()),
    }
}

impl UnderWay {
    fn succeeded(mut self, resident: Resident, fresh: Fresh, saved: Option<bool>) {
        if let Some(id) = self.id.take() {
            self.shared.with(|pool, now| pool.started(id, resident, fresh, saved, now));
        }
    }

    /// Nothing is left of it.
    fn ended(mut self, failure: Option<StartFailure>) {
        if let Some(id) = self.id.take() {
            self.shared.with(|pool, now| pool.start_failed(id, failure, now));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let failure = if *self.shared.ending.borrow() {
                StartFailure::Draining
            } else {
                StartFailure::Lost
            };
            self.shared.with(|pool, now| pool.start_failed(id, Some(failure), now));
        }
    }
}

impl StartFailure {
    fn into_prepare_error(self) -> PrepareError {
        match self {
            Self::Staging(error) => PrepareError::Staging(error),
            Self::Instance(error) => PrepareError::Instance(error),
            Self::Draining => PrepareError::Draining,
            Self::Lost => PrepareError::Lost,
        }
    }
}
