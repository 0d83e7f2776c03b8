//! How a queue works.

use std::time::Duration;

/// How a queue works. What differs between functions is [`crate::EventPolicy`].
#[derive(Clone, Debug)]
pub struct EventSettings {
    /// The pauses before the first and the second retry of a function that failed: on AWS, and
    /// unless somebody says otherwise, 1 min and 2 min.
    pub retry_delays: [Duration; 2],
    /// The first pause after an attempt at which the function did not run, and the longest one;
    /// each is twice as long as the one before. On AWS 1 s and 5 min.
    pub backoff: [Duration; 2],
    /// How many events run at a time.
    pub concurrency: usize,
    /// How many of one function do.
    pub concurrency_per_function: usize,
    /// How many events there may be. More are refused.
    pub capacity: usize,
    /// How often a destination is told of an outcome that it does not take.
    pub delivery_attempts: u32,
    /// The pause before the first repetition of that; each is twice as long as the one before.
    pub delivery_pause: Duration,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            retry_delays: [Duration::from_secs(60), Duration::from_secs(120)],
            backoff: [Duration::from_secs(1), Duration::from_secs(300)],
            concurrency: 32,
            concurrency_per_function: 16,
            capacity: 100_000,
            delivery_attempts: 3,
            delivery_pause: Duration::from_secs(1),
        }
    }
}

impl EventSettings {
    /// The pause after so many attempts in a row at which the function did not run.
    pub(crate) fn backoff_after(&self, refused: u32) -> Duration {
        let [first, longest] = self.backoff;
        let doublings = refused.saturating_sub(1).min(31);
        first.saturating_mul(1 << doublings).min(longest)
    }

    /// The pause after so many failures of the function.
    pub(crate) fn retry_delay(&self, failures: u32) -> Duration {
        self.retry_delays[usize::from(failures > 1)]
    }
}
