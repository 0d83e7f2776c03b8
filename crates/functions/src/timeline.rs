//! Where the time of a cold start and an invocation went.

use std::time::Instant;

/// One span of time.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
}

/// Phases, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    phases: Vec<Phase>,
}

impl Timeline {
    /// Adds a phase that began at `began` and ended at `ended`.
    pub fn add(&mut self, name: &'static str, began: Instant, ended: Instant) {
        self.phases.push(Phase { name, began, ended });
    }

    /// Adds a phase that began at `began` and ends now.
    pub fn end(&mut self, name: &'static str, began: Instant) {
        self.add(name, began, Instant::now());
    }

    /// The phases.
    #[must_use]
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }
}
