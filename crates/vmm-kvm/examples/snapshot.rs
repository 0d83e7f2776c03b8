//! Boots a machine on KVM, saves it, restores it some times, and says how long each step takes: for
//! benchmarks.
//!
//! `snapshot COSTREL-VMM KERNEL MEMORY-MIB VCPUS DIRECTORY ROUNDS DISK… -- KERNEL-ARGUMENT…`
//!
//! The guest is to listen at port 1024 and to send 64 bytes back. DIRECTORY should be one in RAM.
//! What is printed is `NAME VALUE UNIT` a line.

use std::{
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use costrel_vmm::{
    Backend as _, Console, Disk, DiskAccess, DiskName, GuestPort, KernelImage, Machine,
    MachineSpec, Memory, Saving, SnapshotFiles, Strictness, VcpuCount,
};
use costrel_vmm_kvm::{HugePages, KvmBackend, KvmSettings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PORT: GuestPort = GuestPort(1024);

#[expect(clippy::print_stdout, reason = "a program for people")]
fn report(name: &str, began: Instant) {
    println!("{name} {:.3} ms", began.elapsed().as_secs_f64() * 1e3);
}

async fn answers(machine: &dyn Machine) -> Outcome<()> {
    let mut stream = machine.dial(PORT).await?;
    let mut message = [b'p'; 64];
    stream.write_all(&message).await?;
    stream.read_exact(&mut message).await?;
    Ok(())
}

fn spec_in(directory: &Path, spec: &MachineSpec) -> Outcome<MachineSpec> {
    std::fs::create_dir_all(directory)?;
    let console = Console { path: directory.join("console.log"), limit: 1 << 20 };
    Ok(MachineSpec { console, directory: directory.to_owned(), ..spec.clone() })
}

#[expect(clippy::print_stdout, reason = "a program for people")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("too few arguments");
    let program = PathBuf::from(next()?);
    let kernel = KernelImage { path: next()?.into() };
    let memory = Memory::mib(next()?.parse()?)?;
    let vcpus = VcpuCount::new(next()?.parse()?)?;
    let directory = PathBuf::from(next()?);
    let rounds: u32 = next()?.parse()?;
    let mut disks = Vec::new();
    for path in arguments.by_ref().take_while(|argument| argument != "--") {
        let name = DiskName::new(format!("disk{}", disks.len()))?;
        disks.push(Disk { name, path: path.into(), access: DiskAccess::ReadOnly });
    }
    let spec = MachineSpec {
        vcpus,
        memory,
        kernel,
        kernel_arguments: arguments.collect(),
        disks,
        ports: vec![PORT],
        saving: Saving::Expected,
        console: Console { path: directory.join("console.log"), limit: 1 << 20 },
        directory: directory.clone(),
    };
    let huge_pages = HugePages::default();
    let settings = KvmSettings { program, strictness: Strictness::Warn, huge_pages };
    let backend = KvmBackend::new(settings)?;

    let began = Instant::now();
    let machine = backend.boot(&spec_in(&directory.join("first"), &spec)?).await?;
    answers(&*machine).await?;
    report("boot-to-answer", began);

    let create = |name| {
        let path = directory.join(name);
        File::options().read(true).write(true).create(true).truncate(true).open(path)
    };
    let files = SnapshotFiles { state: create("state")?, memory: create("memory")? };
    let began = Instant::now();
    machine.pause().await?;
    report("pause", began);
    machine.saver().ok_or("it cannot be saved")?.save(&files).await?;
    report("create", began);
    println!("state-size {:.1} KiB", files.state.metadata()?.len() as f64 / 1024.0);
    println!("memory-size {:.1} MiB", files.memory.metadata()?.blocks() as f64 / 2048.0);
    machine.kill().await;

    let open = |name| File::open(directory.join(name));
    let files = SnapshotFiles { state: open("state")?, memory: open("memory")? };
    let restorer = backend.restorer().ok_or("nothing can be restored")?;
    let began = Instant::now();
    restorer.compatibility()?;
    report("compatibility", began);
    for round in 0..rounds {
        let spec = spec_in(&directory.join(format!("round{round}")), &spec)?;
        let began = Instant::now();
        let machine = restorer.restore(&spec, &files).await?;
        report("restored", began);
        let wanted = Instant::now();
        machine.resume().await?;
        report("resume", wanted);
        answers(&*machine).await?;
        report("resume-to-answer", wanted);
        report("restore-to-answer", began);
        let began = Instant::now();
        answers(&*machine).await?;
        report("second-answer", began);
        machine.kill().await;
    }
    Ok(())
}
