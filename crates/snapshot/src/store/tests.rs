use std::{
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    time::Duration,
};

use super::*;

const ALL: u64 = u64::MAX;

fn key(kernel: &str) -> SnapshotKey {
    SnapshotKey::new(vec![Fact::new("kernel", kernel), Fact::new("memory", "256 MiB")])
}

fn store() -> (tempfile::TempDir, SnapshotStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(&directory.path().join("snapshots"), ALL).unwrap();
    (directory, store)
}

fn take(store: &SnapshotStore, key: &SnapshotKey) {
    let draft = store.begin(key).unwrap().unwrap();
    draft.files().state.write_all_at(b"state", 0).unwrap();
    draft.files().memory.set_len(8 << 20).unwrap();
    draft.files().memory.write_all_at(&[7; 100_000], 1 << 20).unwrap();
    draft.scratch().set_len(1 << 20).unwrap();
    draft.scratch().write_all_at(b"disk", 4096).unwrap();
    draft.publish("note").unwrap();
}

fn refusal(store: &SnapshotStore, key: &SnapshotKey) -> Refusal {
    match store.find(key).unwrap() {
        Found::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn is_taken_once_and_found() {
    let (directory, store) = store();
    assert!(matches!(store.find(&key("a")).unwrap(), Found::Nothing));
    take(&store, &key("a"));
    assert!(store.begin(&key("a")).unwrap().is_none());
    let Found::Snapshot(found) = store.find(&key("a")).unwrap() else { panic!() };
    let mut text = [0; 5];
    found.files().state.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"state");
    assert_eq!(found.note(), "note");
    let listed = &store.entries().unwrap()[0];
    assert_eq!(listed.facts, key("a").facts());
    assert!(listed.allocated_size < 1 << 20, "{listed:?}");
    assert!(matches!(store.find(&key("b")).unwrap(), Found::Nothing));

    let entry = directory.path().join("snapshots").join(key("a").entry().as_str());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&entry), 0o700);
    for file in [STATE, MEMORY, SCRATCH, MANIFEST] {
        assert_eq!(mode(&entry.join(file)), 0o600, "{file}");
    }
}

#[test]
fn what_is_half_taken_is_not_found() {
    let (_directory, store) = store();
    let draft = store.begin(&key("a")).unwrap().unwrap();
    assert!(matches!(store.find(&key("a")).unwrap(), Found::Nothing), "it is not waited for");
    assert!(store.begin(&key("a")).unwrap().is_none());
    drop(draft);
    take(&store, &key("a"));
}

/// Damages a file as an editor would, and as the medium would: without a change of its times that
/// anybody could have undone.
#[test]
fn any_damage_is_refused_by_name_and_thrown_away() {
    let (_directory, store) = store();
    let path = |file: &str| store.store.path(&key("a").entry()).join(file);
    let damaged = |damage: &dyn Fn()| {
        take(&store, &key("a"));
        // Change times count in the kernel's ticks.
        std::thread::sleep(Duration::from_millis(12));
        damage();
        let refusal = refusal(&store, &key("a"));
        assert!(matches!(store.find(&key("a")).unwrap(), Found::Nothing), "it is gone");
        refusal.to_string()
    };
    let flip = |file: &str, at: u64| {
        let file = OpenOptions::new().read(true).write(true).open(path(file)).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        file.set_modified(before).unwrap();
    };
    for (file, at) in [(STATE, 3), (MEMORY, 1 << 20), (MEMORY, 0), (MEMORY, 8 << 19), (SCRATCH, 9)]
    {
        let text = damaged(&|| flip(file, at));
        assert_eq!(text, format!("its {file} file is damaged: the checksum is wrong"));
    }
    assert_eq!(damaged(&|| flip(MANIFEST, 40)), "its manifest is damaged");
    let cut = || OpenOptions::new().write(true).open(path(MEMORY)).unwrap().set_len(4096).unwrap();
    assert_eq!(damaged(&cut), "its memory file has 4096 bytes instead of 8388608");
    let text = damaged(&|| fs::remove_file(path(SCRATCH)).unwrap());
    assert!(text.starts_with("its scratch file cannot be read: No such file"), "{text}");
    fs::create_dir(store.store.path(&key("a").entry())).unwrap();
    assert!(refusal(&store, &key("a")).to_string().starts_with("its manifest file cannot be read"));
}

#[test]
fn a_check_that_is_not_on_record_is_made() {
    let (_directory, store) = store();
    take(&store, &key("a"));
    let verified = store.store.path(&key("a").entry()).join(VERIFIED);
    let sealed = fs::read(&verified).unwrap();
    for record in [Some(&b"{}"[..]), None] {
        match record {
            Some(bytes) => fs::write(&verified, bytes).unwrap(),
            None => fs::remove_file(&verified).unwrap(),
        }
        assert!(matches!(store.find(&key("a")).unwrap(), Found::Snapshot(_)));
        assert_eq!(fs::read(&verified).unwrap(), sealed);
    }
}

#[test]
fn another_one_in_its_place_is_refused_by_what_differs() {
    let (_directory, store) = store();
    take(&store, &key("6.1"));
    fs::rename(store.store.path(&key("6.1").entry()), store.store.path(&key("6.2").entry()))
        .unwrap();
    let text = refusal(&store, &key("6.2")).to_string();
    assert_eq!(text, "it was taken with another kernel: 6.1, not 6.2");
}

#[test]
fn a_snapshot_in_use_survives_its_removal() {
    let (_directory, store) = store();
    take(&store, &key("a"));
    let Found::Snapshot(found) = store.find(&key("a")).unwrap() else { panic!() };
    assert_eq!(store.remove(&key("a").entry()).unwrap(), Removal::InUse);
    assert!(store.prune(0).unwrap().is_empty());
    store.forget(&key("a")).unwrap();
    assert!(store.entries().unwrap().is_empty());
    let mut byte = [0];
    found.files().memory.read_exact_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn the_one_that_was_not_used_for_longest_goes_first() {
    let (directory, store) = store();
    for kernel in ["a", "b", "c"] {
        take(&store, &key(kernel));
        std::thread::sleep(Duration::from_millis(12));
    }
    drop(store.find(&key("a")).unwrap());
    let kernels = |entries: Vec<SnapshotInfo>| -> String {
        entries.iter().map(|entry| entry.facts[0].value.as_str()).collect()
    };
    assert_eq!(kernels(store.entries().unwrap()), "acb");
    let one = store.entries().unwrap()[0].allocated_size;
    assert_eq!(kernels(store.prune(2 * one).unwrap()), "b");
    let narrow = SnapshotStore::open(&directory.path().join("snapshots"), one).unwrap();
    take(&narrow, &key("d"));
    assert_eq!(kernels(narrow.entries().unwrap()), "d");
}
