//! Real processes as runtime and extensions, as the test's own user: they talk HTTP by bash.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

use costrel_agent_proto::v1::{
    EnvironmentVariable, ProcessSpec, RuntimeExited, ShutDown, ShutdownReason, StartRuntime,
    guest_message::Message, host_message,
};

use super::Guest;

/// `ask METHOD PATH HEADERS [BODY]` prints the reply.
const ASK: &str = r#"
ask() {
  exec 3<>/dev/tcp/127.0.0.1/$PORT
  printf '%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%bContent-Length: %s\r\n\r\n%s' \
    "$1" "$2" "$3" "${#4}" "$4" >&3
  cat <&3
}
next() { ask GET /2020-01-01/extension/event/next "Lambda-Extension-Identifier: $id\r\n"; }
register() {
  id=$(ask POST /2020-01-01/extension/register "Lambda-Extension-Name: ${0##*/}\r\n" "$1" |
    sed -n 's/\r$//; s/^lambda-extension-identifier: //p')
}
runtime=/2018-06-01/runtime/invocation
"#;

/// A runtime that answers until it is ended; its answer is its exit where it is told so.
const RUNTIME: &str = r#"
while :; do
  id=$(ask GET $runtime/next | sed -n 's/\r$//; s/^lambda-runtime-aws-request-id: //p')
  case $id in die*) exit 3 ;; hang*) sleep 60 ;; esac
  ask POST $runtime/$id/response '' '"done"' >/dev/null
done
"#;

struct Lives {
    guest: Guest,
    _directory: tempfile::TempDir,
}

impl Lives {
    /// With one extension of this script, of this mode.
    async fn begin(extension: &str, mode: u32) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            #[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
            {
                eprintln!("skipped: it takes root to start a process with an account of its own");
            }
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("watcher");
        fs::write(&path, format!("#!/bin/bash\n{ASK}\n{extension}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::create_dir(directory.path().join("no-extension")).unwrap();
        let guest = Guest::with_extensions(directory.path().into()).await;
        let lives = Self { guest, _directory: directory };
        lives.start().await;
        Some(lives)
    }

    async fn start(&self) {
        let variable = |name: &str, value: String| EnvironmentVariable { name: name.into(), value };
        let process = ProcessSpec {
            arguments: vec!["/bin/bash".into(), "-c".into(), format!("{ASK}\n{RUNTIME}")],
            environment: vec![
                variable("PORT", self.guest.port.to_string()),
                variable("PATH", "/usr/bin:/bin".into()),
                variable("_HANDLER", "app".into()),
            ],
            ..ProcessSpec::default()
        };
        let start = StartRuntime { process: Some(process), ..StartRuntime::default() };
        self.guest.tell(host_message::Message::StartRuntime(start)).await;
    }

    /// What is heard until the runtime is over, as the extension's output, the platform's lines
    /// and the end.
    async fn over(&self) -> (String, Vec<String>, RuntimeExited) {
        let (mut printed, mut lines) = (String::new(), Vec::new());
        loop {
            match self.guest.heard().await {
                Message::Output(output) => {
                    assert_eq!(output.stream, 2, "{output:?}");
                    printed += std::str::from_utf8(&output.data).unwrap();
                }
                Message::PlatformLine(line) => lines.push(line),
                Message::RuntimeExited(over) => return (printed, lines, over),
                other => panic!("{other:?} after {printed}"),
            }
        }
    }

    /// Passes over what comes until this, without a word from anybody about an end.
    async fn until(&self, is_it: impl Fn(&Message) -> bool) {
        loop {
            match self.guest.heard().await {
                message if is_it(&message) => return,
                Message::RuntimeExited(over) => panic!("{over:?}"),
                _ => {}
            }
        }
    }

    async fn shut_down(&self, reason: ShutdownReason) {
        let order = ShutDown { reason: reason.into() };
        self.guest.tell(host_message::Message::ShutDown(order)).await;
    }
}

#[tokio::test]
async fn an_extension_lives_and_ends_with_the_runtime() {
    let script = r#"
        register '{"events":["INVOKE","SHUTDOWN"]}'
        while :; do
          case $(next) in
            *SHUTDOWN*'"shutdownReason":"'*) echo "down, ${_HANDLER-no handler}"; exit 0 ;;
            *) echo invoked ;;
          esac
        done"#;
    let Some(lives) = Lives::begin(script, 0o755).await else { return };
    // A second life is as the first.
    for (turn, reason) in [(1, ShutdownReason::Timeout), (2, ShutdownReason::Spindown)] {
        if turn == 2 {
            lives.start().await;
        }
        lives.until(|message| matches!(message, Message::InitDone(_))).await;
        for id in ["a", "b"] {
            lives.guest.invoke(id).await;
            let mut printed = false;
            loop {
                match lives.guest.heard().await {
                    Message::Output(output) => {
                        assert_eq!(output.data, "invoked\n");
                        printed = true;
                    }
                    Message::InvokeDone(_) => break,
                    Message::RuntimeExited(over) => panic!("{over:?}"),
                    _ => {}
                }
            }
            assert!(printed, "what an extension prints belongs to the invocation");
        }
        let began = Instant::now();
        lives.shut_down(reason).await;
        let (printed, _, over) = lives.over().await;
        assert_eq!(printed, "down, no handler\n");
        assert_eq!(over.extension_failure, None);
        assert!(began.elapsed().as_millis() < 1500, "{over:?}");
    }
}

#[tokio::test]
async fn an_extension_that_will_not_end_is_killed_when_its_time_is_up() {
    let script = r#"
        register '{"events":["SHUTDOWN"]}'
        next >/dev/null
        echo told
        sleep 60"#;
    let Some(lives) = Lives::begin(script, 0o755).await else { return };
    lives.until(|message| matches!(message, Message::InitDone(_))).await;
    let began = Instant::now();
    lives.shut_down(ShutdownReason::Spindown).await;
    let (printed, _, over) = lives.over().await;
    assert_eq!(printed, "told\n");
    let took = began.elapsed().as_millis();
    assert!((1900..4000).contains(&took), "{took} ms, {over:?}");
    assert!(over.shutdown_us > 1_900_000, "{over:?}");
}

#[tokio::test]
async fn extensions_are_told_when_the_runtime_fails() {
    let script = r#"
        register '{"events":["SHUTDOWN"]}'
        next | grep -o '"shutdownReason":"[a-z]*"'"#;
    let Some(lives) = Lives::begin(script, 0o755).await else { return };
    lives.until(|message| matches!(message, Message::InitDone(_))).await;
    lives.guest.invoke("die").await;
    let (printed, _, over) = lives.over().await;
    assert_eq!(printed, "\"shutdownReason\":\"failure\"\n");
    assert_eq!(over.extension_failure, None);
    assert_eq!(over.exited.unwrap().code, Some(3));
}

#[tokio::test]
async fn an_extension_that_crashes_takes_the_runtime_along() {
    let script = r#"register '{"events":["INVOKE"]}'; next >/dev/null; exit 4"#;
    let Some(lives) = Lives::begin(script, 0o755).await else { return };
    lives.until(|message| matches!(message, Message::InitDone(_))).await;
    lives.guest.invoke("hang").await;
    let (_, _, over) = lives.over().await;
    let failure = over.extension_failure.unwrap();
    assert_eq!(failure.error_type, "Extension.Crash");
    assert_eq!(failure.exited.unwrap().code, Some(4));
}

#[tokio::test]
async fn an_extension_that_gives_up_says_why() {
    let script = r#"
        register '{"events":["INVOKE"]}'
        ask POST /2020-01-01/extension/init/error "Lambda-Extension-Identifier: $id\r\nLambda-Extension-Function-Error-Type: Extension.NoKey\r\n" >/dev/null
        exit 0"#;
    let Some(lives) = Lives::begin(script, 0o755).await else { return };
    let (_, lines, over) = lives.over().await;
    let failure = over.extension_failure.unwrap();
    assert_eq!(failure.error_type, "Extension.InitError");
    assert_eq!(failure.exited.unwrap().code, Some(0));
    assert_eq!(
        lines,
        [
            "EXTENSION\tName: watcher\tState: InitError\tEvents: [INVOKE]\tError Type: Extension.NoKey"
        ]
    );
}

#[tokio::test]
async fn an_extension_that_cannot_be_executed_is_no_secret() {
    let Some(lives) = Lives::begin("", 0o644).await else { return };
    let (_, lines, over) = lives.over().await;
    let failure = over.extension_failure.unwrap();
    assert_eq!(failure.error_type, "Extension.LaunchError");
    assert!(failure.message.ends_with("watcher: permission denied"), "{failure:?}");
    assert_eq!(
        lines,
        ["EXTENSION\tName: watcher\tState: LaunchError\tEvents: []\tError Type: PermissionDenied"]
    );
}
