//! Remembers how a trial of KVM ended, until something that it depends on changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Trial;

/// A file with one trial's outcome and what it holds for. Losing it costs a trial.
#[derive(Debug)]
pub(super) struct TrialCache {
    directory: PathBuf,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    key: String,
    trial: Trial,
}

impl TrialCache {
    pub(super) fn new(directory: &Path, key: String) -> Self {
        Self { directory: directory.to_owned(), key }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("kvm-trial.json")
    }

    /// The outcome, if it still holds.
    pub(super) fn recall(&self) -> Option<Trial> {
        let record: Record = serde_json::from_slice(&fs::read(self.path()).ok()?).ok()?;
        (record.key == self.key).then_some(record.trial)
    }

    /// Keeps the outcome. Where that fails, the next process tries again.
    pub(super) fn keep(&self, trial: &Trial) {
        if let Err(error) = self.write(trial) {
            tracing::debug!(%error, "cannot keep the verdict on KVM");
        }
    }

    fn write(&self, trial: &Trial) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let record = Record { key: self.key.clone(), trial: trial.clone() };
        let mut draft = tempfile::NamedTempFile::new_in(&self.directory)?;
        serde_json::to_writer(&mut draft, &record)?;
        draft.persist(self.path())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{GuestStep, GuestStop, KvmFailure};

    #[test]
    fn holds_for_its_key_only() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("made when needed");
        let cache = TrialCache::new(&directory, "boot 1".into());
        assert_eq!(cache.recall(), None);
        let failure = KvmFailure {
            step: GuestStep::CompareExchange,
            stop: GuestStop::InternalError { suberror: 1 },
        };
        for trial in [Trial::Fails(failure), Trial::Works] {
            cache.keep(&trial);
            assert_eq!(cache.recall(), Some(trial));
        }
        assert_eq!(TrialCache::new(&directory, "boot 2".into()).recall(), None);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "a draft is left");
    }

    #[test]
    fn rubbish_is_as_good_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = TrialCache::new(directory.path(), "boot 1".into());
        for rubbish in ["", "{}", "[]", "{\"key\":\"boot 1\",\"trial\":\"Perhaps\"}"] {
            fs::write(cache.path(), rubbish).unwrap();
            assert_eq!(cache.recall(), None, "{rubbish}");
        }
        cache.keep(&Trial::Works);
        assert_eq!(cache.recall(), Some(Trial::Works));
    }

    #[test]
    fn an_unwritable_place_is_borne() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cache = TrialCache::new(file.path(), "boot 1".into());
        cache.keep(&Trial::Works);
        assert_eq!(cache.recall(), None);
    }
}
