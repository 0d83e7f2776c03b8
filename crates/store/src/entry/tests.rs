use std::{convert::Infallible, io::Write as _};

use super::*;

fn store() -> (tempfile::TempDir, Store, EntryName) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("s")).unwrap();
    (directory, store, EntryName::new("a").unwrap())
}

fn text(text: &'static str) -> impl FnOnce(&mut Draft) -> io::Result<()> {
    move |draft| draft.file().write_all(text.as_bytes())
}

#[test]
fn is_written_once() {
    let (_directory, store, name) = store();
    assert!(store.get(&name).unwrap().is_none());
    assert!(store.get_or_create(&name, text("one")).unwrap().created());
    let lease = store.get_or_create(&name, text("two")).unwrap();
    assert!(!lease.created());
    assert_eq!(fs::read_to_string(lease.path()).unwrap(), "one");
}

#[test]
fn a_failed_writer_leaves_nothing() {
    let (_directory, store, name) = store();
    let failed = store.get_or_create(&name, |draft| {
        draft.file().write_all(b"half").unwrap();
        Err("no")
    });
    assert!(matches!(failed, Err(CreateError::Writer("no"))));
    assert!(store.get(&name).unwrap().is_none());
    assert_eq!(store.sweep().unwrap(), 0);
}

#[test]
fn an_entry_in_use_stays() {
    let (_directory, store, name) = store();
    let lease = store.get_or_create(&name, text("x")).unwrap();
    assert_eq!(store.remove(&name).unwrap(), Removal::InUse);
    drop(lease);
    assert_eq!(store.remove(&name).unwrap(), Removal::Removed);
    assert_eq!(store.remove(&name).unwrap(), Removal::Absent);
}

#[test]
fn only_an_abandoned_draft_is_swept() {
    let (_directory, store, name) = store();
    fs::write(store.draft_path(&name), "left by a killed process").unwrap();
    store
        .get_or_create(&EntryName::new("b").unwrap(), |_| {
            assert_eq!(store.sweep().unwrap(), 1);
            Ok::<_, Infallible>(())
        })
        .unwrap();
    assert_eq!(store.entries().unwrap().len(), 1);
}

#[test]
fn one_of_many_writers_writes() {
    let (_directory, store, name) = store();
    let created = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.get_or_create(&name, text("x")).unwrap().created()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
    });
    assert_eq!(created, 1);
}

/// Between looking for an entry and locking it, another may have written it and keep it for as long
/// as it likes, perhaps until we let go of another entry.
#[test]
fn an_entry_that_appears_meanwhile_is_not_waited_for() {
    let (_directory, store, name) = store();
    let (lease, _) = store.open_lock(&name).unwrap();
    lease.lock_shared().unwrap();
    let (done, outcome) = std::sync::mpsc::channel();
    let (other, wanted) = (store.clone(), name.clone());
    let thread = std::thread::spawn(move || {
        done.send(other.get_or_create(&wanted, text("two")).unwrap().created()).unwrap();
    });
    let early = outcome.recv_timeout(std::time::Duration::from_millis(100));
    assert!(early.is_err(), "the lock was not respected");
    fs::write(store.path(&name), "one").unwrap();
    assert!(!outcome.recv_timeout(std::time::Duration::from_secs(30)).unwrap());
    drop(lease);
    thread.join().unwrap();
}

#[test]
fn replaces_under_a_reader() {
    let (_directory, store, name) = store();
    store.replace(&name, text("one")).unwrap();
    let lease = store.get(&name).unwrap().unwrap();
    store.replace(&name, text("two")).unwrap();
    assert_eq!(fs::read_to_string(lease.path()).unwrap(), "two");
}

#[test]
fn names_are_checked() {
    for name in ["", ".hidden", "a/b", "a b", "..", &"x".repeat(201)] {
        assert!(EntryName::new(name).is_err(), "{name}");
    }
}
