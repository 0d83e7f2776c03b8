//! Machines that are saved and restored, the same on every backend.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use costrel_tests::{
    Blueprint, Guest, Saved, Shape, processes_below, skipped, snapshot_files, wait_until,
};
use costrel_vmm::{Exit, RestoreError, SaveError, Saving};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// Counts in a variable, hence in memory, and tells in a file how far it is.
const COUNTER: &str = "(while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.05; done) \
    </dev/null >/dev/null 2>&1 &";

fn shape(vcpus: u32) -> Shape {
    Shape { vcpus, saving: Saving::Expected, ..Shape::default() }
}

/// A machine that can be saved, or none where no machine can be.
async fn start(vcpus: u32) -> Option<Guest> {
    let guest = Guest::start(shape(vcpus)).await;
    if guest.blueprint().restorer().is_none() || guest.machine().saver().is_none() {
        skipped("a backend that saves and restores machines");
        return None;
    }
    Some(guest)
}

async fn count(guest: &Guest) -> u64 {
    loop {
        // Empty while it is written.
        if let Ok(count) = guest.says("cat /tmp/count").await.trim().parse() {
            return count;
        }
    }
}

/// Waits until the guest has counted on.
async fn counts_on(guest: &Guest, from: u64) -> u64 {
    let began = Instant::now();
    loop {
        let now = count(guest).await;
        if now > from {
            return now;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it stands at {now}");
    }
}

async fn survives(vcpus: u32) {
    let Some(mut guest) = start(vcpus).await else { return };
    guest.says("echo a file >/tmp/file; sync").await;
    guest.says(COUNTER).await;
    sleep(Duration::from_secs(1)).await;
    let before = count(&guest).await;
    let saved = guest.save().await;
    let after = counts_on(&guest, before).await;

    let restored = saved.restore().await;
    assert_eq!(restored.says("cat /tmp/file").await, "a file\n");
    let there = count(&restored).await;
    assert!(there >= before, "{before}, and then {there}");
    counts_on(&restored, there).await;
    assert_eq!(restored.says("nproc").await, format!("{vcpus}\n"));

    // Both are machines of their own, and the first goes on as if nothing had been.
    guest.says("echo mine >/tmp/file").await;
    assert_eq!(restored.says("cat /tmp/file").await, "a file\n");
    counts_on(&guest, after).await;
    let _ = restored.agent().power_off().await;
    assert_eq!(restored.machine().wait().await, Exit::PowerOff);
    assert_eq!(guest.says("cat /tmp/file").await, "mine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_goes_on() {
    survives(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_goes_on_with_2_vcpus() {
    survives(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_saved_more_than_once() {
    let Some(mut guest) = start(1).await else { return };
    let mut snapshots = Vec::new();
    for round in 0..3 {
        guest
            .says(&format!("echo {round} >/dev/shm/round 2>/dev/null || echo {round} >/tmp/round"))
            .await;
        snapshots.push(guest.save().await);
    }
    for (round, saved) in snapshots.iter().enumerate() {
        let restored = saved.restore().await;
        let said = restored.says("cat /dev/shm/round 2>/dev/null || cat /tmp/round").await;
        assert_eq!(said, format!("{round}\n"));
    }
}

fn checksums(saved: &Saved) -> String {
    let files = ["state", "memory", "scratch.ext4"].map(|name| saved.directory().join(name));
    let output = Command::new("sha256sum").args(files).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn clones(number: usize) {
    let Some(mut guest) = start(1).await else { return };
    guest.says("head -c 4000000 /dev/urandom >/tmp/data; sync").await;
    let sum = guest.says("sha256sum </tmp/data").await;
    let saved = guest.save().await;
    let before = checksums(&saved);

    let clones: Vec<Guest> = futures(number, async |_| saved.restore().await).await;
    let write = async |index: usize| {
        let clone = &clones[index];
        assert_eq!(clone.says("sha256sum </tmp/data").await, sum);
        // Memory of every clone's own, and its own disk.
        let fill = format!(
            "python3.11 -ISc 'x = bytearray(b\"{index}\" * 20000000); open(\"/tmp/own\", \
             \"wb\").write(x[:5000000])' && sync && rm /tmp/data && echo {index} >/tmp/index"
        );
        clone.says(&fill).await;
    };
    futures(number, write).await;
    let read = async |index: usize| {
        let clone = &clones[index];
        let own = "cat /tmp/index; wc -c </tmp/own; head -c 1 /tmp/own; ls /tmp/data 2>&1 \
            >/dev/null | wc -l";
        assert_eq!(clone.says(own).await, format!("{index}\n5000000\n{index}1\n"));
    };
    futures(number, read).await;
    drop(clones);
    assert_eq!(checksums(&saved), before, "a clone has changed what was saved");
    // Nor did they reach the one that was saved, which is one more of them.
    assert_eq!(guest.says("sha256sum </tmp/data").await, sum);
    let late = saved.restore().await;
    assert_eq!(
        late.says("sha256sum </tmp/data; ls /tmp/own 2>/dev/null | wc -l").await,
        sum + "0\n"
    );
}

/// All at once.
async fn futures<T>(number: usize, make: impl AsyncFn(usize) -> T) -> Vec<T> {
    let mut pending: Vec<_> = (0..number).map(|index| Box::pin(make(index))).collect();
    let mut done: Vec<Option<T>> = (0..number).map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pending.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clones_are_apart() {
    clones(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_clones_are_apart() {
    clones(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_paused_machine_is_saved() {
    let Some(guest) = start(1).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let files = snapshot_files(directory.path());
    let refused = guest.save_to(&files).await;
    assert!(matches!(refused, Err(SaveError::NotPaused)), "{refused:?}");
    assert_eq!(guest.says("echo here").await, "here\n");
    guest.machine().pause().await.unwrap();
    guest.machine().kill().await;
    let refused = guest.save_to(&files).await;
    assert!(matches!(refused, Err(SaveError::Ended(Exit::Killed))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_does_not_expect_it_cannot_be_saved() {
    let guest = Guest::start(Shape::default()).await;
    assert!(guest.machine().saver().is_none());
}

/// What a machine's directory holds beside what it was made with.
fn left_in(directory: &Path) -> BTreeSet<OsString> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != "scratch.ext4" && name != "console.log").collect()
}

fn assert_nothing_left(blueprint: &Blueprint) {
    assert_eq!(processes_below(blueprint.directory()), Vec::<u32>::new());
    assert_eq!(left_in(blueprint.directory()), BTreeSet::new());
}

async fn refusal(saved: &Saved) -> String {
    let blueprint = saved.blueprint();
    let refused = saved.restore_in(&blueprint).await.map(drop).unwrap_err();
    assert_nothing_left(&blueprint);
    let RestoreError::Refused { reason } = refused else { panic!("{refused:?}") };
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_a_snapshot_are_refused() {
    let Some(mut guest) = start(1).await else { return };
    let saved = guest.save().await;
    let whole = fs::read(saved.directory().join("state")).unwrap();
    let put = |bytes: &[u8]| {
        saved.files.state.set_len(0).unwrap();
        saved.files.state.write_all_at(bytes, 0).unwrap();
    };
    for length in [0, 1, 20, 100, whole.len() / 2, whole.len() - 1] {
        put(&whole[..length]);
        refusal(&saved).await;
    }
    for at in [0, 19, 25, 100, whole.len() / 3, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        put(&flipped);
        refusal(&saved).await;
    }
    put(&[&whole[..], b"more"].concat());
    refusal(&saved).await;
    put(&vec![0; whole.len()]);
    let reason = refusal(&saved).await;
    assert!(!reason.is_empty());

    put(&whole);
    let length = saved.files.memory.metadata().unwrap().len();
    for other in [0, length / 2, length - 4096, length + 4096] {
        saved.files.memory.set_len(other).unwrap();
        refusal(&saved).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_s_snapshot_is_refused() {
    let Some(mut guest) = start(2).await else { return };
    let saved = guest.save().await;
    let mut blueprint = saved.blueprint();
    blueprint.spec.vcpus = costrel_vmm::VcpuCount::ONE;
    let refused = saved.restore_in(&blueprint).await.map(drop).unwrap_err();
    assert!(matches!(refused, RestoreError::Refused { .. }), "{refused:?}");
    blueprint.spec.vcpus = costrel_vmm::VcpuCount::new(2).unwrap();
    blueprint.spec.disks.pop();
    let refused = saved.restore_in(&blueprint).await.map(drop).unwrap_err();
    assert!(matches!(refused, RestoreError::Refused { .. }), "{refused:?}");
    assert_nothing_left(&blueprint);
}

/// A file system of so many MiB without a name.
fn small_file_system(directory: &Path, mib: u32) -> Option<costrel_vmm::SnapshotFiles> {
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(directory).status();
        status.is_ok_and(|status| status.success())
    };
    let size = format!("size={mib}m");
    if !rustix::process::geteuid().is_root()
        || !run("mount", &["-t", "tmpfs", "-o", &size, "small"])
    {
        return None;
    }
    let files = snapshot_files(directory);
    assert!(run("umount", &["-l"]));
    Some(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_is_no_harm_to_the_machine() {
    let Some(mut guest) = start(1).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some(files) = small_file_system(directory.path(), 4) else {
        return skipped("root, who may mount a small file system");
    };
    guest.says(COUNTER).await;
    guest.hang_up();
    guest.machine().pause().await.unwrap();
    let failed = guest.save_to(&files).await;
    assert!(matches!(failed, Err(SaveError::Failed { .. })), "{failed:?}");
    // Where there is room, the same pause will do.
    guest.save_to(&snapshot_files(directory.path())).await.unwrap();
    guest.machine().resume().await.unwrap();
    guest.connect().await;
    counts_on(&guest, 0).await;
    let saved = guest.save().await;
    counts_on(&saved.restore().await, 0).await;
}

fn kill(id: u32) {
    let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    // It may have ended.
    let _ = kill_process(id, Signal::KILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_killed_while_it_saves() {
    let mut failures = 0;
    for delay in [0, 1, 3, 10, 30] {
        let Some(mut guest) = start(1).await else { return };
        guest.hang_up();
        guest.machine().pause().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = snapshot_files(directory.path());
        let killed = async {
            sleep(Duration::from_millis(delay)).await;
            kill(guest.machine().process_id());
        };
        let (result, ()) = tokio::join!(guest.save_to(&files), killed);
        let exit = guest.machine().wait().await;
        assert!(matches!(&exit, Exit::Monitor { .. }), "{exit:?}");
        match result {
            Err(SaveError::Ended(Exit::Monitor { .. }) | SaveError::Failed { .. }) => failures += 1,
            // It was done with its part.
            Ok(()) => {}
            other => panic!("{other:?}"),
        }
        assert_nothing_left(guest.blueprint());
    }
    assert!(failures > 0, "it was never killed while it saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_killed_while_it_restores() {
    let Some(mut guest) = start(1).await else { return };
    let saved = guest.save().await;
    for delay in [0, 1, 5, 10, 20, 40] {
        let blueprint = saved.blueprint();
        let record = blueprint.directory().join("monitor.pid");
        let killer = std::thread::spawn(move || {
            wait_until("it starts", || record.exists());
            std::thread::sleep(Duration::from_millis(delay));
            let text = fs::read_to_string(&record).unwrap_or_default();
            if let Some(id) = text.split(' ').next().and_then(|id| id.parse().ok()) {
                kill(id);
            }
        });
        let result = saved.restore_in(&blueprint).await;
        killer.join().unwrap();
        match result {
            Err(RestoreError::Boot(_)) => {}
            Err(error) => panic!("the snapshot is not at fault: {error}"),
            // It was done with its part.
            Ok(machine) => {
                let exit = machine.wait().await;
                assert!(matches!(&exit, Exit::Monitor { .. }), "{exit:?}");
            }
        }
        assert_nothing_left(&blueprint);
    }
    let restored = saved.restore().await;
    assert_eq!(restored.says("echo here").await, "here\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_restore_leaves_nothing() {
    let Some(mut guest) = start(1).await else { return };
    let saved = guest.save().await;
    for limit in [1, 5, 20, 50] {
        let blueprint = saved.blueprint();
        let limit = Duration::from_millis(limit);
        let _ = tokio::time::timeout(limit, saved.restore_in(&blueprint)).await;
        let directory = blueprint.directory();
        wait_until("it has ended", || processes_below(directory).is_empty());
        wait_until("its directory is empty", || left_in(directory).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_depends_on_is_told() {
    let Some(guest) = start(1).await else { return };
    let restorer = guest.blueprint().restorer().unwrap();
    let told = restorer.compatibility().unwrap();
    assert!(told.len() >= 3, "{told:?}");
    assert!(told.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()), "{told:?}");
    assert_eq!(told, restorer.compatibility().unwrap(), "it is the same each time");
}
