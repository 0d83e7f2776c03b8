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

/// Two that take the same entries in opposite order, and keep what they have.
#[test]
fn writers_that_hold_leases_do_not_wait_for_each_other() {
    let (_directory, store, _) = store();
    let meeting = std::sync::Barrier::new(2);
    let take = |names: [EntryName; 2]| {
        meeting.wait();
        let leases = names.map(|name| store.get_or_create(&name, text("x")).unwrap());
        leases.iter().filter(|lease| lease.created()).count()
    };
    for round in 0..500 {
        let name = |letter| EntryName::new(format!("{letter}{round}")).unwrap();
        let created = std::thread::scope(|scope| {
            let one = scope.spawn(|| take([name("a"), name("b")]));
            let two = scope.spawn(|| take([name("b"), name("a")]));
            one.join().unwrap() + two.join().unwrap()
        });
        assert_eq!(created, 2);
    }
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
