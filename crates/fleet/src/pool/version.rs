//! What a pool knows of one version, and of one function.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use costrel_vmm::with_sources;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{Answer, Refusal, StartFailure, WaiterId};
use crate::{
    FleetVersion, PrepareError, SnapshotUse,
    launcher::{Launcher, Stages},
};

/// The pauses between attempts to start a provisioned instance.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The instances of one version, and who waits for them.
pub(super) struct Version {
    pub(super) version: Arc<FleetVersion>,
    pub(super) stages: Arc<Stages>,
    /// What a machine of it occupies, in bytes.
    pub(super) memory: u64,
    /// The one who came first is the first.
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) preparations: VecDeque<Preparation>,
    /// The one that was used last is the last.
    pub(super) idle: Vec<Uuid>,
    /// How many there are, stopping ones left out; and provisioned ones among them.
    pub(super) machines: usize,
    pub(super) provisioned: u32,
    /// How many are being started for those who wait.
    pub(super) starting: usize,
    pub(super) first: FirstStart,
    pub(super) first_provisioned: FirstStart,
    /// Another one has taken its place: its instances end with their invocation.
    pub(super) retired: bool,
    pub(super) provision: Option<Provision>,
    pub(super) turn: u64,
}

/// The use that a function makes of the fleet.
pub(super) struct FunctionUse {
    /// When it was given a start last: the smaller, the longer ago.
    pub(super) turn: u64,
    pub(super) versions: usize,
    /// The memory of its machines, stopping ones left out, in bytes.
    pub(super) held: u64,
}

pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) since: Instant,
    pub(super) answer: Answer,
}

pub(super) struct Preparation {
    pub(super) since: Instant,
    pub(super) answer: oneshot::Sender<Result<(), PrepareError>>,
}

/// The start that makes those that follow cheap. They wait for it: to boot beside it would take as
/// long, and a CPU each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FirstStart {
    NotBegun,
    UnderWay,
    Settled,
}

/// The provisioned concurrency of a version.
pub(super) struct Provision {
    pub(super) wanted: u32,
    pub(super) failure: Option<String>,
    /// Not before.
    pub(super) retry: Option<Instant>,
    pause: Duration,
}

impl FirstStart {
    pub(super) fn of(version: &FleetVersion, launcher: &dyn Launcher, saved: bool) -> Self {
        if saved || version.snapshots == SnapshotUse::Never || !launcher.takes_snapshots() {
            Self::Settled
        } else {
            Self::NotBegun
        }
    }

    /// Whether a start must wait.
    pub(super) fn is_in_the_way(self) -> bool {
        self == Self::UnderWay
    }

    pub(super) fn begin(&mut self) {
        if *self == Self::NotBegun {
            *self = Self::UnderWay;
        }
    }
}

impl Version {
    pub(super) fn new(
        version: Arc<FleetVersion>,
        memory: u64,
        first: FirstStart,
        turn: u64,
    ) -> Self {
        Self {
            version,
            stages: Arc::default(),
            memory,
            waiters: VecDeque::new(),
            preparations: VecDeque::new(),
            idle: Vec::new(),
            machines: 0,
            provisioned: 0,
            starting: 0,
            first,
            first_provisioned: first,
            retired: false,
            provision: None,
            turn,
        }
    }

    /// Since when it has waited for a start that it could be given now.
    pub(super) fn demand(&self) -> Option<Instant> {
        if self.first.is_in_the_way() {
            return None;
        }
        if let Some(preparation) = self.preparations.front() {
            return Some(preparation.since);
        }
        if self.queued() > 0 { self.waiters.front().map(|waiter| waiter.since) } else { None }
    }

    /// How many wait for whom no start is under way.
    pub(super) fn queued(&self) -> usize {
        self.waiters.len().saturating_sub(self.starting)
    }

    /// Tells whom it concerns that a start has failed. Returns how many waiters that were.
    pub(super) fn refuse(&mut self, failure: StartFailure) -> usize {
        match failure {
            // It would be the same for all.
            StartFailure::Staging(error) => {
                for preparation in std::mem::take(&mut self.preparations) {
                    let error = PrepareError::Staging(Arc::clone(&error));
                    let _ = preparation.answer.send(Err(error));
                }
                let waiters = std::mem::take(&mut self.waiters);
                let refused = waiters.len();
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(Refusal::Staging(Arc::clone(&error))));
                }
                refused
            }
            StartFailure::Instance(error) => self.refuse_one(Refusal::Instance(error)),
            StartFailure::Draining => self.refuse_one(Refusal::Draining),
            StartFailure::Lost => self.refuse_one(Refusal::Lost),
        }
    }

    fn refuse_one(&mut self, refusal: Refusal) -> usize {
        let Some(waiter) = self.waiters.pop_front() else { return 0 };
        let _ = waiter.answer.send(Err(refusal));
        1
    }

    pub(super) fn refuse_preparations(&mut self) {
        for preparation in std::mem::take(&mut self.preparations) {
            let _ = preparation.answer.send(Err(PrepareError::Draining));
        }
    }

    /// Whether nothing is lost if it is forgotten.
    pub(super) fn is_unused(&self) -> bool {
        self.machines == 0
            && self.waiters.is_empty()
            && self.preparations.is_empty()
            && self.provision.is_none()
    }
}

impl Provision {
    pub(super) fn of(wanted: u32) -> Self {
        Self { wanted, failure: None, retry: None, pause: RETRY_AFTER[0] }
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::of(self.wanted);
    }

    pub(super) fn failed(&mut self, failure: &StartFailure, now: Instant) {
        self.failure = Some(match failure {
            StartFailure::Staging(error) => with_sources(&**error).to_string(),
            StartFailure::Instance(error) => with_sources(error).to_string(),
            StartFailure::Draining => return,
            StartFailure::Lost => "the start was lost".to_owned(),
        });
        self.retry = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RETRY_AFTER[1]);
    }
}
