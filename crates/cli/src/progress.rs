//! Progress of pulls and builds: bars on a terminal, plain lines elsewhere.

use std::{
    collections::HashMap,
    io::{IsTerminal as _, stderr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use costrel_image::{BlobOutcome, PullProgress};
use costrel_rootfs::StageProgress;
use costrel_store::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::tables;

/// Shows progress on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, Task>,
    stage: Option<Task>,
}

/// One thing under way.
#[derive(Debug)]
struct Task {
    label: String,
    total: Option<u64>,
    done: u64,
    began: Instant,
    bar: Option<ProgressBar>,
}

/// What takes less is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(200);

impl Progress {
    pub(crate) fn new() -> Self {
        let bars = stderr().is_terminal().then(MultiProgress::new);
        Self { bars, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.println(line);
            }
            None => eprintln!("{line}"),
        }
    }

    fn begin(&self, label: String, total: Option<u64>) -> Task {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(total.map_or_else(ProgressBar::new_spinner, ProgressBar::new));
            let template = if total.is_some() {
                "{msg:34} {bar:30.green/dim} {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:>12}"
            } else {
                "{msg:34} {spinner} {bytes:>10}"
            };
            // Only a wrong template fails.
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_message(label.clone());
            bar
        });
        Task { label, total, done: 0, began: Instant::now(), bar }
    }

    fn finish(&self, task: &Task, outcome: &str) {
        if let Some(bar) = &task.bar {
            bar.finish_and_clear();
        }
        if self.bars.is_none() && task.began.elapsed() >= WORTH_A_LINE {
            let amount = task.total.unwrap_or(task.done);
            let seconds = task.began.elapsed().as_secs_f64();
            self.say(&format!(
                "{}: {outcome} ({}, {seconds:.1} s)",
                task.label,
                tables::bytes(amount)
            ));
        }
    }
}

impl Task {
    fn advance_to(&mut self, bytes: u64) {
        self.done = bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }
}

impl PullProgress for Progress {
    fn blob_started(&self, digest: &Digest, size: u64) {
        let task = self.begin(format!("pulling {}", &digest.hex()[..12]), Some(size));
        self.state().blobs.insert(*digest, task);
    }

    fn blob_advanced(&self, digest: &Digest, bytes: u64) {
        if let Some(task) = self.state().blobs.get_mut(digest) {
            task.advance_to(bytes);
        }
    }

    fn blob_finished(&self, digest: &Digest, outcome: BlobOutcome) {
        let task = self.state().blobs.remove(digest);
        if let Some(task) = task {
            self.finish(
                &task,
                match outcome {
                    BlobOutcome::Fetched => "done",
                    BlobOutcome::Cached => "was there",
                },
            );
        }
    }

    fn note(&self, text: &str) {
        self.say(text);
    }
}

impl StageProgress for Progress {
    fn started(&self, what: &str, total_bytes: Option<u64>) {
        let task = self.begin(what.to_owned(), total_bytes);
        self.state().stage = Some(task);
    }

    fn advanced(&self, bytes: u64) {
        if let Some(task) = &mut self.state().stage {
            task.advance_to(task.done + bytes);
        }
    }

    fn finished(&self) {
        let task = self.state().stage.take();
        if let Some(task) = task {
            self.finish(&task, "done");
        }
    }
}
