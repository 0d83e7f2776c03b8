//! A function for `provided.al2023` that ends in the way its event asks for.

use std::io::{Read, Write};
use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};

/// What the event asks for. Without a `case` it is `hello`.
#[derive(Deserialize)]
#[serde(tag = "case", rename_all = "snake_case")]
enum Case {
    /// Greets, and tells its environment and what layers brought.
    Hello {
        #[serde(default = "world")]
        name: String,
    },
    /// What must differ in each instance, however it came to be; and the time.
    Unique,
    /// Returns an error.
    Raise,
    /// Panics, which aborts the process.
    Panic,
    /// Ends the process at once.
    Exit {
        #[serde(default = "three")]
        code: i32,
    },
    /// Sleeps past its timeout, unless told otherwise.
    Sleep {
        #[serde(default = "a_minute")]
        seconds: f64,
    },
    /// Returns 7 MB, more than a response may have.
    Big,
    /// Writes numbered lines to standard output.
    Log {
        #[serde(default = "many")]
        lines: u32,
    },
}

fn world() -> String {
    "world".to_owned()
}

fn three() -> i32 {
    3
}

fn a_minute() -> f64 {
    60.0
}

fn many() -> u32 {
    100_000
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    match std::env::var("INIT").as_deref() {
        Ok("exit") => std::process::exit(3),
        Ok("raise") => return Err("the init phase failed as asked".into()),
        Ok("sleep") => std::thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
    run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let (mut payload, context) = event.into_parts();
    if let Some(fields) = payload.as_object_mut() {
        fields.entry("case").or_insert_with(|| "hello".into());
    }
    match serde_json::from_value(payload)? {
        Case::Hello { name } => Ok(json!({
            "greeting": format!("Hello {name}"),
            "request_id": context.request_id,
            "environment": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
            "layer": std::fs::read_to_string("/opt/greeting.txt").ok(),
            "opt": files("/opt"),
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "pid1": std::fs::read_to_string("/proc/1/comm").unwrap_or_default().trim(),
        })),
        Case::Unique => {
            let mut bytes = [0; 16];
            std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            Ok(json!({ "getrandom": format!("{bytes:02x?}"), "time": now.as_secs_f64() }))
        }
        Case::Raise => Err("no stock left".into()),
        Case::Panic => panic!("panicked as asked"),
        Case::Exit { code } => std::process::exit(code),
        Case::Sleep { seconds } => {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            Ok("slept".into())
        }
        Case::Big => Ok("x".repeat(7_000_000).into()),
        Case::Log { lines } => {
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            for number in 0..lines {
                writeln!(out, "line {number}")?;
            }
            out.flush()?;
            Ok(json!({ "lines": lines }))
        }
    }
}

/// The names in a directory, sorted; none when it is not there.
fn files(directory: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
