//! Plain programs in a sandbox: accounts, streams, signals, exit codes.

use std::time::{Duration, SystemTime};

use costrel_agent_client::{
    AgentError, exit_code,
    wire::{EnvironmentVariable, Exited, ProcessSpec, RootAccess, run_response::Response},
};
use costrel_sandbox::{Sandbox, SandboxSpec, Saved, Warmth, snapshot_facts};
use costrel_snapshot::{Fact, Found, SnapshotKey, SnapshotStore};
use costrel_tests::{Home, TestHost, unhurried};
use costrel_vmm::{Exit, Memory, Saving, VcpuCount};

async fn sandbox(home: &Home, root_access: RootAccess) -> Sandbox {
    let host = TestHost::new(home);
    let spec = spec(&host, root_access, Saving::Never).await;
    Sandbox::start(&host.host, &spec).await.unwrap()
}

async fn spec(host: &TestHost, root_access: RootAccess, saving: Saving) -> SandboxSpec {
    SandboxSpec {
        memory: Memory::mib(256).unwrap(),
        vcpus: VcpuCount::ONE,
        workload_memory_limit: Some(128 << 20),
        root_disks: vec![host.python_disk().await],
        root_access,
        scratch_size: 512 << 20,
        accounts: vec![],
        saving,
        host_ports: vec![],
    }
}

fn shell(script: &str, user: &str) -> ProcessSpec {
    let path = EnvironmentVariable { name: "PATH".into(), value: "/usr/bin:/bin:/usr/sbin".into() };
    let mine = EnvironmentVariable { name: "MINE".into(), value: "a b".into() };
    ProcessSpec {
        arguments: vec!["sh".into(), "-c".into(), script.into()],
        environment: vec![path, mine],
        working_directory: "/usr".into(),
        user: user.into(),
    }
}

#[derive(Debug, Default)]
struct Heard {
    stdout: String,
    stderr: String,
    exited: Option<Exited>,
}

impl Heard {
    fn code(&self) -> u32 {
        exit_code(self.exited.as_ref().unwrap_or_else(|| panic!("it did not end: {self:?}")))
    }
}

async fn run(
    sandbox: &Sandbox,
    spec: ProcessSpec,
    input: &[&str],
    signal: Option<u32>,
) -> Result<Heard, AgentError> {
    let mut process = sandbox.agent().run(spec).await?;
    for text in input {
        process.write_stdin((*text).to_owned().into()).await?;
    }
    if !input.is_empty() {
        process.close_stdin().await?;
    }
    let mut heard = Heard::default();
    while let Some(response) = process.response().await? {
        assert!(heard.exited.is_none(), "`exited` comes last: {response:?}");
        match response {
            Response::Started(_) => {
                if let Some(signal) = signal {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    process.signal(signal).await?;
                }
            }
            Response::Stdout(data) => heard.stdout.push_str(std::str::from_utf8(&data).unwrap()),
            Response::Stderr(data) => heard.stderr.push_str(std::str::from_utf8(&data).unwrap()),
            Response::Exited(exited) => heard.exited = Some(exited),
            Response::StartFailure(failure) => panic!("{failure:?}"),
        }
    }
    Ok(heard)
}

#[tokio::test]
async fn runs_programs_as_docker_would() {
    let home = Home::shared();
    let sandbox = sandbox(&home, RootAccess::Writable).await;
    let script =
        "id -u; id -g; pwd; echo \"$MINE\"; echo err >&2; touch /new && echo written; exit 7";
    let heard = run(&sandbox, shell(script, ""), &[], None).await.unwrap();
    assert_eq!(heard.stdout, "0\n0\n/usr\na b\nwritten\n");
    assert_eq!((heard.stderr.as_str(), heard.code()), ("err\n", 7));

    let heard = run(&sandbox, shell("id -u; id -g; touch /x || echo refused", "nobody"), &[], None)
        .await
        .unwrap();
    assert_eq!(heard.stdout, "65534\n65534\nrefused\n");
    let heard = run(&sandbox, shell("id -u; id -g", "1234:99"), &[], None).await.unwrap();
    assert_eq!(heard.stdout, "1234\n99\n");

    let heard = run(&sandbox, shell("cat; echo end", ""), &["in", "put\n"], None).await.unwrap();
    assert_eq!(heard.stdout, "input\nend\n");

    let heard =
        run(&sandbox, shell("seq 100000; seq 50000 >&2; kill -9 $$", ""), &[], None).await.unwrap();
    let lines = |count: u32| (1..=count).map(|number| format!("{number}\n")).collect::<String>();
    assert!(heard.stdout == lines(100_000) && heard.stderr == lines(50_000));
    assert_eq!(heard.code(), 128 + 9);

    let trap = "trap 'echo caught; exit 5' TERM; while :; do sleep 0.05; done";
    let heard = run(&sandbox, shell(trap, ""), &[], Some(15)).await.unwrap();
    assert_eq!((heard.stdout.as_str(), heard.code()), ("caught\n", 5));
    let heard = run(&sandbox, shell("exec sleep 60", ""), &[], Some(2)).await.unwrap();
    assert_eq!(heard.code(), 128 + 2);

    let mut missing = sandbox
        .agent()
        .run(ProcessSpec { arguments: vec!["nothing-of-the-kind".into()], ..shell("", "") })
        .await
        .unwrap();
    assert!(
        matches!(missing.response().await, Ok(Some(Response::StartFailure(failure))) if failure.errno == 2)
    );
    let unknown =
        sandbox.agent().run(shell("true", "nobody-here")).await.unwrap().response().await.unwrap();
    let Some(Response::StartFailure(failure)) = unknown else { panic!("{unknown:?}") };
    assert_eq!(
        failure.message,
        "unable to find user nobody-here: no matching entries in passwd file"
    );

    let _ = sandbox.agent().power_off().await;
    assert_eq!(sandbox.machine().wait().await, Exit::PowerOff);
}

#[tokio::test]
async fn a_program_dies_with_its_caller() {
    let home = Home::shared();
    let sandbox = sandbox(&home, RootAccess::ReadOnly).await;
    let mut process = sandbox.agent().run(shell("sleep 1000", "")).await.unwrap();
    assert!(matches!(process.response().await, Ok(Some(Response::Started(_)))));
    drop(process);
    let count = "sleep 0.5; set -- $(grep -l '^sleep' /proc/[0-9]*/comm); n=0; \
        for c; do grep -q 1000 ${c%comm}cmdline 2>/dev/null && n=$((n+1)); done; echo $n";
    let heard = run(&sandbox, shell(count, ""), &[], None).await.unwrap();
    assert_eq!(heard.stdout, "0\n", "{heard:?}");
    assert_eq!(sandbox.kill().await, Exit::Killed);
}

/// Saved once, and woken as two: what one does the other does not see, and the one that was saved
/// goes on as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_by_wakes_as_its_own() {
    let host = TestHost::new(&Home::shared());
    let directory = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(directory.path(), u64::MAX).unwrap();
    let spec = spec(&host, RootAccess::ReadOnly, Saving::Expected).await;
    let mut facts = snapshot_facts(&host.host, &spec).unwrap().unwrap();
    facts.push(Fact::new("test", "standby"));
    let key = SnapshotKey::new(facts);

    let sandbox = Sandbox::start(&host.host, &spec).await.unwrap();
    run(&sandbox, shell("echo mine >/tmp/kept", ""), &[], None).await.unwrap();
    let draft = store.begin(&key).unwrap().unwrap();
    let Saved { sandbox: original, outcome } = sandbox.save(&draft).await.unwrap();
    outcome.unwrap();
    draft.publish("").unwrap();
    let Found::Snapshot(snapshot) = store.find(&key).unwrap() else { panic!("no snapshot") };

    let stand_by = |warmth| Sandbox::stand_by(&host.host, &spec, &snapshot, warmth);
    let (one, other) = tokio::try_join!(stand_by(Warmth::Cold), stand_by(Warmth::Warm)).unwrap();
    let (one, other) = tokio::try_join!(one.wake(), other.wake()).unwrap();
    let script = "cat /tmp/kept; cat /tmp/other; echo x >/tmp/other; \
        od -An -tx8 -N16 /dev/urandom; date +%s";
    let mut random = std::collections::BTreeSet::new();
    for sandbox in [&original, &one, &other] {
        let heard = run(sandbox, shell(script, ""), &[], None).await.unwrap();
        let lines: Vec<&str> = heard.stdout.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "mine"), "{heard:?}");
        assert!(heard.stderr.contains("/tmp/other: No such file"), "{heard:?}");
        assert!(random.insert(lines[1].to_owned()), "twice the same: {random:?}");
        let (now, theirs) = (seconds(), lines[2].parse::<u64>().unwrap());
        assert!(now.abs_diff(theirs) <= u64::from(unhurried(2)), "{theirs}, and it is {now}");
    }
    for sandbox in [one, other, original] {
        assert_eq!(sandbox.kill().await, Exit::Killed);
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
