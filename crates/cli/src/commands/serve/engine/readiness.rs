//! What is made ready ahead of invocations: snapshots of versions, provisioned instances.

use std::sync::Arc;

use costrel_catalog::{
    FunctionVersion, Preparation, PreparationFailure, PreparationTicket, ProvisionedState,
    ProvisionedStatus, Provisioning,
};
use costrel_fleet::PrepareError;

use super::{Engine, key};

impl Preparation for Engine {
    fn prepare(&self, version: Arc<FunctionVersion>, ticket: PreparationTicket) {
        let engine = self.clone();
        self.0.runtime.spawn(async move {
            let outcome = engine.prepare_now(&version).await;
            // Dropped, it is gone on with at the next start.
            if matches!(outcome, Err(None)) {
                return;
            }
            let outcome = outcome.map_err(Option::unwrap_or_default);
            let finish = || {
                ticket.finish(outcome.map_err(|(code, reason)| PreparationFailure { code, reason }))
            };
            if let Ok(Err(error)) = tokio::task::spawn_blocking(finish).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a version's state is not on disk"
                );
            }
        });
    }
}

impl Engine {
    /// Nothing at all where the server ends meanwhile.
    async fn prepare_now(&self, version: &FunctionVersion) -> Result<(), Option<(String, String)>> {
        let wrong = |code: &str, reason: String| Some((code.to_owned(), reason));
        let version = self
            .fleet_version(version)
            .map_err(|error| wrong("InvalidConfiguration", error.to_string()))?;
        match self.0.fleet.prepare(&version).await {
            // Without a snapshot the version is initialised when it is invoked, as it would be here
            // without snapshots at all.
            Ok(()) | Err(PrepareError::NoSnapshot) => Ok(()),
            Err(PrepareError::Draining | PrepareError::Lost) => Err(None),
            Err(error @ PrepareError::Initialization) => {
                Err(wrong("FunctionError", error.to_string()))
            }
            Err(error) => {
                Err(wrong("InternalError", anyhow::Error::from(error).root_cause().to_string()))
            }
        }
    }
}

impl Provisioning for Engine {
    fn provision(&self, version: Arc<FunctionVersion>, count: u32) {
        match self.fleet_version(&version) {
            Ok(version) => self.0.fleet.provision(&version, count),
            Err(error) => tracing::warn!(
                function = &*version.name,
                error = &error as &dyn std::error::Error,
                "a version cannot be provisioned"
            ),
        }
    }

    fn status(&self, version: &FunctionVersion) -> ProvisionedStatus {
        let Some(status) = self.0.fleet.provisioned(&key(version)) else {
            return ProvisionedStatus {
                available: 0,
                allocated: 0,
                state: ProvisionedState::InProgress,
            };
        };
        let state = match status.failure {
            Some(reason) if status.available < status.requested => {
                ProvisionedState::Failed { reason }
            }
            _ if status.available >= status.requested => ProvisionedState::Ready,
            _ => ProvisionedState::InProgress,
        };
        ProvisionedStatus { available: status.available, allocated: status.allocated, state }
    }
}
