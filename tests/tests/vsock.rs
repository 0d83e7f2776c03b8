//! Streams into a machine on KVM, many and unruly: the socket that any client can use.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use costrel_agent_client::{AGENT_PORT, AgentClient};
use costrel_tests::{Blueprint, Shape, skipped};
use costrel_vmm::{Exit, GuestPort, Machine};

async fn agent(machine: &dyn Machine) -> AgentClient {
    let stream = machine.dial(GuestPort(AGENT_PORT)).await.unwrap();
    AgentClient::connect(stream).await.unwrap()
}

fn client(socket: &Path, words: &str) -> UnixStream {
    let mut client = UnixStream::connect(socket).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Who is turned away at once may not be able to say all of it.
    let _ = client.write_all(words.as_bytes());
    client
}

fn answer(mut client: UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clients_do_the_others_are_served() {
    let blueprint = Blueprint::new(Shape { vcpus: 2, ..Shape::default() }).await;
    if blueprint.backend() != "kvm" {
        skipped("KVM: an emulated machine takes one stream a port");
        return;
    }
    let machine = blueprint.boot().await.unwrap();
    let first = agent(&*machine).await;
    first.describe().await.unwrap();
    let path: PathBuf = blueprint.spec.directory.join("vsock.sock");
    let socket = path.clone();

    let unruly = tokio::task::spawn_blocking(move || {
        assert_eq!(answer(client(&socket, "CONNECT nowhere\n")), "");
        assert_eq!(answer(client(&socket, &"x".repeat(4000))), "");
        assert_eq!(answer(client(&socket, "CONNECT 7\n")), "", "nobody listens there");
        let connect = format!("CONNECT {AGENT_PORT}\n");
        for round in 0..100 {
            let client = client(&socket, if round % 3 == 0 { "CONN" } else { &connect });
            match round % 4 {
                0 => client.shutdown(Shutdown::Write).unwrap(),
                1 => drop(client),
                2 => client.shutdown(Shutdown::Both).unwrap(),
                // Garbage for the agent, whose protocol begins with a greeting of its own.
                _ => assert!((&client).write_all(&[0x55; 1000]).is_ok()),
            }
        }
        // The agent hangs up on who says nothing more: its answer, and then the end.
        let half_closed = client(&socket, &connect);
        half_closed.shutdown(Shutdown::Write).unwrap();
        let heard = answer(half_closed);
        assert!(heard.starts_with("OK "), "{heard:?}");
        let open: Vec<UnixStream> = (0..200).map(|_| client(&socket, &connect)).collect();
        for mut client in &open {
            let mut ok = [0; 3];
            client.read_exact(&mut ok).unwrap();
            assert_eq!(&ok, b"OK ");
        }
    });
    let others = async {
        for _ in 0..20 {
            agent(&*machine).await.describe().await.unwrap();
        }
    };
    let (unruly, ()) = tokio::join!(unruly, others);
    unruly.unwrap();
    // Longer than the device waits for a guest to confirm a connection's end.
    tokio::time::sleep(Duration::from_secs(12)).await;
    first.describe().await.unwrap();
    agent(&*machine).await.describe().await.unwrap();
    let _ = first.power_off().await;
    assert_eq!(machine.wait().await, Exit::PowerOff);
    assert!(!path.exists(), "it is gone with the machine");
}
