//! `--watch`: tells when code, layers or declarations may have changed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep_until, timeout_at},
};

/// How long it must be quiet until a change is taken for complete: an editor or a build writes many
/// files.
const QUIET: Duration = Duration::from_millis(150);

/// A build that never pauses is taken up in between.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often is looked where the kernel cannot tell.
const LOOK: Duration = Duration::from_secs(2);

/// Watches files and directories.
pub(crate) struct Watch {
    changes: Receiver<()>,
    sender: Sender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Why the kernel does not tell of changes; then they are looked for now and then.
    pub(crate) obstacle: Option<String>,
}

impl Watch {
    pub(crate) fn new(paths: &[PathBuf]) -> Self {
        let (sender, changes) = channel(1);
        let mut watch = Self { changes, sender, watcher: None, obstacle: None };
        watch.renew(paths);
        watch
    }

    /// Watches these from now on. What was watched may have been replaced, and is watched anew.
    pub(crate) fn renew(&mut self, paths: &[PathBuf]) {
        self.watcher = None;
        match watcher(self.sender.clone(), paths) {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.obstacle = None;
            }
            Err(error) => self.obstacle = Some(error.to_string()),
        }
    }

    /// Returns when something may have changed, and nothing changes any more for a moment.
    pub(crate) async fn changed(&mut self) {
        if self.watcher.is_none() {
            return sleep_until(Instant::now() + LOOK).await;
        }
        // The sender is held here: there is no end.
        self.changes.recv().await;
        let patience = Instant::now() + PATIENCE;
        loop {
            let quiet = Instant::now() + QUIET;
            if quiet >= patience || timeout_at(quiet, self.changes.recv()).await.is_err() {
                return;
            }
        }
    }
}

fn watcher(sender: Sender<()>, paths: &[PathBuf]) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Who reads changes nothing. An error may be a queue that was too short.
        let reads = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
        if !reads {
            // If one waits already, that is enough.
            let _ = sender.try_send(());
        }
    })?;
    for path in paths {
        // What is replaced as a whole is told of by the directory that holds it.
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        if parent.is_dir() {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
    }
    for path in paths.iter().filter(|path| path.is_dir()) {
        // After its parent, in case that is another one of these: the wider watch counts.
        watcher.watch(path, RecursiveMode::Recursive)?;
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn is_told(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(2), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn tells_of_changes_in_a_tree_and_of_files() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("code/deep")).unwrap();
        fs::write(at("layer.zip"), "1").unwrap();
        let paths = [at("code"), at("layer.zip")];
        let mut watch = Watch::new(&paths);
        assert!(watch.obstacle.is_none(), "{:?}", watch.obstacle);
        assert!(!is_told(&mut watch).await, "nothing has changed");
        fs::read(at("layer.zip")).unwrap();
        assert!(!is_told(&mut watch).await, "it was only read");
        fs::write(at("code/deep/app.py"), "1").unwrap();
        assert!(is_told(&mut watch).await, "a file in the tree");
        fs::write(at("new"), "2").unwrap();
        fs::rename(at("new"), at("layer.zip")).unwrap();
        assert!(is_told(&mut watch).await, "a file that was replaced");
        fs::remove_dir_all(at("code")).unwrap();
        fs::create_dir(at("code")).unwrap();
        assert!(is_told(&mut watch).await, "a directory that was replaced");
        watch.renew(&paths);
        fs::write(at("code/app.py"), "1").unwrap();
        assert!(is_told(&mut watch).await, "a file in the new directory");
    }

    #[tokio::test]
    async fn a_build_is_one_change() {
        let directory = tempfile::tempdir().unwrap();
        // The directory that holds it is watched as well: that must be this test's own.
        let code = directory.path().join("code");
        fs::create_dir(&code).unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&code));
        let path = code.join("file");
        let build = tokio::task::spawn_blocking(move || {
            for number in 0..200 {
                fs::write(&path, number.to_string()).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut told = 0;
        while is_told(&mut watch).await {
            told += 1;
        }
        build.await.unwrap();
        // One, where nothing else keeps the build from writing for a while.
        assert!((1..=3).contains(&told), "200 writes are told {told} times");
    }
}
