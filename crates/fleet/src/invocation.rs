//! One invocation, from its arrival to its record.

use std::{sync::Arc, time::Instant};

use costrel_functions::{Invocation, ResponsePart, ShutdownReason, Timeline, log::FailureStatus};
use costrel_vmm::with_sources;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    FleetVersion, InvocationEnd, InvocationRecord, InvokeError, Invoked, StartKind,
    fleet::{Resident, Shared},
    pool::{Lent, Refusal, Returned, WaiterId},
};

/// An invocation that has arrived.
pub(crate) struct Arrival {
    shared: Arc<Shared>,
    version: Arc<FleetVersion>,
    invocation: Invocation,
    began: Timestamp,
    began_at: Instant,
}

/// One that waits for an instance. When it is dropped, the caller has gone.
struct Waiting<'a> {
    arrival: &'a Arrival,
    waiter: Option<WaiterId>,
}

/// An instance in use. Where it is dropped with the instance not given back, that is lost.
struct Lease {
    shared: Arc<Shared>,
    id: Uuid,
    returned: Option<Returned<Resident>>,
}

impl Arrival {
    pub(crate) fn new(
        shared: Arc<Shared>,
        version: Arc<FleetVersion>,
        invocation: Invocation,
    ) -> Self {
        let (began, began_at) = (Timestamp::now(), Instant::now());
        Self { shared, version, invocation, began, began_at }
    }

    pub(crate) async fn run(
        self,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        let lent = match self.wait().await {
            Ok(lent) => lent,
            Err(refusal) => return Err(self.refused(refusal)),
        };
        let lease = Lease { shared: Arc::clone(&self.shared), id: lent.id, returned: None };
        // From here on, it does not depend on the caller any more.
        tokio::spawn(self.run_on(lent, lease, response)).await.unwrap_or(Err(InvokeError::Lost))
    }

    async fn wait(&self) -> Result<Lent<Resident>, Refusal> {
        let (answer, answered) = oneshot::channel();
        let arrived = self.shared.with(|pool, now| pool.arrive(&self.version, answer, now));
        let mut waiting = Waiting { arrival: self, waiter: Some(arrived?) };
        let answer = answered.await;
        // Somebody who was answered is none who has gone.
        let waiter = waiting.waiter.take();
        answer.unwrap_or(Err(Refusal::Lost))?;
        let id = &self.invocation.request_id;
        waiter
            .and_then(|waiter| self.shared.with(|pool, now| pool.take(waiter, id, now)))
            .ok_or(Refusal::Lost)
    }

    async fn run_on(
        self,
        lent: Lent<Resident>,
        mut lease: Lease,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        let Lent { id, runner: mut resident, start, cold } = lent;
        let mut timeline = self.timeline_so_far(cold);
        resident.log.begin(&self.invocation.request_id);
        let mut ending = self.shared.ending.subscribe();
        let ended = async move { drop(ending.wait_for(|ending| *ending).await) };
        let result = tokio::select! {
            result = resident.runner.invoke(&self.invocation, response, &mut timeline) => {
                result.map_err(InvokeError::Instance)
            }
            () = ended => Err(InvokeError::Draining),
        };
        let log_tail = resident.log.end();
        let end = match &result {
            Ok(outcome) => InvocationEnd::Completed {
                report: outcome.report.clone(),
                error_type: outcome.reply.as_ref().err().map(|error| error.error_type.clone()),
            },
            Err(error) => InvocationEnd::Failed(with_sources(error)),
        };
        lease.returned = Some(match &result {
            Ok(_) if resident.runner.is_reusable() => Returned::Fit(resident),
            Ok(outcome) => {
                let reason = match outcome.report.failure {
                    Some(FailureStatus::Timeout) => ShutdownReason::Timeout,
                    _ => ShutdownReason::Failure,
                };
                Returned::Spent(resident, reason)
            }
            Err(_) => Returned::Broken(resident),
        });
        drop(lease);
        self.record(Some((id, start)), timeline.clone(), end);
        Ok(Invoked { outcome: result?, timeline, log_tail, instance: id, start })
    }

    /// `wait`, and of the cold start what has happened since the arrival.
    fn timeline_so_far(&self, cold: Option<Timeline>) -> Timeline {
        let arrived = self.began_at;
        let now = Instant::now();
        let cold = cold.unwrap_or_default();
        let phases = cold.phases().iter().filter(|phase| phase.ended > arrived);
        let waited_until = phases.clone().map(|phase| phase.began).min().unwrap_or(now);
        let mut timeline = Timeline::default();
        if waited_until.saturating_duration_since(arrived).as_millis() > 0 {
            timeline.add("wait", arrived, waited_until);
        }
        for phase in phases {
            timeline.add(phase.name, phase.began.max(arrived), phase.ended);
        }
        timeline
    }

    fn refused(&self, refusal: Refusal) -> InvokeError {
        let error = match refusal {
            Refusal::Throttled(throttle) => InvokeError::Throttled(throttle),
            Refusal::Staging(error) => InvokeError::Staging(error),
            Refusal::Instance(error) => InvokeError::Instance(error),
            Refusal::Oversized { needed, limit } => InvokeError::OversizedForHost { needed, limit },
            Refusal::Draining => InvokeError::Draining,
            Refusal::Lost => InvokeError::Lost,
        };
        let end = match &error {
            InvokeError::Throttled(throttle) => InvocationEnd::Throttled(*throttle),
            error => InvocationEnd::Failed(with_sources(error)),
        };
        self.record(None, self.timeline_so_far(None), end);
        error
    }

    fn record(&self, instance: Option<(Uuid, StartKind)>, timeline: Timeline, end: InvocationEnd) {
        self.shared.observer.invoked(&InvocationRecord {
            version: self.version.key.clone(),
            request_id: self.invocation.request_id.clone(),
            trace_id: self.invocation.trace_id.clone(),
            began: self.began,
            began_at: self.began_at,
            took: self.began_at.elapsed(),
            instance,
            timeline,
            end,
        });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        let arrival = self.arrival;
        arrival.shared.abandon(&arrival.version.key, waiter);
        arrival.record(None, arrival.timeline_so_far(None), InvocationEnd::Abandoned);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let returned = self.returned.take().unwrap_or(Returned::Lost);
        self.shared.with(|pool, now| pool.release(self.id, returned, now));
    }
}
