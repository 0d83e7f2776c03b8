//! Runs the `costrel` command with directories of its own.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::installation;

/// Data, cache and configuration directories of one test, or the ones that tests share.
#[derive(Debug)]
pub enum Home {
    /// Gone with the test.
    Private(tempfile::TempDir),
    /// Below `target/`: the Python image is staged there once for all tests.
    Shared(PathBuf),
}

impl Home {
    /// A directory of the test's own.
    ///
    /// # Panics
    /// If there is no temporary directory to be had.
    #[must_use]
    pub fn private() -> Self {
        Self::Private(tempfile::tempdir().expect("a temporary directory"))
    }

    /// The directory that tests share.
    #[must_use]
    pub fn shared() -> Self {
        Self::Shared(installation().join("../test-home"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Private(directory) => directory.path(),
            Self::Shared(path) => path,
        }
    }

    /// Where the sandboxes' directories are.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.path().join("cache/costrel/sandboxes")
    }
}

/// A call of the command.
#[derive(Debug)]
pub struct Costrel {
    command: Command,
    input: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct Run {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Costrel {
    /// `costrel` with these arguments, in an environment that has only what it needs. The backend is
    /// that of `COSTREL_BACKEND`, where it is set. It boots its machines, whatever there is a
    /// snapshot of ([`Costrel::with_snapshots`]).
    #[must_use]
    pub fn new<S: AsRef<OsStr>>(home: &Home, arguments: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(installation().join("bin/costrel"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("COSTREL_SNAPSHOTS", "0");
        for (name, directory) in [
            ("HOME", ""),
            ("XDG_DATA_HOME", "data"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_CONFIG_HOME", "config"),
        ] {
            command.env(name, home.path().join(directory));
        }
        if let Some(backend) = std::env::var_os("COSTREL_BACKEND") {
            command.env("COSTREL_BACKEND", backend);
        }
        Self { command, input: Vec::new() }
    }

    /// `costrel invoke` of a handler of `examples/python-cases` on the Python image.
    #[must_use]
    pub fn python_case(home: &Home, handler: &str, event: &str) -> Self {
        Self::python(home, "python-cases", handler, event)
    }

    /// `costrel invoke` of a handler in that directory of `examples/`, on the Python image.
    #[must_use]
    pub fn python(home: &Home, code: &str, handler: &str, event: &str) -> Self {
        let image = format!("oci:{}", crate::python_image().display());
        let code = crate::example(code);
        let code = code.to_string_lossy();
        let function =
            ["--runtime", "python3.11", "--image", &image, "--code", &code, "--handler", handler];
        Self::new(home, ["invoke"].iter().chain(&function).chain(&["--", event]))
    }

    /// `costrel invoke` of the Rust function.
    #[must_use]
    pub fn rust_case(home: &Home, event: &str) -> Self {
        let code = crate::rust_function();
        Self::new(
            home,
            [
                "invoke",
                "--runtime",
                "provided.al2023",
                "--code",
                &code.to_string_lossy(),
                "--",
                event,
            ],
        )
    }

    /// Adds options before the event.
    #[must_use]
    pub fn with<S: AsRef<OsStr>>(self, options: impl IntoIterator<Item = S>) -> Self {
        let mut arguments: Vec<_> = self.command.get_args().map(OsStr::to_owned).collect();
        let at = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
        arguments.splice(at..at, options.into_iter().map(|option| option.as_ref().to_owned()));
        let mut command = Command::new(self.command.get_program());
        command.args(arguments).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self { command, input: self.input }
    }

    /// Takes and uses snapshots, as the command does by itself.
    #[must_use]
    pub fn with_snapshots(mut self) -> Self {
        self.command.env_remove("COSTREL_SNAPSHOTS");
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads from standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// The command itself, for a test that wants to do more with it.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it cannot be run, or prints anything but UTF-8.
    #[must_use]
    pub fn run(mut self) -> Run {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("costrel runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = std::mem::take(&mut self.input);
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("costrel ends");
        writer.join().expect("a writer");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

impl Run {
    /// The payload: standard output's last line, as JSON.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn payload(&self) -> serde_json::Value {
        let line = self.stdout.strip_prefix('\n').and_then(|text| text.strip_suffix('\n'));
        let line = line.unwrap_or_else(|| panic!("no payload: {self:#?}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// The invocation's id, from the START line.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn request_id(&self) -> &str {
        let line = self.stderr.lines().find_map(|line| line.strip_prefix("START RequestId: "));
        line.and_then(|rest| rest.split(' ').next())
            .unwrap_or_else(|| panic!("no START: {self:#?}"))
    }

    /// The REPORT line after its request id.
    ///
    /// # Panics
    /// If there is not exactly one.
    #[must_use]
    pub fn report(&self) -> &str {
        let prefix = format!("REPORT RequestId: {}\t", self.request_id());
        let mut lines = self.stderr.lines().filter_map(|line| line.strip_prefix(&prefix));
        match (lines.next(), lines.next()) {
            (Some(report), None) => report,
            _ => panic!("not one REPORT: {self:#?}"),
        }
    }
}
