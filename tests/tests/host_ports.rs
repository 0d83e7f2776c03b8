//! What a function reaches of the host: the ports that its environment names and those that are
//! added, by every name that there is for them, booted and restored; and nothing else.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use costrel_tests::{Costrel, Home};
use serde_json::{Value, json};

/// A service on this host's loopback, gone with the test's process. How many have called it.
struct Service {
    port: u16,
    calls: Arc<AtomicUsize>,
}

fn service(serve: fn(&TcpStream) -> std::io::Result<()>) -> Service {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || serve(&stream.unwrap()));
        }
    });
    Service { port, calls }
}

/// Says what was asked for, and keeps the connection until the caller closes it.
fn http(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    while reader.read_line(&mut request)? > 2 {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
    stream.write_all(answer.as_bytes())?;
    reader.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Sends back what it receives, as it comes.
fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut piece = vec![0; 60_000];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => stream.write_all(&piece[..count])?,
        }
    }
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

const LENGTH: usize = 8 << 20;

#[test]
fn named_ports_are_reached_and_no_others() {
    let home = Home::private();
    let (named, added, unnamed, swapped) =
        (service(http), service(http), service(http), service(echo));
    let (silent, own) = (free_port(), free_port());
    let call = |event: &Value| {
        Costrel::python_case(&home, "host.handler", &event.to_string())
            .with(["--memory", "256", "--timeout", "100"])
            .with(["--expose-host", &added.port.to_string()])
            .with(["-e", &format!("KEPT_PORT={}", named.port)])
            .with(["-e", &format!("API_URL=http://localhost:{}/base", named.port)])
            .with(["-e", &format!("BROKERS=127.0.0.1:{},localhost:{silent}", swapped.port)])
            .with(["-e", &format!("OTHER=http://host.costrel.internal:{own}")])
            .with_snapshots()
            .run()
    };
    let at = |host: &str, port: u16, path: &str| format!("http://{host}:{port}/{path}");
    let event = json!({
        "urls": [
            at("localhost", named.port, "a"),
            at("127.0.0.1", named.port, "b"),
            at("[::1]", named.port, "c"),
            at("host.costrel.internal", named.port, "d"),
            at("localhost", added.port, "e"),
            at("host.costrel.internal", added.port, "f"),
            at("localhost", unnamed.port, "g"),
            at("host.costrel.internal", unnamed.port, "h"),
            at("localhost", silent, "i"),
            at("127.0.0.1", own, "j"),
            at("host.costrel.internal", own, "k"),
        ],
        "addresses": [["127.0.0.1", unnamed.port], ["192.0.2.1", 80], ["10.0.2.2", named.port]],
        "listen": [["127.0.0.1", own], ["127.0.0.1", named.port]],
        "swap": [["localhost", swapped.port], LENGTH],
        "kept": true,
    });
    let reached = json!([
        "200 /a",
        "200 /b",
        "200 /c",
        "200 /d",
        "200 /e",
        "200 /f",
        "ECONNREFUSED",
        "ECONNREFUSED",
        "ECONNRESET",
        "ECONNREFUSED",
        "ECONNRESET",
    ]);
    for start in ["Init Duration: ", "\tRestore Duration: "] {
        let run = call(&event);
        assert_eq!(run.code, Some(0), "{run:#?}");
        assert!(run.report().contains(start), "{run:#?}");
        let payload = run.payload();
        assert_eq!(payload["alias"], json!([["127.0.0.254", "host.costrel.internal"]]));
        assert_eq!(payload["init"], "/kept");
        assert_eq!(payload["kept"], "ECONNRESET", "it ended when the machine was saved");
        assert_eq!(payload["urls"], reached);
        assert_eq!(payload["addresses"], json!(["ECONNREFUSED", "ENETUNREACH", "ENETUNREACH"]));
        assert_eq!(payload["listen"], json!(["listens", "EADDRINUSE"]));
        assert_eq!(payload["swap"]["count"], LENGTH);
        assert_eq!(payload["swap"]["sent"], payload["swap"]["received"]);
    }
    let calls = |service: &Service| service.calls.load(Ordering::SeqCst);
    // The one that is kept was made once, before the machine was saved.
    assert_eq!([calls(&named), calls(&added), calls(&swapped), calls(&unnamed)], [9, 4, 2, 0]);
}
