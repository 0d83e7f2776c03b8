//! Boots real machines with a tiny guest, `guest.c`.
//!
//! They need a kernel, in `COSTREL_TEST_KERNEL`, and QEMU, a C compiler with a static libc and
//! `mke2fs` in the `PATH`; what is missing is named by each test that is skipped for it.

mod host;
mod snapshots;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use costrel_vmm::{
    Backend as _, BootError, DialError, Disk, DiskAccess, DiskName, Exit, GuestPort, MachineError,
    VcpuCount,
};
use costrel_vmm_process::{Leftover, end_leftover};
use costrel_vmm_qemu::{QemuBackend, QemuSearch};
use rustix::process::PidfdFlags;

use crate::host::{Conversation, Host, PORT, eventually, test};

#[test]
fn echoes_through_the_port_even_when_dialled_before_it_is_there() {
    test(async |host: Host| {
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        assert_eq!(guest.ask("hello there").await, "hello there");
        let long = "long ".repeat(10_000);
        assert_eq!(guest.ask(&long).await, long);
        let arguments = guest.ask("!cat /proc/cmdline").await;
        assert!(arguments.contains("costrel.transport=virtio-serial init=/init"), "{arguments}");
    });
}

#[test]
fn a_port_can_be_dialled_again_once_its_stream_is_closed() {
    test(async |host: Host| {
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        assert!(matches!(machine.dial(PORT).await, Err(DialError::Busy(_))));
        assert!(matches!(machine.dial(GuestPort(1)).await, Err(DialError::Undeclared(_))));
        for round in ["second", "third", "fourth"] {
            drop(guest);
            guest = Conversation::dial(&*machine).await;
            assert_eq!(guest.ask(round).await, round);
        }
    });
}

#[test]
fn disks_are_named_in_the_order_of_the_spec_and_only_writable_ones_are_written() {
    test(async |mut host: Host| {
        for (name, access) in [
            ("image", DiskAccess::ReadOnly),
            ("function", DiskAccess::ReadOnly),
            ("scratch", DiskAccess::ReadWrite),
            ("fifth", DiskAccess::ReadOnly),
            ("sixth", DiskAccess::ReadOnly),
        ] {
            // What would be syntax, if it came near QEMU's command line.
            let path = host.directory.path().join(format!("{name},readonly=off"));
            fs::write(&path, vec![0; 1 << 20]).unwrap();
            host.spec.disks.push(Disk { name: DiskName::new(name).unwrap(), path, access });
        }
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        assert_eq!(
            guest.ask("!disks").await.trim(),
            "vda=root:1 vdb=image:1 vdc=function:1 vdd=scratch:0 vde=fifth:1 vdf=sixth:1"
        );
        assert_eq!(guest.ask("!write /dev/vdb").await, "failed");
        assert_eq!(guest.ask("!write /dev/vdd").await, "ok");
        machine.kill().await;
        assert!(fs::read(&host.spec.disks[1].path).unwrap().iter().all(|&byte| byte == 0));
        assert!(fs::read(&host.spec.disks[3].path).unwrap().starts_with(b"written by the guest"));
    });
}

#[test]
fn several_cpus() {
    test(async |mut host: Host| {
        host.spec.vcpus = VcpuCount::new(2).unwrap();
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        assert_eq!(guest.ask("!cpus").await, "2");
    });
}

#[test]
fn a_paused_machine_goes_on_where_it_was() {
    test(async |host: Host| {
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        machine.pause().await.unwrap();
        machine.pause().await.unwrap();
        guest.say("are you there?").await;
        assert!(!guest.can_be_heard_for_a_while().await, "a paused guest answered");
        machine.resume().await.unwrap();
        assert_eq!(guest.hear().await, "are you there?");
        machine.kill().await;
        assert!(matches!(machine.pause().await, Err(MachineError::Ended(Exit::Killed))));
    });
}

#[test]
fn every_kind_of_end_is_told_apart() {
    test(async |host: Host| {
        for (command, end) in
            [("!reboot", Exit::Reboot), ("!poweroff", Exit::PowerOff), ("!halt", Exit::PowerOff)]
        {
            let machine = host.boot().await;
            let mut guest = Conversation::dial(&*machine).await;
            assert_eq!(guest.hear().await, "ready");
            guest.say(command).await;
            let (first, second) = tokio::join!(machine.wait(), machine.wait());
            assert_eq!(
                (&first, &second),
                (&end, &end),
                "{command}: {}",
                machine.console_tail().await
            );
            assert_eq!(machine.kill().await, end, "an end is final");
            host.assert_clean();
        }
    });
}

#[test]
fn a_panic_is_told_in_the_kernels_words() {
    test(async |host: Host| {
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        guest.say("!panic").await;
        let Exit::Panic { message } = machine.wait().await else { panic!() };
        assert_eq!(message, "Attempted to kill init! exitcode=0x00000700");
        assert!(
            machine.console_tail().await.contains(&message),
            "{}",
            machine.console_tail().await
        );
        assert!(fs::read_to_string(&host.spec.console.path).unwrap().contains(&message));
        assert!(guest.is_over().await);
        host.assert_clean();
    });
}

#[test]
fn a_kernel_without_its_root_panics() {
    test(async |mut host: Host| {
        host.spec.disks.clear();
        let machine = host.boot().await;
        let Exit::Panic { message } = machine.wait().await else { panic!() };
        assert!(message.contains("root fs"), "{message}");
    });
}

#[test]
fn kill_and_drop_leave_nothing() {
    test(async |host: Host| {
        let machine = host.boot().await;
        let qemu = host.qemu();
        assert_eq!(machine.kill().await, Exit::Killed);
        assert_eq!(machine.wait().await, Exit::Killed);
        assert!(!host.runs(qemu));
        host.assert_clean();

        let machine = host.boot().await;
        let qemu = host.qemu();
        drop(machine);
        eventually(|| !host.runs(qemu)).await;
    });
}

#[test]
fn somebody_elses_kill_is_the_monitors_failure() {
    test(async |host: Host| {
        let machine = host.boot().await;
        assert_eq!(end_leftover(&host.spec.directory).unwrap(), Leftover::Ended);
        let Exit::Monitor { reason } = machine.wait().await else { panic!() };
        assert!(reason.contains("signal: 9"), "{reason}");
    });
}

#[test]
fn a_flood_on_the_console_stays_within_its_bounds() {
    test(async |mut host: Host| {
        host.spec.console.limit = 64 << 10;
        let machine = host.boot().await;
        let mut guest = Conversation::dial(&*machine).await;
        assert_eq!(guest.hear().await, "ready");
        assert_eq!(guest.ask("!flood").await, "flooded");
        guest.say("!reboot").await;
        assert_eq!(machine.wait().await, Exit::Reboot);
        let log = fs::read_to_string(&host.spec.console.path).unwrap();
        assert!(log.len() <= (64 << 10) + 100, "{}", log.len());
        assert!(log.contains("bytes left out]") && log.trim_end().ends_with("Restarting system"));
        assert!(machine.console_tail().await.len() < 20_000);
    });
}

#[test]
fn eight_machines_share_their_read_only_disks() {
    test(async |host: Host| {
        let hosts: Vec<Host> = (0..8).map(|_| host.sibling()).collect();
        let mut machines = Vec::new();
        for host in &hosts {
            machines.push(host.boot().await);
        }
        for (number, machine) in machines.iter().enumerate() {
            let mut guest = Conversation::dial(&**machine).await;
            assert_eq!(guest.hear().await, "ready");
            assert_eq!(guest.ask(&format!("I am {number}")).await, format!("I am {number}"));
        }
        for machine in &machines {
            assert_eq!(machine.kill().await, Exit::Killed);
        }
    });
}

#[test]
fn what_cannot_boot_says_why_and_leaves_nothing() {
    test(async |host: Host| {
        let nothing = host.directory.path().join("nothing");
        let text = host.directory.path().join("text");
        fs::write(&text, "not a kernel").unwrap();

        let mut missing = host.sibling();
        missing.spec.kernel.path.clone_from(&nothing);
        let mut foreign = host.sibling();
        foreign.spec.kernel.path.clone_from(&text);
        let mut diskless = host.sibling();
        diskless.spec.disks[0].path.clone_from(&nothing);
        let mut greedy = host.sibling();
        greedy.spec.kernel_arguments = vec!["x".repeat(4096)];

        let error = async |host: &Host| host.backend.boot(&host.spec).await.map(drop).unwrap_err();
        let expect = |error: BootError, text: &str| {
            assert!(error.to_string().contains(text), "{error}");
        };
        expect(error(&missing).await, "cannot open the machine's kernel");
        expect(error(&foreign).await, "is not a bootable kernel: it is truncated");
        expect(error(&diskless).await, "cannot open the machine's disk image");
        expect(error(&greedy).await, "bytes of kernel arguments");
        for host in [&missing, &foreign, &diskless, &greedy] {
            host.assert_clean();
        }

        let program = Some("/bin/false".into());
        let backend = QemuBackend::find(&QemuSearch { program, path: None }).unwrap();
        let failed = backend.boot(&host.spec).await.map(drop).unwrap_err();
        expect(failed, "did not start: QEMU ended with exit status: 1");
        host.assert_clean();
    });
}

#[test]
fn a_killed_owner_takes_its_machine_along() {
    test(async |host: Host| {
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "owner_of_a_machine", "--nocapture"])
            .env("COSTREL_TEST_OWNER", host.directory.path())
            // What it makes for itself would outlive it elsewhere.
            .env("TMPDIR", host.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("it runs")));
        let qemu = host.qemu();
        let handle = rustix::process::pidfd_open(qemu, PidfdFlags::empty()).unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
        host::wait_for_end(&handle);
        assert_eq!(end_leftover(&host.spec.directory).unwrap(), Leftover::None);
    });
}

/// Not a test: the process that `a_killed_owner_takes_its_machine_along` kills.
#[test]
#[expect(clippy::print_stdout, reason = "its parent reads it")]
fn owner_of_a_machine() {
    let Some(directory) = std::env::var_os("COSTREL_TEST_OWNER") else { return };
    test(async |host: Host| {
        let host = host.in_directory(directory.as_ref());
        let _machine = host.boot().await;
        println!("it runs");
        std::future::pending::<()>().await;
    });
}
