//! Snapshots that are not what they were: each is refused by name, and the function answers.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    time::Duration,
};

use costrel_snapshot::{Fact, Found, SnapshotKey, SnapshotStore};
use costrel_tests::{processes_below, wait_until};

use super::*;

/// A number that nobody knows before.
fn random() -> u64 {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Changes one bit of a file, anywhere, and says which.
fn flip(path: &Path) -> String {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (at, bit) = (random() % file.metadata().unwrap().len(), random() % 8);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    format!("bit {bit} of byte {at}")
}

fn cut(path: &Path) -> String {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let length = random() % file.metadata().unwrap().len();
    file.set_len(length).unwrap();
    format!("cut to {length} bytes")
}

/// Refused with that, thrown away, taken anew, and gone on from.
fn refused(home: &Home, what: &str, reason: &str) {
    // The kernel tells changes apart that are some milliseconds apart.
    let run = answered(rust(home, r#"{"name":"Ada"}"#));
    assert_eq!(run.payload()["greeting"], "Hello Ada");
    let told = run.stderr.lines().find(|line| line.starts_with("warning: "));
    let told = told.unwrap_or_else(|| panic!("{what}: {run:#?}"));
    assert!(told.contains("snapshot is thrown away: "), "{what}: {told}");
    assert!(told.contains(reason), "{what}: {told}");
    assert!(run.report().contains("Init Duration"), "{what}: {run:#?}");
    restored(rust(home, "{}"));
}

#[test]
fn damage_is_found_wherever_it_is() {
    let home = Home::private();
    booted(rust(&home, "{}"));
    let rounds = if is_long() { 20 } else { 1 };
    for _ in 0..rounds {
        for file in ["state", "memory", "scratch"] {
            std::thread::sleep(Duration::from_millis(20));
            let what = flip(&the_snapshot(&home).join(file));
            refused(&home, &what, &format!("its {file} file is damaged"));
        }
        let what = flip(&the_snapshot(&home).join("manifest"));
        refused(&home, &what, "its ");
        let what = cut(&the_snapshot(&home).join("memory"));
        refused(&home, &what, "its memory file has ");
        let what = cut(&the_snapshot(&home).join("state"));
        refused(&home, &what, "its state file has ");
        fs::remove_file(the_snapshot(&home).join("scratch")).unwrap();
        refused(&home, "no scratch disk", "its scratch file cannot be read");
    }
}

/// The facts of a snapshot, in their order.
fn facts(snapshot: &Path) -> Vec<Fact> {
    let manifest = fs::read_to_string(snapshot.join("manifest")).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_str(manifest.split_once('\n').unwrap().1).unwrap();
    serde_json::from_value(manifest["facts"].clone()).unwrap()
}

/// As if the machine of before had had another kernel, another processor, and so on: its snapshot
/// stands where the one of this machine is looked for.
#[test]
fn one_of_another_host_is_refused_by_what_differs() {
    let home = Home::private();
    booted(rust(&home, "{}"));
    let mine = the_snapshot(&home);
    let store = SnapshotStore::open(&store(&home), u64::MAX).unwrap();
    for other in ["kernel", "format", "processor", "agent"] {
        let mut facts = facts(&mine);
        facts.iter_mut().find(|fact| fact.name == other).unwrap().value = "another one".into();
        let key = SnapshotKey::new(facts);
        let draft = store.begin(&key).unwrap().unwrap();
        draft.files().state.write_all_at(b"state", 0).unwrap();
        draft.publish("invocation/next").unwrap();
        fs::remove_dir_all(&mine).unwrap();
        fs::rename(mine.with_file_name(key.entry().as_str()), &mine).unwrap();
        let reason = format!("it was taken with another {other}: another one, not ");
        refused(&home, other, &reason);
    }
}

/// What is whole by its checksums, and still nothing that a machine can go on from.
#[test]
fn a_failed_restore_falls_back_to_a_boot() {
    let home = Home::private();
    booted(rust(&home, "{}"));
    let mine = the_snapshot(&home);
    let key = SnapshotKey::new(facts(&mine));
    let store = SnapshotStore::open(&store(&home), u64::MAX).unwrap();
    let length = fs::metadata(mine.join("memory")).unwrap().len();
    let state = fs::read(mine.join("state")).unwrap();
    for state in [b"not the state of anything".to_vec(), state[..state.len() / 2].to_vec()] {
        fs::remove_dir_all(&mine).unwrap();
        let draft = store.begin(&key).unwrap().unwrap();
        draft.files().state.write_all_at(&state, 0).unwrap();
        draft.files().memory.set_len(length).unwrap();
        draft.scratch().set_len(512 << 20).unwrap();
        draft.publish("invocation/next").unwrap();
        assert!(matches!(store.find(&key).unwrap(), Found::Snapshot(_)));
        refused(&home, "no state", "the snapshot cannot be restored: ");
    }
    wait_until("nothing runs on", || processes_below(home.path()).is_empty());
    assert_eq!(fs::read_dir(home.sandboxes()).unwrap().count(), 0);
}

/// Somebody deletes it again and again, while functions go on from it.
#[test]
fn one_that_is_deleted_under_way_harms_nobody() {
    let home = Home::private();
    booted(rust(&home, "{}"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for snapshot in snapshots(&home) {
                    let _ = fs::remove_dir_all(snapshot);
                }
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let callers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..2).for_each(|_| drop(answered(rust(&home, "{}"))))))
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // Whoever has a file open keeps it.
    drop(File::open(home.path()).unwrap());
    answered(rust(&home, "{}"));
    restored(rust(&home, "{}"));
    assert_eq!(drafts(&home), 0);
}
