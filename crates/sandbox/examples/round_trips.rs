//! Measures an agent behind its transport, for benchmarks: how long a machine takes until its agent
//! answers, then calls on a warm connection, and bytes through a program's input and output.
//!
//! `round_trips COSTREL-VMM KERNEL VMINITD PROGRAM`
//!
//! PROGRAM is a static one that does as `cat` does when it is called so: busybox. Each line on
//! standard output is a name, a number and a unit.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use costrel_agent_client::wire::{ProcessSpec, RootAccess, run_response::Response};
use costrel_rootfs::{
    CodePlacement, CodeSource, DEFAULT_UNPACKED_LIMIT, FunctionSource, Silent, Stager,
};
use costrel_sandbox::{Host, Sandbox, SandboxSpec, StartTimes};
use costrel_vmm::{KernelImage, Memory, Saving, VcpuCount};
use costrel_vmm_backends::{BackendChoice, Detection, DetectionSettings};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const CALLS: u32 = 200;
const BULK: usize = 64 << 20;
const PIECE: usize = 64 << 10;

#[expect(clippy::print_stdout, reason = "a program for people")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [vmm, kernel, vminitd, program] = &arguments[..] else {
        return Err("it takes COSTREL-VMM KERNEL VMINITD PROGRAM".into());
    };
    let work = tempfile::tempdir()?;
    let cache = work.path().join("cache");
    let code = work.path().join("code");
    std::fs::create_dir(&code)?;
    std::fs::copy(program, code.join("cat"))?;
    let stager = Stager::open(&cache)?;
    let detection = Detection::detect(&DetectionSettings {
        choice: BackendChoice::Kvm,
        vmm: vmm.clone(),
        cache: cache.clone(),
        ..DetectionSettings::default()
    });
    let host = Host {
        backend: detection.backend()?,
        kernel: KernelImage { path: kernel.clone() },
        init_block: Arc::new(stager.init_block(vminitd)?),
        sandboxes: work.path().join("sandboxes"),
        boot_limit: Duration::from_secs(60),
    };
    let source = FunctionSource {
        code: Some(CodeSource::Directory(code)),
        layers: vec![],
        placement: CodePlacement::Task,
        unpacked_limit: DEFAULT_UNPACKED_LIMIT,
    };
    let spec = SandboxSpec {
        memory: Memory::mib(256)?,
        vcpus: VcpuCount::ONE,
        workload_memory_limit: None,
        root_disks: vec![Arc::new(stager.function(&source, &Silent)?)],
        root_access: RootAccess::ReadOnly,
        scratch_size: 512 << 20,
        accounts: vec![],
        saving: Saving::Never,
        host_ports: vec![],
    };
    let sandbox = Sandbox::start(&host, &spec).await?;
    let StartTimes::Booted(times) = sandbox.times() else { return Err("it was not booted".into()) };
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!("agent-ready {:.2} ms", milliseconds(times.agent_ready - times.booting));
    println!("root-prepared {:.2} ms", milliseconds(times.prepared - times.agent_ready));

    sandbox.agent().describe().await?;
    let began = Instant::now();
    for _ in 0..CALLS {
        sandbox.agent().describe().await?;
    }
    println!("warm-call {:.3} ms", milliseconds(began.elapsed()) / f64::from(CALLS));

    let took = bulk(&sandbox).await?;
    println!("bulk-both-ways {:.1} MiB/s", (BULK >> 20) as f64 / took.as_secs_f64());
    sandbox.kill().await;
    Ok(())
}

/// Sends [`BULK`] bytes through `cat`.
async fn bulk(sandbox: &Sandbox) -> Outcome<Duration> {
    let spec = ProcessSpec {
        arguments: vec!["/var/task/cat".into()],
        environment: vec![],
        working_directory: "/".into(),
        user: String::new(),
    };
    let mut process = sandbox.agent().run(spec).await?;
    let began = Instant::now();
    let (mut sent, mut received) = (0, 0);
    while received < BULK {
        // As `select!` would drop what is half sent, a piece goes out for each that came in.
        if sent < BULK && sent - received < 4 * PIECE {
            process.write_stdin(vec![7; PIECE].into()).await?;
            sent += PIECE;
            continue;
        }
        match process.response().await? {
            Some(Response::Stdout(data)) => received += data.len(),
            Some(Response::Started(_)) => {}
            other => return Err(format!("cat ended, or said {other:?}").into()),
        }
    }
    Ok(began.elapsed())
}
