//! What a pool tells of itself.

use std::cmp::Reverse;

use super::{Pool, State, Vital};
use crate::{FleetStatus, InstanceState, InstanceStatus, ProvisionedStatus, VersionKey};

impl<R: Vital> Pool<R> {
    pub(crate) fn status(&self) -> FleetStatus {
        let mut machines: Vec<_> = self.machines.iter().collect();
        machines.sort_by_key(|(id, machine)| (machine.began, **id));
        let instances = machines.into_iter().map(|(id, machine)| InstanceStatus {
            id: *id,
            version: machine.key.clone(),
            state: match &machine.state {
                State::Starting(_) => InstanceState::Starting,
                State::Idle(_) | State::Granted(_) => InstanceState::Idle,
                State::Busy { request_id } => InstanceState::Busy(request_id.clone()),
                State::Stopping => InstanceState::Stopping,
            },
            since: machine.since.into_std(),
            memory: machine.memory,
            provisioned: machine.provisioned,
        });
        let waiting = self.versions.iter().filter(|(_, version)| !version.waiters.is_empty());
        let mut waiting: Vec<_> =
            waiting.map(|(key, version)| (key.clone(), version.waiters.len())).collect();
        waiting.sort_by_key(|(_, count)| Reverse(*count));
        FleetStatus {
            instances: instances.collect(),
            waiting,
            concurrency: self.concurrency.total(),
            concurrency_limit: self.concurrency.limit(),
            memory: self.memory,
            memory_limit: self.limits.memory,
        }
    }

    pub(crate) fn provisioned(&self, key: &VersionKey) -> Option<ProvisionedStatus> {
        let version = self.versions.get(key)?;
        let provision = version.provision.as_ref()?;
        let available = self.machines.values().filter(|machine| {
            machine.key == *key
                && machine.provisioned
                && !matches!(machine.state, State::Starting(_) | State::Stopping)
        });
        Some(ProvisionedStatus {
            requested: provision.wanted,
            allocated: version.provisioned.min(provision.wanted),
            available: u32::try_from(available.count()).unwrap_or(u32::MAX),
            failure: provision.failure.clone(),
        })
    }
}
