//! Boots a machine on KVM and shows what its serial console says, until it ends: for benchmarks
//! and for looking at a kernel.
//!
//! `boot COSTREL-VMM KERNEL MEMORY-MIB VCPUS DIRECTORY DISK… -- KERNEL-ARGUMENT…`
//!
//! The last disk is a scratch disk if its name ends in `.rw`. With `dial=PORT` as the first kernel
//! argument, it says when that port of the guest answers.

use std::{path::PathBuf, time::Instant};

use costrel_vmm::{
    Backend as _, Console, Disk, DiskAccess, DiskName, GuestPort, KernelImage, MachineSpec, Memory,
    Saving, Strictness, VcpuCount,
};
use costrel_vmm_kvm::{HugePages, KvmBackend, KvmSettings};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[expect(clippy::print_stderr, reason = "a program for people")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let began = Instant::now();
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("too few arguments");
    let program = PathBuf::from(next()?);
    let kernel = KernelImage { path: next()?.into() };
    let memory = Memory::mib(next()?.parse()?)?;
    let vcpus = VcpuCount::new(next()?.parse()?)?;
    let directory = PathBuf::from(next()?);
    let mut disks = Vec::new();
    for path in arguments.by_ref().take_while(|argument| argument != "--") {
        let name = DiskName::new(format!("disk{}", disks.len()))?;
        let scratch = path.ends_with(".rw");
        let access = if scratch { DiskAccess::Scratch } else { DiskAccess::ReadOnly };
        disks.push(Disk { name, path: path.into(), access });
    }
    let mut kernel_arguments: Vec<String> = arguments.collect();
    let dialled = kernel_arguments.first().and_then(|first| first.strip_prefix("dial="));
    let port = dialled.map(str::parse).transpose()?.map(GuestPort);
    if port.is_some() {
        kernel_arguments.remove(0);
    }
    let backend = KvmBackend::new(KvmSettings {
        program,
        strictness: Strictness::Warn,
        huge_pages: HugePages::default(),
    })?;
    let machine = backend
        .boot(&MachineSpec {
            vcpus,
            memory,
            kernel,
            kernel_arguments,
            disks,
            ports: port.into_iter().collect(),
            saving: Saving::Never,
            console: Console { path: "/dev/stdout".into(), limit: 1 << 30 },
            directory,
        })
        .await?;
    eprintln!("RUNNING after {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    let mut stream = None;
    if let Some(port) = port {
        let dial = machine.dial(port);
        tokio::select! {
            dialled = dial => {
                stream = Some(dialled?);
                eprintln!("DIALLED after {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
            }
            _ = machine.wait() => {}
        }
    }
    if std::env::var_os("DBG").is_some() {
        tokio::time::sleep(std::time::Duration::from_secs(6)).await;
        let _ = machine.pause().await;
        eprintln!("paused");
    }
    let exit = machine.wait().await;
    drop(stream);
    eprintln!("{exit}");
    Ok(())
}
