//! Looks after instances that nobody uses.

use std::{sync::Weak, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::fleet::Shared;

/// How long it may take until something is noticed of an instance that nobody wants to use.
const ROUND: Duration = Duration::from_secs(2);

/// Ends instances that were idle for too long or have died, and has provisioned ones replaced,
/// until the fleet is gone.
pub(crate) async fn keep(shared: Weak<Shared>) {
    loop {
        let Some(fleet) = shared.upgrade() else { return };
        if *fleet.ending.borrow() {
            return;
        }
        let next = fleet.with(crate::pool::Pool::tidy);
        // A fleet may go at any time, and so this does not hold on to one while it sleeps.
        drop(fleet);
        let round = Instant::now() + ROUND;
        sleep_until(next.map_or(round, |next| next.min(round))).await;
    }
}
