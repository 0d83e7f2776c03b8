//! What a process in the jail finds, as root and as anybody, and that it does not outlive its owner.

#![expect(unsafe_code, reason = "a fork to compare with, and what precedes an exec")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a skipped test, and a measurement, say so"
)]

mod groups;

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader, Read as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, OnceLock},
    time::{Duration, Instant},
};

use costrel_vmm::{MeasureName, Strictness};
use costrel_vmm_process::{
    FileView, JailSpec, MonitorProcess, MonitorSpec, ResourceLimits, SpawnError, spawn,
};

const NOBODY: u32 = 65534;
/// Set where the tests are run by [`as_nobody`].
const INMATE: &str = "COSTREL_TEST_INMATE";

/// The program, at a place where anybody can execute it, until this process ends.
static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap().keep();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("inmate");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spawn/inmate.c");
    let built = Command::new("cc").args(["-static", "-O", "-o"]).args([&program, &source]).status();
    BUILT_IN.set(directory).unwrap();
    // SAFETY: the function takes and returns nothing, and uses what is never dropped.
    unsafe { libc::atexit(remove_program) };
    built.is_ok_and(|status| status.success()).then_some(program)
});

/// Nothing static is dropped at a process's end.
static BUILT_IN: OnceLock<PathBuf> = OnceLock::new();

extern "C" fn remove_program() {
    if let Some(directory) = BUILT_IN.get() {
        let _ = fs::remove_dir_all(directory);
    }
}

fn program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os(INMATE) {
        return Some(program.into());
    }
    let program = PROGRAM.clone();
    if program.is_none() {
        eprintln!("skipped: a C compiler `cc` that links statically");
    }
    program
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

const LIMITS: ResourceLimits =
    ResourceLimits { open_files: 512, file_size: 64 << 20, processes: 20 };

fn start(
    program: &Path,
    arguments: &[String],
    inherited: &[BorrowedFd<'_>],
    files: FileView<'_>,
    strictness: Strictness,
) -> Result<MonitorProcess, SpawnError> {
    let jail = JailSpec { files, limits: LIMITS, group: None };
    spawn(&MonitorSpec { program, arguments, inherited, jail, strictness })
}

/// What the inmate tells, by first words.
fn told(mut process: MonitorProcess) -> BTreeMap<String, String> {
    let mut text = String::new();
    File::from(process.take_stderr().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(7), "{text}");
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

fn is_confined(told: &BTreeMap<String, String>) {
    let is = |name: &str, value: &str| assert_eq!(told[name], value, "{name}: {told:#?}");
    is("pid", "1 ppid 0 leads 1");
    is("nnp", "1");
    is("environment", "0");
    is("capabilities", "0");
    is("bounding", "0");
    is("interface", "lo down");
    is("core", "0 0");
    is("files", "512 512");
    is("size", "67108864 67108864");
    is("threads", "20 20");
    is("signals", "0 1");
    is("signal", "ESRCH");
    let uid: u32 = told["uid"].split(' ').next().unwrap().parse().unwrap();
    if is_root() {
        assert!((0x7000_0000..0x7800_0000).contains(&uid), "{uid}");
        is("gid", &format!("{uid} groups 0"));
    } else {
        assert_eq!(uid, rustix::process::geteuid().as_raw());
    }
    for name in ["passwd", "create", "temporary", "other"] {
        assert_ne!(told[name], "opened", "{name}: {told:#?}");
    }
}

fn arguments(reopened: BorrowedFd<'_>) -> [String; 3] {
    let reopened = format!("/proc/self/fd/{}", reopened.as_raw_fd());
    [file!().to_owned(), reopened, std::process::id().to_string()]
}

fn in_an_empty_root() {
    let Some(program) = program() else { return };
    let file = File::open(&program).unwrap();
    let named = rustix::io::fcntl_dupfd_cloexec(&file, 500).unwrap();
    let unnamed = rustix::io::fcntl_dupfd_cloexec(&file, 600).unwrap();
    // As if whoever started this process had left it open.
    rustix::io::fcntl_setfd(&unnamed, rustix::io::FdFlags::empty()).unwrap();
    let arguments = arguments(named.as_fd());
    let process =
        start(&program, &arguments, &[named.as_fd()], FileView::Empty, Strictness::Strict).unwrap();
    let isolation = process.isolation().clone();
    let told = told(process);
    is_confined(&told);
    assert_eq!(told["descriptors"], "0 1 2 500");
    assert_eq!(told["shell"], "ENOENT");
    assert_eq!(told["linker"], "ENOENT");
    assert_eq!(told["self"], "ENOENT");
    assert_eq!(told["processes"], (-rustix::io::Errno::NOENT.raw_os_error()).to_string());
    if isolation.is_in_force(MeasureName::Landlock) {
        assert_eq!(told["root"], "EACCES");
    }
    println!("{isolation}");
}

fn among_programs() {
    let Some(program) = program() else { return };
    let secret = tempfile::NamedTempFile::new().unwrap();
    let mut arguments = arguments(secret.as_fd());
    arguments[0] = secret.path().display().to_string();
    fs::set_permissions(secret.path(), Permissions::from_mode(0o644)).unwrap();
    let reopened = [secret.as_fd()];
    let files = FileView::ReadOnlyPrograms { readable: &[], reopened: &[] };
    let process = start(&program, &arguments, &reopened, files, Strictness::Strict).unwrap();
    let isolation = process.isolation().clone();
    let without = told(process);
    is_confined(&without);
    assert_eq!(without["reopened"], "EACCES");
    assert_eq!(without["shell"], "opened");
    assert_eq!(without["linker"], "opened");
    assert_eq!(without["self"], "EACCES");
    assert_eq!(without["null"], "opened");
    assert_eq!(without["processes"], (-rustix::io::Errno::ACCESS.raw_os_error()).to_string());
    println!("{isolation}");

    let files = FileView::ReadOnlyPrograms { readable: &[], reopened: &reopened };
    let process = start(&program, &arguments, &reopened, files, Strictness::Strict).unwrap();
    let told = told(process);
    assert_eq!(told["reopened"], "opened");
    // Readable by path all the same: it is the same file.
    assert_eq!(told["other"], "opened");
}

#[test]
fn nothing_but_itself_is_there_in_an_empty_root() {
    in_an_empty_root();
    as_nobody("nothing_but_itself_is_there_in_an_empty_root");
}

#[test]
fn only_programs_can_be_opened() {
    among_programs();
    as_nobody("only_programs_can_be_opened");
}

#[test]
fn what_cannot_be_executed_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let text = directory.path().join("text");
    fs::write(&text, "not a program").unwrap();
    fs::set_permissions(&text, Permissions::from_mode(0o755)).unwrap();
    for files in [FileView::Empty, FileView::ReadOnlyPrograms { readable: &[], reopened: &[] }] {
        for program in [&missing, &text] {
            let error = start(program, &[], &[], files.clone(), Strictness::Warn).unwrap_err();
            assert!(matches!(error, SpawnError::Execute(_)), "{error:?}");
        }
    }
}

/// Runs a test of this file again, as a user without rights.
fn as_nobody(test: &str) {
    if !is_root() {
        return;
    }
    let Some(program) = program() else { return };
    // The way to our own program need not be open to anybody.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let tests = directory.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    let mut command = Command::new(&tests);
    command
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .env("TMPDIR", "/tmp")
        .env(INMATE, program)
        .uid(NOBODY)
        .gid(NOBODY);
    // A child that another test has just cloned may still have the copy open for writing.
    let output = loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            other => break other.unwrap(),
        }
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "as nobody: {text}");
    println!("{text}");
}

/// Not a test: the owner of an inmate that sleeps, for the tests below.
#[test]
#[ignore = "it is run by other tests"]
fn owner() {
    let Some(program) = std::env::var_os(INMATE).map(PathBuf::from) else { return };
    let marker = std::env::var("COSTREL_TEST_MARKER").unwrap();
    loop {
        let arguments = ["sleep".to_owned(), marker.clone()];
        let mut process =
            start(&program, &arguments, &[], FileView::Empty, Strictness::Warn).unwrap();
        println!("started {}", process.pid().as_raw_nonzero());
        if std::env::var_os("COSTREL_TEST_AGAIN").is_some() {
            drop(process);
        } else {
            let _ = process.wait();
        }
    }
}

fn start_owner(program: &Path, marker: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "owner", "--ignored", "--nocapture", marker])
        .env(INMATE, program)
        .env("COSTREL_TEST_MARKER", marker)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn processes_with(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(marker))
        .count()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_dies_with_its_owner() {
    let Some(program) = program() else { return };
    let marker = format!("marker-{}-a", std::process::id());
    let mut owner = start_owner(&program, &marker).spawn().unwrap();
    let stdout = BufReader::new(owner.stdout.take().unwrap());
    let started = stdout.lines().map_while(Result::ok).any(|line| line.contains("started "));
    assert!(started);
    wait_until("the inmate runs", || processes_with(&marker) == 2);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the inmate is gone", || processes_with(&marker) == 0);
}

/// At moments spread over the start of an owner that does nothing but start and end inmates.
#[test]
fn it_dies_with_its_owner_whenever() {
    let Some(program) = program() else { return };
    let marker = format!("marker-{}-b", std::process::id());
    let rounds = if std::env::var_os("COSTREL_LONG_TESTS").is_some() { 2000 } else { 60 };
    for round in 0..rounds {
        let mut command = start_owner(&program, &marker);
        let mut owner = command.env("COSTREL_TEST_AGAIN", "1").spawn().unwrap();
        let first = BufReader::new(owner.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut first = first.skip_while(|line| !line.contains("started "));
        assert!(first.next().is_some());
        std::thread::sleep(Duration::from_micros(round * 137 % 4000));
        owner.kill().unwrap();
        owner.wait().unwrap();
        wait_until("all inmates are gone", || processes_with(&marker) == 0);
    }
}

/// Prints what a start costs.
#[test]
#[ignore = "it measures"]
fn costs() {
    let Some(program) = program() else { return };
    let median = |what: &str, start: &dyn Fn() -> Duration| {
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let began = Instant::now();
                (start(), began.elapsed())
            })
            .collect();
        times.sort();
        let (start, whole) = times[times.len() / 2];
        println!("{what}: {} µs, with its end {} µs", start.as_micros(), whole.as_micros());
    };
    let arguments = ["sleep".to_owned()];
    // What there was before: a fork, a few system calls, no jail.
    median("fork and exec", &|| {
        let began = Instant::now();
        let mut command = Command::new(&program);
        command.args(&arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: does nothing; with it, the standard library forks.
        unsafe { command.pre_exec(|| Ok(())) };
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let started = began.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        started
    });
    for (what, files) in [
        ("an empty root", FileView::Empty),
        ("programs", FileView::ReadOnlyPrograms { readable: &[], reopened: &[] }),
    ] {
        median(what, &|| {
            let began = Instant::now();
            let files = files.clone();
            let process = start(&program, &arguments, &[], files, Strictness::Warn).unwrap();
            let started = began.elapsed();
            drop(process);
            started
        });
    }
}
