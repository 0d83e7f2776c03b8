//! Saved and restored machines, where it is KVM that has to be made what it was.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    time::{Duration, Instant},
};

use costrel_tests::{Guest, Saved, Shape, kvm_works, skipped};
use costrel_vmm::{RestoreError, Saving};
use tokio::time::sleep;

async fn start(shape: Shape) -> Option<Guest> {
    if !kvm_works() {
        skipped("a KVM that works");
        return None;
    }
    let guest = Guest::start(Shape { saving: Saving::Expected, ..shape }).await;
    if guest.blueprint().backend() == "kvm" {
        return Some(guest);
    }
    skipped("the tests' backend to be KVM");
    None
}

async fn refusal(saved: &Saved, change: impl FnOnce(&costrel_tests::Blueprint)) -> String {
    let blueprint = saved.blueprint();
    change(&blueprint);
    let refused = saved.restore_in(&blueprint).await.map(drop).unwrap_err();
    let RestoreError::Refused { reason } = refused else { panic!("{refused:?}") };
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named() {
    let Some(mut guest) = start(Shape::default()).await else { return };
    let saved = guest.save().await;
    let reason = refusal(&saved, |blueprint| {
        let scratch = fs::File::options().write(true).open(&blueprint.spec.disks[2].path).unwrap();
        scratch.set_len(scratch.metadata().unwrap().len() + 4096).unwrap();
    });
    let reason = reason.await;
    assert!(reason.contains("disk scratch had 1048576 sectors and could be written"), "{reason}");

    let whole = fs::read(saved.directory().join("state")).unwrap();
    let damaged = async |at: usize| {
        saved.files.state.write_all_at(&[whole[at] ^ 4], at as u64).unwrap();
        let reason = refusal(&saved, |_| {}).await;
        saved.files.state.write_all_at(&whole[at..=at], at as u64).unwrap();
        reason
    };
    assert!(damaged(3).await.ends_with("it is no state of a machine on KVM"));
    assert!(damaged(21).await.ends_with("its header is damaged"));
    assert!(damaged(5000).await.ends_with("its content is damaged"));
    saved.restore().await;
}

/// Guest time stands still between, and is the same on both vCPUs.
#[tokio::test(flavor = "multi_thread")]
async fn time_goes_on_where_it_was() {
    let Some(mut guest) = start(Shape { vcpus: 2, ..Shape::default() }).await else { return };
    let uptime = async |guest: &Guest| {
        let said = guest.says("cat /proc/uptime").await;
        Duration::from_secs_f64(said.split(' ').next().unwrap().parse().unwrap())
    };
    let began = Instant::now();
    let before = uptime(&guest).await;
    let saved = guest.save().await;
    let until_saved = began.elapsed();
    sleep(Duration::from_secs(20)).await;
    let began = Instant::now();
    let restored = saved.restore().await;
    let after = uptime(&restored).await;
    let most = before + until_saved + began.elapsed() + Duration::from_secs(1);
    assert!(before < after && after < most, "{before:?}, {after:?}, at most {most:?}");

    let hop = "exec python3.11 -ISc '\nimport os, time\nlast = 0\nfor n in range(2000):\n \
        os.sched_setaffinity(0, [n % 2])\n now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)\n \
        assert now >= last, (n, last, now)\n last = now\nprint(\"in step\")'";
    assert_eq!(restored.says(hop).await, "in step\n");
    // Timers of both fire in time.
    let naps = "exec python3.11 -ISc '\nimport os, time\nfor n in range(50):\n \
        os.sched_setaffinity(0, [n % 2])\n time.sleep(0.002)\nprint(\"awake\")'";
    assert_eq!(restored.says(naps).await, "awake\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_can_be_saved() {
    let Some(mut guest) = start(Shape::default()).await else { return };
    guest.says("echo first >/tmp/first; head -c 3000000 /dev/urandom >/tmp/data; sync").await;
    let sum = guest.says("sha256sum </tmp/data").await;
    let saved = guest.save().await;
    drop(guest);
    let mut restored = saved.restore().await;
    restored.says("echo second >/tmp/second; sync").await;
    let saved_again = restored.save().await;
    let third = saved_again.restore().await;
    assert_eq!(third.says("cat /tmp/first /tmp/second").await, "first\nsecond\n");
    assert_eq!(third.says("sha256sum </tmp/data").await, sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_above_the_gap_is_saved() {
    const MIB: u64 = 3500;
    let info = rustix::system::sysinfo();
    if (info.totalram * u64::from(info.mem_unit)) >> 20 < MIB + 2048 {
        return skipped("5.5 GiB of memory");
    }
    let Some(mut guest) = start(Shape { memory_mib: MIB, ..Shape::default() }).await else {
        return;
    };
    // The kernel gives memory from above first.
    guest.says("head -c 50000000 /dev/urandom >/tmp/data; sync").await;
    let sum = guest.says("sha256sum </tmp/data").await;
    let saved = guest.save().await;
    let file = saved.files.memory.metadata().unwrap();
    assert_eq!(file.len(), MIB << 20);
    assert!(file.blocks() * 512 < 500 << 20, "{} blocks", file.blocks());
    drop(guest);
    assert_eq!(saved.restore().await.says("sha256sum </tmp/data").await, sum);
}

/// The proportional set size of a process, in KiB: what it shares counts by its share.
fn share(process: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[expect(clippy::print_stderr, reason = "the figure is worth seeing where output is shown")]
#[tokio::test(flavor = "multi_thread")]
async fn twenty_clones_share_what_they_have_not_written() {
    let Some(mut guest) = start(Shape::default()).await else { return };
    let saved = guest.save().await;
    drop(guest);
    let mut clones = Vec::new();
    for index in 0..20 {
        let clone = saved.restore().await;
        assert_eq!(clone.says(&format!("echo {index}")).await, format!("{index}\n"));
        clones.push(clone);
    }
    let shares: Vec<u64> = clones.iter().map(|it| share(it.machine().process_id())).collect();
    let all = shares.iter().sum::<u64>() >> 10;
    // A machine that boots has some 40 MiB of its own.
    assert!(all < 20 * 20, "20 clones take {all} MiB: {shares:?}");
    eprintln!("20 clones take {all} MiB together");
}
