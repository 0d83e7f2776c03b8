//! Stores that cannot be written to: what is in them can be used, and the rest is a clear error.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]

use std::{
    convert::Infallible,
    error::Error as _,
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use costrel_store::{CreateError, Draft, EntryName, Removal, Store, StoreError};

fn name(text: &str) -> EntryName {
    EntryName::new(text).unwrap()
}

fn text(draft: &mut Draft) -> Result<(), Infallible> {
    draft.file().write_all(b"x").unwrap();
    Ok(())
}

/// Nobody, on a thread of its own: root may write anywhere. Does nothing if we are somebody.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A store with the entry `there`, a draft that a killed process left, and nobody's permission to
/// write.
fn locked(directory: &Path) -> PathBuf {
    let root = directory.join("store");
    let store = Store::open(&root).unwrap();
    store.get_or_create(&name("there"), text).unwrap();
    fs::write(root.join(".drafts/left"), "half").unwrap();
    for path in [".", ".locks", ".drafts"] {
        allow(&root.join(path), 0o555);
    }
    allow(&root.join(".locks/there"), 0o444);
    allow(&root.join("there"), 0o444);
    allow(directory, 0o755);
    root
}

/// What a store with the entry `there` that refuses to be written to must do.
fn check(root: &Path, kind: io::ErrorKind) {
    let store = Store::open(root).unwrap();
    let lease = store.get(&name("there")).unwrap().expect("the entry");
    assert_eq!(fs::read_to_string(lease.path()).unwrap(), "x");
    assert!(!store.get_or_create(&name("there"), text).unwrap().created());
    assert_eq!(store.remove(&name("there")).unwrap(), Removal::InUse);
    assert!(store.is_used(&name("there")).unwrap());
    drop(lease);
    assert!(!store.is_used(&name("there")).unwrap());
    assert!(store.get(&name("missing")).unwrap().is_none());
    assert_eq!(store.entries().unwrap().len(), 1);
    assert_eq!(store.sweep().unwrap(), 0);

    let refused = |error: StoreError| {
        assert!(error.to_string().contains(&root.display().to_string()), "{error}");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(kind), "{error:?}");
    };
    let of_creation = |result: Result<(), CreateError<Infallible>>| match result {
        Err(CreateError::Store(error)) => refused(error),
        other => panic!("{other:?}"),
    };
    refused(store.remove(&name("there")).unwrap_err());
    of_creation(store.get_or_create(&name("missing"), text).map(drop));
    of_creation(store.replace(&name("there"), text));
}

#[test]
fn without_permission() {
    let directory = tempfile::tempdir().unwrap();
    let root = locked(directory.path());
    unprivileged(|| check(&root, io::ErrorKind::PermissionDenied));
    allow(&root, 0o755);
    allow(&root.join(".locks"), 0o755);
    allow(&root.join(".drafts"), 0o755);
}

#[test]
fn where_it_cannot_be_made() {
    let directory = tempfile::tempdir().unwrap();
    allow(directory.path(), 0o555);
    let root = directory.path().join("never/made");
    unprivileged(|| {
        let store = Store::open(&root).unwrap();
        assert!(store.get(&name("a")).unwrap().is_none());
        assert!(store.entries().unwrap().is_empty());
        assert_eq!(store.sweep().unwrap(), 0);
        let error = store.get_or_create(&name("a"), text).unwrap_err();
        assert!(error.to_string().contains("never/made cannot be written to"), "{error}");
    });
    allow(directory.path(), 0o755);
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..100 {
            let output = Command::new("umount").arg(&self.0).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Mounts; says what is lacking where it cannot.
fn mount(arguments: &[&str], at: &Path) -> Option<Mount> {
    let output = Command::new("mount").args(arguments).arg(at).output();
    match output {
        Ok(output) if output.status.success() => Some(Mount(at.to_owned())),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("SKIPPED: cannot mount (needs root): {}", said.trim());
            None
        }
        Err(error) => {
            eprintln!("SKIPPED: cannot run mount: {error}");
            None
        }
    }
}

#[test]
fn on_a_read_only_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let root = locked(directory.path());
    let seen = directory.path().join("seen");
    fs::create_dir(&seen).unwrap();
    let Some(_mount) = mount(&["--bind", &root.to_string_lossy()], &seen) else { return };
    let Some(again) = mount(&["-o", "remount,ro,bind"], &seen) else { return };
    std::mem::forget(again);
    check(&seen, io::ErrorKind::ReadOnlyFilesystem);

    // Copied without its locks, it serves as well.
    fs::remove_dir_all(root.join(".locks")).unwrap();
    let store = Store::open(&seen).unwrap();
    assert!(store.get(&name("there")).unwrap().is_some());
}

#[test]
fn on_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_mount) =
        mount(&["-t", "tmpfs", "-o", "size=1m,nr_inodes=8", "none"], directory.path())
    else {
        return;
    };
    let root = directory.path().join("store");
    let store = Store::open(&root).unwrap();
    store.get_or_create(&name("there"), text).unwrap();
    // All inodes are taken.
    let mut taken = 0;
    while fs::write(directory.path().join(format!("taken{taken}")), "").is_ok() {
        taken += 1;
    }
    let store = Store::open(&root).unwrap();
    assert!(store.get(&name("there")).unwrap().is_some());
    assert!(store.get(&name("missing")).unwrap().is_none());
    let error = store.get_or_create(&name("missing"), text).unwrap_err();
    assert!(error.to_string().contains("store cannot be written to"), "{error}");
    // What was too much is gone, and then there is room again.
    fs::remove_file(directory.path().join("taken0")).unwrap();
    fs::remove_file(directory.path().join("taken1")).unwrap();
    let all = vec![1; 2 << 20];
    let error = store.get_or_create(&name("missing"), |draft| draft.file().write_all(&all));
    assert!(
        matches!(error, Err(CreateError::Writer(error)) if error.kind() == io::ErrorKind::StorageFull)
    );
    assert_eq!(store.remove(&name("there")).unwrap(), Removal::Removed);
    assert!(store.get_or_create(&name("missing"), text).unwrap().created());
}
