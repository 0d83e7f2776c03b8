//! Beside AWS's Runtime Interface Emulator: the same handlers on the same runtime client, natively
//! under the emulator and in a machine under `costrel serve --rie`, give the same status, body and
//! log. Where they shall not, a case says so, and why.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use costrel_tests::{Costrel, Home, Response, Server, call, example, python_image, script};
use rustix::process::{Pid, Signal, kill_process};

const PATH: &str = "/2015-03-31/functions/function/invocations";
const MEMORY: &str = "256";
const TIMEOUT: &str = "6";

/// One question to both.
#[derive(Clone)]
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    event: Vec<u8>,
    differences: &'static [Difference],
}

/// Where Costrel is another, as it shall be.
struct Difference {
    what: What,
    /// What is in Costrel's.
    ours: &'static str,
    #[expect(dead_code, reason = "for who reads the cases")]
    reason: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Status,
    Body,
    Log,
}

/// What a client and an operator see, with what differs from run to run made the same.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    status: String,
    body: String,
    log: String,
}

impl Seen {
    fn what(&self, what: What) -> &str {
        match what {
            What::Status => &self.status,
            What::Body => &self.body,
            What::Log => &self.log,
        }
    }
}

fn case(name: &'static str, event: impl Into<Vec<u8>>) -> Case {
    let event = event.into();
    Case { name, method: "POST", path: PATH, headers: &[], event, differences: &[] }
}

/// The emulator says nothing of an invocation after its sandbox has failed.
const ENDS: &str = "a log ends an invocation as Lambda's does, however it went";

/// Of a function on AWS's client for Python.
fn python_cases() -> Vec<Case> {
    vec![
        case("ok", r#"{"a":[1,"ü"]}"#),
        case("handler error", r#"{"case":"raises"}"#),
        case("not to be told as JSON", r#"{"case":"not_serializable"}"#),
        case("an event that is no object", r#""text""#),
        case("an event that is no JSON", "not json"),
        Case { method: "GET", ..case("GET", "{}") },
        Case { method: "PUT", ..case("PUT", "{}") },
        Case {
            // {"custom":{"a":"b"}}
            headers: &[("X-Amz-Client-Context", "eyJjdXN0b20iOnsiYSI6ImIifX0=")],
            ..case("client context", "{}")
        },
        Case { headers: &[("X-Amz-Client-Context", "!!")], ..case("bad client context", "{}") },
        Case {
            path: "/2015-03-31/functions/other/invocations",
            ..case("another function's path", "{}")
        },
        Case { path: "/", ..case("another path", "{}") },
        // On Lambda it is an empty one; the emulator hands on nothing, and so does --rie.
        case("no event", ""),
        Case {
            differences: &[
                Difference {
                    what: What::Status,
                    ours: "413",
                    reason: "Lambda refuses it; the emulator cuts it off",
                },
                Difference {
                    what: What::Body,
                    ours: "payload is too large for the RequestResponse invocation type",
                    reason: "Lambda's words",
                },
                Difference { what: What::Log, ours: "", reason: "no invocation, no log" },
            ],
            ..case("an event of 6.3 MB", [&b"\""[..], &vec![b'x'; 6_300_000], b"\""].concat())
        },
        Case {
            differences: &[Difference { what: What::Log, ours: "END RequestId: ID", reason: ENDS }],
            ..case("a response of 7 MB", r#"{"case":"returns_7_mb"}"#)
        },
        Case {
            differences: &[Difference {
                what: What::Log,
                ours: "Error: Runtime exited with error: exit status 3",
                reason: ENDS,
            }],
            ..case("exit 3", r#"{"case":"exits_at_once","code":3}"#)
        },
        Case {
            differences: &[Difference {
                what: What::Log,
                ours: "Error: Runtime exited without providing a reason",
                reason: ENDS,
            }],
            ..case("exit 0", r#"{"case":"exits_cleanly"}"#)
        },
        case("ok after exits", "{}"),
        Case {
            differences: &[Difference {
                what: What::Log,
                ours: "Task timed out after 6.00 seconds",
                reason: "Lambda's log names the timeout, and REPORT its status",
            }],
            ..case("timeout", r#"{"case":"sleeps"}"#)
        },
    ]
}

/// AWS's emulator with a runtime beneath it. Killed in the end, with that runtime.
struct Emulator {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// The emulator, made or found by `scripts/rie.sh`.
fn emulator() -> PathBuf {
    let output = Command::new(script("rie.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/rie.sh fails");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

impl Emulator {
    fn start(program: &Path, runtime: &[&str], code: &Path, log: PathBuf) -> Self {
        let (address, api) = (free_address(), free_address());
        let file = File::create(&log).unwrap();
        let client = program.with_file_name("client");
        let child = Command::new(program)
            .args(["--runtime-interface-emulator-address", &address.to_string()])
            .args(["--runtime-api-address", &api.to_string()])
            .args(runtime)
            .current_dir(code)
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", TIMEOUT)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY)
            .env("PYTHONPATH", format!("{}:{}", client.display(), code.display()))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let emulator = Self { child, address, log };
        within(Duration::from_secs(20), || TcpStream::connect(address).ok());
        emulator
    }

    /// What it says of an invocation ends before the answer, but its writing may come late.
    fn log(&self, needs_report: bool) -> String {
        let read = || fs::read_to_string(&self.log).unwrap();
        if needs_report {
            within(Duration::from_secs(5), || read().contains("\nREPORT ").then_some(()));
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        read()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It does not end its runtime, which is in a process group of its own.
        let runtime = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for id in runtime.into_iter().filter_map(|id| Pid::from_raw(id.try_into().ok()?)) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// The ids of a process's children, and of theirs.
fn descendants(id: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let children = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|ids| {
            ids.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        });
    children.flat_map(|child| [descendants(child), vec![child]].concat()).collect()
}

/// Asks again and again.
fn within<T>(limit: Duration, ask: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < limit, "nothing in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `costrel serve --rie` of one function.
struct Ours {
    server: Server,
    address: SocketAddr,
}

impl Ours {
    fn start(home: &Home, code: &Path, options: &[&str]) -> Self {
        let state = home.path().join(format!("state-{}", std::process::id()));
        let image = format!("oci:{}", python_image().display());
        let (code, state) = (code.to_string_lossy(), state.to_string_lossy());
        let serve = ["serve", &*code, "--runtime", "python3.11", "--image", &image];
        let here = ["--listen", "127.0.0.1:0", "--rie", "127.0.0.1:0", "--state", &*state];
        let limits = ["--memory", MEMORY, "--timeout", TIMEOUT];
        let arguments = [&serve[..], &here, &limits, options].concat();
        let server = Server::spawn(Costrel::new(home, arguments));
        let address = within(Duration::from_secs(20), || {
            let said = server.said();
            let line = said.lines().find(|line| line.contains("Runtime Interface Emulator"))?;
            line.rsplit_once("http://")?.1.trim().parse().ok()
        });
        Self { server, address }
    }

    /// The function's log since `from`, to the end of the invocation if there was one.
    fn log(&self, from: usize) -> String {
        let functions = |said: &str| {
            let lines =
                said.lines().filter_map(|line| line.split_once(" │ ").map(|(_, text)| text));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        let since = || functions(&self.server.said()[from..]);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) || since().contains("START RequestId") {
            if since().contains("\nREPORT ") {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no REPORT: {}", since());
            std::thread::sleep(Duration::from_millis(20));
        }
        since()
    }
}

fn seen(response: &Response, log: &str, code: &Path) -> Seen {
    // What is said before is of the server, or of an init.
    let log = log.find("START RequestId: ").map_or("", |start| &log[start..]);
    let id = log.strip_prefix("START RequestId: ").and_then(|rest| rest.split(' ').next());
    let id = id.unwrap_or("no invocation");
    let code = format!("{}/", code.display());
    let same = |text: &str| text.replace(id, "ID").replace(&code, "/var/task/");
    let kind = response.header("content-type").unwrap_or("none");
    let kind = if response.body.is_empty() { "nothing" } else { kind };
    let body = same(&String::from_utf8_lossy(&response.body));
    // The client's own JSON, in which only the order may be different.
    let body = serde_json::from_str::<serde_json::Value>(&body).map_or(body, |it| it.to_string());
    let mut lines = Vec::new();
    // Lines of one entry come with carriage returns in between.
    for line in same(log).split(['\n', '\r']).filter(|line| !line.contains("(rapid)")) {
        let line = line.trim_end_matches([' ', '\t']);
        let is_report = line.starts_with("REPORT ");
        lines.push(if is_report { report(line) } else { timeless(line) });
        if is_report {
            break;
        }
    }
    lines.retain(|line| !line.is_empty());
    Seen { status: format!("{}, {kind}", response.status), body, log: lines.join("\n") }
}

/// Its fields, but for their order and numbers: the emulator has `Init Duration` first. Whether an
/// init was before, and how much memory was used, it does not know.
fn report(line: &str) -> String {
    let fields = line.split('\t').map(|field| {
        let (name, value) = field.split_once(": ").unwrap_or((field, ""));
        let measured = matches!(name, "Duration" | "Billed Duration" | "Max Memory Used");
        let unit = value.rsplit_once(' ').map_or("", |(_, unit)| unit);
        if measured { format!("{name}: N {unit}") } else { field.to_owned() }
    });
    let mut fields: Vec<String> =
        fields.filter(|field| !field.starts_with("Init Duration: ")).collect();
    fields.sort();
    fields.join(" | ")
}

/// `[ERROR] 2026-01-01T00:00:00.000Z` without its time.
fn timeless(line: &str) -> String {
    let is_time = |word: &str| {
        word.len() == 24 && word.ends_with('Z') && word.as_bytes().get(10) == Some(&b'T')
    };
    line.split(['\t', ' '])
        .map(|word| if is_time(word) { "TIME" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

fn ask(address: SocketAddr, case: &Case) -> Response {
    call(address, case.method, case.path, case.headers, &case.event)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

/// What is wrong with a case; nothing if it is as it shall be.
fn compare(case: &Case, theirs: &Seen, ours: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    for what in [What::Status, What::Body, What::Log] {
        let (theirs, ours) = (theirs.what(what), ours.what(what));
        let name = case.name;
        match case.differences.iter().find(|difference| difference.what == what) {
            None if theirs == ours => {}
            None => wrong.push(format!("{name}: {what:?}\n  AWS's:\n{theirs}\n  ours:\n{ours}")),
            Some(_) if theirs == ours => {
                wrong.push(format!("{name}: {what:?} does not differ any more:\n{ours}"));
            }
            Some(known) if !ours.contains(known.ours) => {
                wrong.push(format!("{name}: {what:?} lacks {:?}:\n{ours}", known.ours));
            }
            Some(_) => {}
        }
    }
    wrong
}

/// Asks both for each case: the emulator anew each time, so that none depends on another.
fn compared(runtime: &[&str], code: &str, options: &[&str], cases: Vec<Case>) {
    let program = emulator();
    let home = Home::shared();
    let code = example(code);
    let work = tempfile::tempdir().unwrap();
    let ours = Ours::start(&home, &code, options);
    let mut wrong = Vec::new();
    for case in cases {
        let log = work.path().join("log");
        let reference = Emulator::start(&program, runtime, &code, log);
        let response = ask(reference.address, &case);
        let is_logged = !case.differences.iter().any(|it| it.what == What::Log);
        let needs_report = is_logged && response.status == 200;
        let theirs = seen(&response, &reference.log(needs_report), &code);
        drop(reference);
        let from = ours.server.said().len();
        let response = ask(ours.address, &case);
        let ours = seen(&response, &ours.log(from), Path::new("/var/task"));
        wrong.extend(compare(&case, &theirs, &ours));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let (status, said) = ours.server.stop();
    assert!(status.success(), "{said}");
}

#[test]
fn a_python_function_is_as_under_awss_emulator() {
    let runtime = ["python3", "-m", "awslambdaric", "compared.handler"];
    compared(&runtime, "python-cases", &["--handler", "compared.handler"], python_cases());
}

#[test]
fn a_failing_init_is_as_under_awss_emulator() {
    let runtime = ["python3", "-m", "awslambdaric", "broken_import.handler"];
    let init = Case {
        differences: &[Difference { what: What::Log, ours: "END RequestId: ID", reason: ENDS }],
        ..case("init error", "{}")
    };
    let options = ["--handler", "broken_import.handler"];
    compared(&runtime, "python-cases", &options, vec![init.clone(), init]);
}

#[test]
fn a_streamed_response_is_as_under_awss_emulator() {
    let cases = vec![case("streamed", r#"{"pieces":5}"#), case("streamed anew", r#"{"pieces":2}"#)];
    compared(&["./bootstrap"], "python-streaming", &["--handler", "none"], cases);
}
