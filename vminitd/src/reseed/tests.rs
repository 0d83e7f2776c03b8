//! The interpreters of the machine that the tests run on, as clones of themselves.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use super::*;

fn installed() -> (tempfile::TempDir, PathBuf) {
    let layer = tempfile::tempdir().unwrap();
    install(layer.path()).unwrap();
    let directory = layer.path().join(DIRECTORY);
    (layer, directory)
}

/// What an interpreter prints; none if the machine has none.
fn said(mut command: Command) -> Option<String> {
    let Output { status, stdout, stderr } = match command.output() {
        Ok(output) => output,
        Err(error) => return lacking(&command, &error),
    };
    let said = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{said}{}", String::from_utf8_lossy(&stderr));
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    Some(said)
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
fn lacking(command: &Command, error: &io::Error) -> Option<String> {
    eprintln!("skipped: it takes {:?} ({error})", command.get_program());
    None
}

fn python(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", script]).env("PYTHONPATH", directory.join(PYTHON));
    command
}

/// Python that makes clones past Python's own notice, tells them of it, and prints how many
/// different ones of each of these there are.
const CLONES: &str = r"
import ctypes, os, signal, sys

def clones(draw, signal_number=59, count=10):
    reader, writer = os.pipe()
    for _ in range(count):
        if ctypes.PyDLL(None).fork() == 0:
            if signal_number:
                os.kill(os.getpid(), signal_number)
            os.write(writer, (repr(draw()) + '\n').encode())
            os._exit(0)
    os.close(writer)
    drawn = open(reader).read().splitlines()
    assert len(drawn) == count, drawn
    print(len(set(drawn)))
";

#[test]
fn clones_of_python_draw_different_numbers() {
    let (_layer, directory) = installed();
    let script = format!(
        "{CLONES}
import random
random.random()
clones(random.random, signal_number=None)
clones(random.random)
random.seed(7)
clones(random.random)
random.setstate(random.getstate())
clones(random.random)
random.seed()
clones(random.random)
"
    );
    let Some(said) = said(python(&directory, &script)) else { return };
    assert_eq!(said, "1\n10\n1\n1\n10\n");
}

#[test]
fn clones_of_python_have_openssl_draw_different_numbers() {
    let (_layer, directory) = installed();
    // OpenSSL looks at the process's id to notice clones: not that of a restored machine. So the
    // call is observed, not its effect.
    let script = "
import os, ssl, sys
added = []
sys.modules['_ssl'].RAND_add = lambda *given: added.append(given)
os.kill(os.getpid(), 59)
print(len(added), len(added[0][0]), added[0][1])
";
    let Some(said) = said(python(&directory, script)) else { return };
    assert_eq!(said, "1 64 64.0\n");
}

#[test]
fn python_is_as_it_would_be_without() {
    let (_layer, directory) = installed();
    let image = tempfile::tempdir().unwrap();
    let own = "import sys; sys.flags_of_the_image = 'here'\nanswer = 42\n";
    fs::write(image.path().join("sitecustomize.py"), own).unwrap();
    let script = "
import random, sys
print('random' in sys.modules, [path for path in sys.path if path.endswith('costrel/python')])
print(getattr(sys, 'flags_of_the_image', None), getattr(sys.modules['sitecustomize'], 'answer', None))
print(random.seed.__name__, random.Random(7).random() == (random.seed(7), random.random())[1])
";
    let mut command = python(&directory, script);
    let path = format!("{}:{}", directory.join(PYTHON).display(), image.path().display());
    command.env("PYTHONPATH", path);
    let Some(said) = said(command) else { return };
    assert_eq!(said, "True []\nhere 42\nseed True\n");

    // An error in the image's own is told as ever; an image without one is none.
    fs::write(image.path().join("sitecustomize.py"), "import nothing_of_that_name\n").unwrap();
    let mut command = python(&directory, "print('runs')");
    command.env(
        "PYTHONPATH",
        format!("{}:{}", directory.join(PYTHON).display(), image.path().display()),
    );
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing_of_that_name"));
    assert_eq!(output.stdout, b"runs\n");
}

#[test]
fn python_waits_on_and_is_the_only_one_to_be_told() {
    let (_layer, directory) = installed();
    let script = "
import os, threading, time
reader, writer = os.pipe()
status = open('/proc/self/status').read()
def later():
    os.kill(os.getpid(), 59)
    time.sleep(0.05)
    os.write(writer, b'x')
threading.Thread(target=later).start()
assert os.read(reader, 1) == b'x'
print(status)
";
    let Some(status) = said(python(&directory, script)) else { return };
    assert!(has_handler(&status), "{status}");
    assert!(!has_handler(&fs::read_to_string("/proc/self/status").unwrap()));
    assert!(!has_handler("SigCgt:\tfffffffe7ffbfeff\n"), "one that handles all signals");
    assert!(!has_handler("nothing"));
}

fn node(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("node");
    let options = format!("--require {}", directory.join("node.js").display());
    command.args(["--input-type=module", "--eval", script]).env("NODE_OPTIONS", options);
    command
}

/// All that draws random numbers, in Node.
const DRAWS: &str = "
import { randomBytes, randomFill, randomFillSync, randomInt, randomUUID, getRandomValues } from 'node:crypto';
import { promisify } from 'node:util';
const sixteen = () => new Uint8Array(16);
const draws = {
  random: () => Math.random(),
  randomBytes: () => randomBytes(16).toString('hex'),
  randomBytesLater: async () => (await promisify(randomBytes)(16)).toString('hex'),
  randomFill: async () => (await promisify(randomFill)(sixteen())).join(),
  randomFillSync: () => randomFillSync(sixteen()).join(),
  randomInt: () => randomInt(2 ** 40),
  randomIntLater: () => promisify(randomInt)(5, 2 ** 40),
  randomUUID: () => randomUUID(),
  getRandomValues: () => getRandomValues(sixteen()).join(),
  webUUID: () => crypto.randomUUID(),
  webValues: () => crypto.getRandomValues(sixteen()).join(),
};
";

#[test]
fn node_draws_what_the_kernel_gives() {
    let (_layer, directory) = installed();
    let file = directory.join("node.js");
    let device = directory.join("device");
    let program = fs::read_to_string(&file).unwrap();
    assert_eq!(program.matches("'/dev/urandom'").count(), 1);
    fs::write(&file, program.replace("/dev/urandom", device.to_str().unwrap())).unwrap();
    let script = format!(
        "{DRAWS}
for (const [name, draw] of Object.entries(draws)) console.log(name, await draw());
"
    );
    // Whatever V8 and OpenSSL have: what is drawn is a function of the device's bytes.
    let mut drawn = Vec::new();
    for byte in [1, 1, 2] {
        fs::write(&device, vec![byte; 4096]).unwrap();
        let Some(said) = said(node(&directory, &script)) else { return };
        drawn.push(said);
    }
    assert_eq!(drawn[0], drawn[1]);
    assert_eq!(drawn[0].lines().count(), 11);
    for (one, other) in drawn[0].lines().zip(drawn[2].lines()) {
        assert_ne!(one, other);
    }
}

#[test]
fn nodes_functions_are_as_they_would_be_without() {
    let (_layer, directory) = installed();
    let script = format!(
        "{DRAWS}
import assert from 'node:assert';
for (const [name, draw] of Object.entries(draws)) {{
  const drawn = new Set();
  for (let count = 0; count < 100; count++) drawn.add(await draw());
  assert.equal(drawn.size, 100, name);
}}
assert.match(randomUUID(), /^[0-9a-f]{{8}}-[0-9a-f]{{4}}-4[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$/);
const few = new Set();
for (let count = 0; count < 1000; count++) few.add(randomInt(3, 6));
assert.deepEqual([...few].sort(), [3, 4, 5]);
let sum = 0;
for (let count = 0; count < 1e5; count++) {{
  const drawn = Math.random();
  assert(drawn >= 0 && drawn < 1);
  sum += drawn;
}}
assert(Math.abs(sum / 1e5 - 0.5) < 0.01, String(sum));
const part = randomFillSync(new Uint16Array(1000), 10, 980);
assert(part.slice(0, 10).every((value) => value === 0));
assert(part.slice(10, 990).filter((value) => value !== 0).length > 900);
assert(part.slice(990).every((value) => value === 0));
assert.throws(() => randomBytes(-1), {{ code: 'ERR_OUT_OF_RANGE' }});
assert.throws(() => randomInt(5, 5), {{ code: 'ERR_OUT_OF_RANGE' }});
assert.throws(() => randomFillSync(new Uint8Array(3), 4), {{ code: 'ERR_OUT_OF_RANGE' }});
assert.equal(Math.random.name, 'random');
assert.equal(randomBytes.name, 'randomBytes');
"
    );
    let Some(nothing) = said(node(&directory, &script)) else { return };
    assert_eq!(nothing, "");
    // A sequence that was asked for is what is drawn.
    let seeded = || {
        let mut command = node(&directory, "console.log(Math.random())");
        command.arg("--random-seed=7");
        said(command)
    };
    assert_eq!(seeded(), seeded());
}

#[test]
fn the_environment_names_what_is_loaded_first() {
    let enabled = |given: &[(&str, &str)]| {
        let variable = |&(name, value): &(&str, &str)| EnvironmentVariable {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let mut environment: Vec<_> = given.iter().map(variable).collect();
        enable(&mut environment);
        let text =
            environment.iter().map(|variable| format!("{}={}", variable.name, variable.value));
        text.collect::<Vec<_>>()
    };
    let (python, node) = ("/run/costrel/python", "--require /run/costrel/node.js");
    assert_eq!(enabled(&[]), [format!("PYTHONPATH={python}"), format!("NODE_OPTIONS={node}")]);
    assert_eq!(
        enabled(&[("AWS_EXECUTION_ENV", "AWS_Lambda_python3.13"), ("PYTHONPATH", "/var/runtime")]),
        [
            "AWS_EXECUTION_ENV=AWS_Lambda_python3.13".to_owned(),
            format!("PYTHONPATH={python}:/var/runtime")
        ]
    );
    assert_eq!(
        enabled(&[
            ("NODE_OPTIONS", "--no-warnings"),
            ("AWS_EXECUTION_ENV", "AWS_Lambda_nodejs22.x")
        ]),
        [
            format!("NODE_OPTIONS={node} --no-warnings"),
            "AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x".to_owned()
        ]
    );
}
