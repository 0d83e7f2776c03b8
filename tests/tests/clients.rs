//! AWS's own clients, boto3 and awscli, against a server whose functions run. What they find of the
//! control plane alone is tested beside it (`crates/lambda-api/tests/control.rs`).

use std::{path::Path, process::Command};

use costrel_tests::{Costrel, Home, Server, processes_below, rust_function};

#[test]
fn real_clients_cannot_tell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = Command::new(root.join("scripts/test-clients.sh")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let python = String::from_utf8(made.stdout).unwrap();
    let home = Home::private();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--event-retry-delay", "1"];
    let server = Server::spawn(Costrel::new(&home, arguments).with_snapshots());
    let suite = Command::new(python.trim())
        .arg(root.join("tests/clients/invoke.py"))
        .args([server.url().into(), rust_function(), home.path().join("sink.jsonl")])
        .output()
        .unwrap();
    let told = format!(
        "{}{}\n{}",
        String::from_utf8_lossy(&suite.stdout),
        String::from_utf8_lossy(&suite.stderr),
        server.said()
    );
    assert!(suite.status.success(), "{told}");
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}
