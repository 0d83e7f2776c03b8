//! What the tests of the image store need: layouts, a registry, a proxy that misbehaves.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod layout;
pub(crate) mod proxy;
pub(crate) mod registry;

use std::{
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use costrel_image::{
    BlobOutcome, ImageStore, Platform, PullProgress, Reference, RegistryConfig, Retry,
    StoreSettings,
};
use costrel_store::Digest;

/// Says by name what the test lacks, if it lacks something.
pub(crate) fn lacks(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &&&str| {
        !std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
    };
    let missing: Vec<_> = tools.iter().filter(is_there).collect();
    if !missing.is_empty() {
        skipped(&format!("{missing:?}"));
    }
    !missing.is_empty()
}

/// Tells that the test does nothing, for lack of something.
#[expect(clippy::print_stderr, reason = "a test has no other way to say that it was skipped")]
pub(crate) fn skipped(lacks: &str) {
    eprintln!("SKIPPED: lacks {lacks}");
}

/// Runs a tool that must succeed.
pub(crate) fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(crate) fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// Settings that do not wait long.
pub(crate) fn settings() -> RegistryConfig {
    let retry = Retry { first_delay: Duration::from_millis(1), ..Retry::default() };
    RegistryConfig { retry, ..RegistryConfig::default() }
}

pub(crate) fn open(root: &Path, registry: RegistryConfig) -> ImageStore {
    ImageStore::open(root, StoreSettings { registry }).unwrap()
}

/// The files of a store that are neither locks nor whole entries.
pub(crate) fn drafts(root: &Path) -> Vec<std::path::PathBuf> {
    ["blobs", "images"]
        .iter()
        .flat_map(|store| std::fs::read_dir(root.join(store).join(".drafts")).unwrap())
        .map(|item| item.unwrap().path())
        .collect()
}

/// A directory that is read-only for as long as this lives.
pub(crate) struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    pub(crate) fn mount(path: &Path) -> Option<Self> {
        let mount = |options: &[&str]| {
            let output = Command::new("mount").args(options).arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !mount(&["--bind", &path.to_string_lossy()]) {
            skipped("the right to mount");
            return None;
        }
        let mounted = Self(path.to_owned());
        mount(&["-o", "remount,ro,bind"]).then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // Lazily: a process that another test forks may hold files of it until it executes its
        // program.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Keeps what a pull tells.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) notes: Mutex<Vec<String>>,
    pub(crate) fetched: Mutex<Vec<Digest>>,
    pub(crate) cached: Mutex<Vec<Digest>>,
}

impl Told {
    pub(crate) fn notes(&self) -> String {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    pub(crate) fn fetched(&self) -> usize {
        self.fetched.lock().unwrap().len()
    }

    pub(crate) fn cached(&self) -> usize {
        self.cached.lock().unwrap().len()
    }
}

impl PullProgress for Told {
    fn blob_started(&self, _digest: &Digest, _size: u64) {}
    fn blob_advanced(&self, _digest: &Digest, _bytes: u64) {}

    fn blob_finished(&self, digest: &Digest, outcome: BlobOutcome) {
        let list = match outcome {
            BlobOutcome::Fetched => &self.fetched,
            BlobOutcome::Cached => &self.cached,
        };
        list.lock().unwrap().push(*digest);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
