//! The signals that ask the command to end.

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
