//! Has programs that were saved and restored many times draw different random numbers.
//!
//! The kernel's own are different once [`crate::entropy`] was reseeded. What a program has seeded
//! in its memory before it was saved is the same in every clone. Two interpreters are helped, each
//! by a file that it is told to load in its environment, from the directory [`DIRECTORY`] of the
//! workload's root:
//!
//! - *Python* (`PYTHONPATH`, a `sitecustomize` that goes on to the image's own): `random` and
//!   `numpy.random` are seeded anew, unless the program has seeded them itself, and OpenSSL's
//!   generator gets fresh bytes where `ssl` is loaded. This happens once, in a signal's handler, of
//!   a signal that is sent while the process stands still: the interpreter runs it before anything
//!   else, whatever the runtime is made of and whatever it waits in. Looking for a restore when
//!   `next` returns would take a hook for every way to speak HTTP; a thread that waits for one would
//!   race, and be in the way of `fork`. Only who has a handler gets the signal ([`has_handler`]).
//! - *Node* (`NODE_OPTIONS`, a module that is loaded first): it has no signals that come first, and
//!   no way to seed its generators, but its functions can be replaced. `crypto`'s (`randomBytes`,
//!   `randomFill`, `randomFillSync`, `randomInt`, `randomUUID`, `getRandomValues`) are filled by the
//!   kernel at each call, which is not slower. `Math.random` mixes in what the kernel gives whenever
//!   a new piece of JavaScript begins to draw. There is nothing to be told.
//!
//! What draws from the kernel each time needs no help: Python's `uuid4`, `secrets` and
//! `SystemRandom`, Rust's `OsRng` and `getrandom`, Go's `crypto/rand` (and `math/rand` where it is
//! first used after the restore). Not helped are
//!
//! - numbers that were drawn before the process was saved, and pools of them, like that of the npm
//!   packages `uuid` and `nanoid`;
//! - generators that a program has made itself before: `random.Random()`, `numpy`'s `default_rng()`,
//!   Go's `math/rand`, Rust's thread-local generators, Java's `Random`, Ruby's `Random`;
//! - OpenSSL's generator but in Python's `ssl`: in Node, where the same keys and TLS sessions are
//!   made in every clone, and in Python's `cryptography`, which has a copy of its own. It seeds itself
//!   anew when an hour has passed since it did last. JavaScript cannot make it do so earlier; a
//!   native module could, by OpenSSL's `RAND_poll`;
//! - the seed of Python's and other languages' hashes;
//! - Python that leaves its environment out of account (`-I`, `-E`, `-S`), that finds another
//!   `sitecustomize` first, or that handles signal 59 itself.

use std::{fs, io, path::Path};

use costrel_agent_proto::v1::EnvironmentVariable;
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Cgroup;

/// Where the files lie in the workload's root.
const DIRECTORY: &str = "run/costrel";

const PYTHON: &str = "python";
const FILES: [(&str, &str); 2] = [
    ("python/sitecustomize.py", include_str!("reseed/sitecustomize.py")),
    ("node.js", include_str!("reseed/node.js")),
];

/// A real-time signal for which nobody is known to have a use: the C libraries take the first of
/// them, the Java runtime 62, debuggers the last.
const SIGNAL: u32 = 59;

/// Puts the files into a layer of the workload's root.
pub(crate) fn install(layer: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = layer.join(DIRECTORY).join(name);
        fs::create_dir_all(path.parent().unwrap_or(layer))?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Has the interpreter that gets this environment load its file, before what it loads anyway. On
/// Lambda the environment says which interpreter it is; elsewhere it may be either.
pub(crate) fn enable(environment: &mut Vec<EnvironmentVariable>) {
    let execution = environment.iter().find(|variable| variable.name == "AWS_EXECUTION_ENV");
    let execution = execution.map_or("", |variable| &variable.value).to_owned();
    if !execution.starts_with("AWS_Lambda_nodejs") {
        prefix(environment, "PYTHONPATH", &format!("/{DIRECTORY}/{PYTHON}"), ":");
    }
    if !execution.starts_with("AWS_Lambda_python") {
        prefix(environment, "NODE_OPTIONS", &format!("--require /{DIRECTORY}/node.js"), " ");
    }
}

fn prefix(environment: &mut Vec<EnvironmentVariable>, name: &str, value: &str, separator: &str) {
    match environment.iter_mut().find(|variable| variable.name == name) {
        Some(variable) if !variable.value.is_empty() => {
            variable.value = format!("{value}{separator}{}", variable.value);
        }
        Some(variable) => variable.value = value.to_owned(),
        None => {
            environment
                .push(EnvironmentVariable { name: name.to_owned(), value: value.to_owned() });
        }
    }
}

/// Those processes of a group that know how to seed their generators anew. While the group stands
/// still they stay the same: so they are looked for before a machine is saved, and not in each that
/// is restored, where every millisecond counts.
pub(crate) fn listeners(cgroup: &Cgroup) -> io::Result<Vec<Pid>> {
    let listens = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_handler(&status))
    };
    Ok(cgroup.processes()?.into_iter().filter(listens).filter_map(Pid::from_raw).collect())
}

/// Has processes that stand still seed their generators before they do anything else.
pub(crate) fn tell(listeners: &[Pid]) -> io::Result<()> {
    listeners.iter().try_for_each(|&pid| send(pid))
}

/// Whether a process, of which this is `/proc/PID/status`, has a handler for our signal. Programs
/// that have one for every signal do not mean ours.
fn has_handler(status: &str) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    caught >> (SIGNAL - 2) & 0b111 == 0b010
}

#[expect(unsafe_code, reason = "rustix knows real-time signals by the C library's numbers only")]
fn send(pid: Pid) -> io::Result<()> {
    // SAFETY: it is a signal's number, and none that the C library keeps to itself.
    let signal = unsafe { Signal::from_raw_unchecked(SIGNAL.cast_signed()) };
    match kill_process(pid, signal) {
        // It was killed meanwhile.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests;
