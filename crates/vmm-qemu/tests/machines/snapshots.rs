//! What is particular to this backend about saved machines. The rest is in the end-to-end tests.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use costrel_vmm::{Exit, Machine, RestoreError, Restorer as _, SaveError, Saving, SnapshotFiles};

use costrel_vmm_process::{Leftover, end_leftover};

use crate::host::{Conversation, Host, eventually, test};

fn files(host: &Host) -> SnapshotFiles {
    let file = |name| {
        let path = host.directory.path().join(name);
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
    };
    SnapshotFiles { state: file("state"), memory: file("memory") }
}

/// A machine whose guest has been ready, and paused.
async fn paused(host: &mut Host) -> Box<dyn Machine> {
    host.spec.saving = Saving::Expected;
    let machine = host.boot().await;
    let mut guest = Conversation::dial(&*machine).await;
    assert_eq!(guest.hear().await, "ready");
    machine.pause().await.unwrap();
    machine
}

async fn is_there(machine: &dyn Machine) {
    for round in ["first", "second", "third"] {
        let mut guest = Conversation::dial(machine).await;
        assert_eq!(guest.ask(round).await, round);
    }
}

#[test]
fn both_the_saved_machine_and_restored_ones_go_on() {
    test(async |mut host: Host| {
        let machine = paused(&mut host).await;
        let files = files(&host);
        machine.saver().unwrap().save(&files).await.unwrap();
        machine.resume().await.unwrap();
        is_there(&*machine).await;

        let siblings = [host.sibling(), host.sibling()];
        let waiting = host.backend.restore(&siblings[0].spec, &files).await.unwrap();
        let restored = host.backend.restore(&siblings[1].spec, &files).await.unwrap();
        assert!(restored.saver().is_none(), "its memory is out of reach");
        restored.resume().await.unwrap();
        is_there(&*restored).await;
        waiting.resume().await.unwrap();
        is_there(&*waiting).await;
        // Both map the same copy, and neither can change it.
        let memories = [&restored, &waiting].map(|machine| memory_of(machine.process_id()));
        assert_eq!(memories[0], memories[1]);
        assert!(memories[0].iter().all(|(access, _)| access == "rw-p"), "{memories:?}");
        is_there(&*machine).await;
        assert_eq!(waiting.kill().await, Exit::Killed);
        siblings[0].assert_clean();
    });
}

/// How the process maps its guest's memory, and which file that is.
fn memory_of(process: u32) -> BTreeSet<(String, String)> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = maps.lines().filter(|line| line.contains("memfd:memory"));
    let fields = memory.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let found: BTreeSet<_> = fields.map(|fields| (fields[1].clone(), fields[4].clone())).collect();
    assert!(!found.is_empty(), "{maps}");
    found
}

#[test]
fn a_paused_machine_can_be_saved_again_and_again() {
    test(async |mut host: Host| {
        let machine = paused(&mut host).await;
        let saver = machine.saver().unwrap();
        for _ in 0..3 {
            let mut guest = Conversation::dial(&*machine).await;
            for _ in 0..2 {
                saver.save(&files(&host)).await.unwrap();
            }
            assert!(guest.is_over().await, "its stream has ended");
            machine.resume().await.unwrap();
            assert!(matches!(saver.save(&files(&host)).await, Err(SaveError::NotPaused)));
            is_there(&*machine).await;
            machine.pause().await.unwrap();
        }
        let files = files(&host);
        saver.save(&files).await.unwrap();
        let sibling = host.sibling();
        let restored = host.backend.restore(&sibling.spec, &files).await.unwrap();
        restored.resume().await.unwrap();
        is_there(&*restored).await;
    });
}

#[test]
fn one_that_is_not_wanted_or_was_killed_leaves_nothing() {
    test(async |mut host: Host| {
        let machine = paused(&mut host).await;
        let files = files(&host);
        machine.saver().unwrap().save(&files).await.unwrap();
        let sibling = host.sibling();
        let waiting = host.backend.restore(&sibling.spec, &files).await.unwrap();
        let qemu = sibling.qemu();
        drop(waiting);
        eventually(|| !sibling.runs(qemu)).await;

        let sibling = host.sibling();
        let waiting = host.backend.restore(&sibling.spec, &files).await.unwrap();
        assert_eq!(end_leftover(&sibling.spec.directory).unwrap(), Leftover::Ended);
        let failed = waiting.resume().await.unwrap_err();
        assert!(failed.to_string().contains("signal: 9"), "{failed}");
        sibling.assert_clean();
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    test(async |mut host: Host| {
        let machine = paused(&mut host).await;
        let files = files(&host);
        machine.saver().unwrap().save(&files).await.unwrap();
        let sibling = host.sibling();
        let refusal = async |host: &Host| {
            let refused = host.backend.restore(&host.spec, &files).await.map(drop).unwrap_err();
            host.assert_clean();
            let RestoreError::Refused { reason } = refused else { panic!("{refused:?}") };
            reason
        };
        let mut other = host.sibling();
        other.spec.vcpus = costrel_vmm::VcpuCount::new(2).unwrap();
        let reason = refusal(&other).await;
        assert!(reason.contains("with vcpus=1 mib=128 "), "{reason}");

        // A header that is in order, before a stream that QEMU does not know what to do with.
        let path = host.directory.path().join("state");
        let whole = fs::read(&path).unwrap();
        let stream = whole.windows(4).position(|bytes| bytes == b"QEVM").unwrap();
        let wrong = with_stream(&whole[..stream], b"QEVM\0\0\0\x03\x09nonsense");
        files.state.write_all_at(&wrong, 0).unwrap();
        files.state.set_len(wrong.len() as u64).unwrap();
        let reason = refusal(&sibling).await;
        assert!(reason.contains("load of migration failed"), "{reason}");

        files.state.write_all_at(&whole, 0).unwrap();
        files.memory.set_len(1 << 20).unwrap();
        let reason = refusal(&sibling).await;
        assert!(reason.contains("its memory has 1048576 bytes"), "{reason}");
    });
}

/// The header of a state, made to fit another stream.
fn with_stream(header: &[u8], stream: &[u8]) -> Vec<u8> {
    let first_line = 1 + header.iter().position(|&byte| byte == b'\n').unwrap();
    let mut description: serde_json::Value =
        serde_json::from_slice(&header[first_line + 8..]).unwrap();
    description["stream_bytes"] = stream.len().into();
    description["stream_crc32c"] = crc32c::crc32c(stream).into();
    let description = serde_json::to_vec(&description).unwrap();
    let length = u32::try_from(description.len()).unwrap().to_le_bytes();
    let checksum = crc32c::crc32c(&description).to_le_bytes();
    [&header[..first_line], &length, &checksum, &description, stream].concat()
}
