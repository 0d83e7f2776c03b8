//! Far more callers than machines: each gets its own answer, or is told to come back.

use std::{fs, sync::Barrier, thread, time::Duration};

use costrel_tests::{Costrel, Home, Response, Server, processes_below, rust_function, wait_until};

const FUNCTIONS: usize = 20;

/// A machine of a function of 128 MB has 256 MiB.
const MEMORY_FOR_EIGHT: &str = "2048";

/// Writes the file that describes the functions, and starts a server of them.
fn serve(home: &Home, queue: &str) -> Server {
    let directory = home.path().join("project");
    fs::create_dir(&directory).unwrap();
    let code = rust_function();
    let functions: String = (0..FUNCTIONS)
        .map(|number| {
            format!(
                "[functions.f{number}]\nruntime = \"provided.al2023\"\ncode = {code:?}\n\
                 memory = 128\ntimeout = 300\n"
            )
        })
        .collect();
    fs::write(directory.join("costrel.toml"), functions).unwrap();
    let directory = directory.to_str().unwrap();
    let arguments = ["serve", directory, "--listen", "127.0.0.1:0", "--queue", queue];
    let costrel = Costrel::new(home, arguments).with(["--memory-limit", MEMORY_FOR_EIGHT]);
    Server::spawn(costrel.with_snapshots())
}

/// Invokes with so many callers at once, spread over the functions. Returns how many were answered
/// and how many were told to come back.
fn invoke_at_once(server: &Server, callers: usize) -> (usize, usize) {
    let barrier = Barrier::new(callers);
    let call = |caller: usize| {
        barrier.wait();
        let response = server
            .invoke(&format!("f{}", caller % FUNCTIONS), &format!(r#"{{"name":"{caller}"}}"#));
        check(caller, &response)
    };
    let answered = thread::scope(|scope| {
        let call = &call;
        let callers: Vec<_> = (0..callers)
            .map(|caller| {
                let thread = thread::Builder::new().stack_size(256 << 10);
                thread.spawn_scoped(scope, move || call(caller)).unwrap()
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    let count = answered.iter().filter(|answered| **answered).count();
    (count, answered.len() - count)
}

/// Whether it is this caller's own right answer. Anything else must be a refusal in due form.
fn check(caller: usize, response: &Response) -> bool {
    if response.status == 429 {
        assert_eq!(response.header("x-amzn-errortype"), Some("TooManyRequestsException"));
        assert!(response.header("retry-after").is_some(), "{response:?}");
        return false;
    }
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("x-amz-function-error"), None, "{response:?}");
    let answer = response.json();
    assert_eq!(answer["greeting"], format!("Hello {caller}"));
    assert_eq!(answer["request_id"].as_str(), response.header("x-amzn-requestid"));
    let name = format!("f{}", caller % FUNCTIONS);
    assert_eq!(answer["environment"]["AWS_LAMBDA_FUNCTION_NAME"], name);
    true
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn a_thousand_callers_of_twenty_functions_with_memory_for_eight_machines() {
    let home = Home::private();
    let server = serve(&home, "1000");
    let (answered, refused) = invoke_at_once(&server, 3 * FUNCTIONS);
    assert_eq!((answered, refused), (3 * FUNCTIONS, 0), "all of them fit into the queue");
    let (memory, files) = (resident_kib(server.id()), open_files(server.id()));
    let (answered, refused) = invoke_at_once(&server, 1000);
    assert_eq!((answered, refused), (1000, 0), "all of them fit into the queue");
    // Connections end a moment after their answers.
    wait_until("connections are closed", || open_files(server.id()) <= files + 16);
    let grown = resident_kib(server.id()).saturating_sub(memory);
    assert!(grown < 64 << 10, "a thousand calls have left {grown} KiB behind");
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(fs::read_dir(home.sandboxes()).map_or(0, Iterator::count), 0);
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}

#[test]
fn who_does_not_fit_into_the_queue_is_told_to_come_back() {
    let home = Home::private();
    let server = serve(&home, "4");
    let (answered, refused) = invoke_at_once(&server, 120);
    assert!(answered >= 4 && refused > 0, "{answered} answered, {refused} refused");
    // It was a matter of the moment.
    thread::sleep(Duration::from_millis(100));
    assert!(check(0, &server.invoke("f0", r#"{"name":"0"}"#)));
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}
