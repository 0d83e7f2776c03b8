//! The signals that ask the command to end, and what is still to be waited for then.

use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for the first of SIGINT, SIGTERM and SIGHUP and returns its number.
pub(crate) async fn signal_number() -> u8 {
    let wait = |kind: SignalKind, number: u8| async move {
        match signal(kind) {
            Ok(mut signals) => {
                signals.recv().await;
                number
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        number = wait(SignalKind::interrupt(), 2) => number,
        number = wait(SignalKind::terminate(), 15) => number,
        number = wait(SignalKind::hangup(), 1) => number,
    }
}

/// Returns when no child process is left, or after two seconds: a machine that was about to start
/// when the command was dropped is killed by the thread that starts it, a moment later.
pub(crate) fn wait_for_children() {
    let deadline = Instant::now() + Duration::from_secs(2);
    let left = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::All, left).is_ok() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
