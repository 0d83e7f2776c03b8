//! Finds QEMU and boots machines with it.

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
};

use async_trait::async_trait;
use costrel_vmm::{
    Backend, BootError, JailReport, Machine, MachineSpec, Restorer, Saving, Strictness,
};
use costrel_vmm_process::SpawnError;
use rustix::fs::Access;
use tokio::sync::oneshot;

use crate::{
    jail,
    machine::QemuMachine,
    memory::Backing,
    restore::SnapshotMemories,
    supervisor::{Plan, supervise},
    tsc::TscMeasurement,
};

const PROGRAM: &str = "qemu-system-x86_64";

/// Where to look for QEMU.
#[derive(Clone, Debug, Default)]
pub struct QemuSearch {
    /// This program and no other.
    pub program: Option<PathBuf>,
    /// Else the first `qemu-system-x86_64` in these directories, a value like that of `PATH`.
    pub path: Option<OsString>,
}

/// QEMU on this host.
pub struct QemuBackend {
    program: PathBuf,
    version: OnceLock<String>,
    pub(crate) tsc: Arc<TscMeasurement>,
    strictness: Strictness,
    pub(crate) snapshots: SnapshotMemories,
}

/// Why there is no QEMU.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No directory of the search path has it.
    #[error("{PROGRAM} is not installed")]
    Missing,
    /// The program that was named cannot be run.
    #[error("cannot run {}", path.display())]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a program did not tell its version.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// It did not run.
    #[error("cannot run {}", path.display())]
    Run {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It said something else.
    #[error("{} does not say that it is QEMU", path.display())]
    Foreign {
        /// Its path.
        path: PathBuf,
    },
}

impl QemuBackend {
    /// Looks for the program. Does not run it.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(search: &QemuSearch) -> Result<Self, FindError> {
        let program = match &search.program {
            Some(program) => usable(program)
                .map_err(|source| FindError::Unusable { path: program.clone(), source })?,
            None => search
                .path
                .iter()
                .flat_map(std::env::split_paths)
                // A relative entry would make the answer depend on where one stands.
                .filter(|directory| directory.is_absolute())
                .find_map(|directory| usable(&directory.join(PROGRAM)).ok())
                .ok_or(FindError::Missing)?,
        };
        let tsc = Arc::new(TscMeasurement::begin());
        Ok(Self {
            program,
            version: OnceLock::new(),
            tsc,
            strictness: Strictness::default(),
            snapshots: SnapshotMemories::default(),
        })
    }

    /// What it does about a machine that it cannot isolate as it should.
    #[must_use]
    pub fn with_strictness(self, strictness: Strictness) -> Self {
        Self { strictness, ..self }
    }

    /// Runs the program once, to its end, in the jail of a machine, and tells what of that is in
    /// force.
    ///
    /// # Errors
    /// What the system said.
    pub fn try_jail(&self) -> Result<JailReport, SpawnError> {
        jail::try_out(&self.program)
    }

    /// The program's absolute path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// QEMU's version, such as `7.2.22`. Runs the program once, which takes some 20 ms.
    ///
    /// # Errors
    /// [`VersionError`].
    pub fn version(&self) -> Result<&str, VersionError> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let output = Command::new(&self.program)
            .arg("--version")
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(|source| VersionError::Run { path: self.program.clone(), source })?;
        let version = parse_version(&output.stdout)
            .ok_or_else(|| VersionError::Foreign { path: self.program.clone() })?;
        Ok(self.version.get_or_init(|| version))
    }
}

/// `QEMU emulator version 7.2.22 (Debian …)`
fn parse_version(output: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(output).ok()?;
    let version = text.lines().next()?.strip_prefix("QEMU emulator version ")?;
    let version = version.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

fn usable(program: &Path) -> io::Result<PathBuf> {
    let path = program.canonicalize()?;
    if !path.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    rustix::fs::access(&path, Access::EXEC_OK)?;
    Ok(path)
}

#[async_trait]
impl Backend for QemuBackend {
    fn name(&self) -> &'static str {
        "emulated"
    }

    async fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        let backing = match spec.saving {
            Saving::Never => Backing::Anonymous,
            Saving::Expected => Backing::shared(spec.memory).map_err(|source| BootError::Host {
                operation: "make a file for the machine's memory",
                source,
            })?,
        };
        Ok(Box::new(self.launch(spec, backing).await?))
    }

    fn restorer(&self) -> Option<&dyn Restorer> {
        Some(self)
    }
}

impl QemuBackend {
    /// Starts a QEMU, and returns once the guest runs or, where there is to be one from a
    /// snapshot, once QEMU waits for it.
    pub(crate) async fn launch(
        &self,
        spec: &MachineSpec,
        backing: Backing,
    ) -> Result<QemuMachine, BootError> {
        spec.check()?;
        let plan = Plan {
            program: self.program.clone(),
            spec: spec.clone(),
            backing,
            tsc: Arc::clone(&self.tsc),
            strictness: self.strictness,
        };
        let (sender, started) = oneshot::channel();
        thread::Builder::new()
            .name("costrel-qemu".to_owned())
            .spawn(move || supervise(&plan, sender))
            .map_err(|source| BootError::Host { operation: "start a thread", source })?;
        match started.await {
            Ok(machine) => machine,
            Err(_) => Err(BootError::Monitor { reason: "its supervisor panicked".to_owned() }),
        }
    }
}

impl fmt::Debug for QemuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QemuBackend").field("program", &self.program).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn searches_like_a_shell() {
        let root = tempfile::tempdir().unwrap();
        let [plain, right] = ["plain", "right"].map(|name| root.path().join(name));
        for (directory, mode) in [(&plain, 0o644), (&right, 0o755)] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join(PROGRAM), "#!/bin/sh\n").unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(directory.join(PROGRAM), permissions).unwrap();
        }
        let search = |directories: &[&PathBuf]| QemuSearch {
            program: None,
            path: Some(std::env::join_paths(directories).unwrap()),
        };
        let relative = PathBuf::from(".");
        let found = QemuBackend::find(&search(&[&relative, &plain, &right])).unwrap();
        assert!(found.program().ends_with("right/qemu-system-x86_64"));
        assert!(matches!(found.version(), Err(VersionError::Foreign { .. })));
        assert!(matches!(QemuBackend::find(&search(&[&plain])), Err(FindError::Missing)));
        assert!(matches!(QemuBackend::find(&QemuSearch::default()), Err(FindError::Missing)));
        for program in [plain.join(PROGRAM), right.join("none"), right] {
            let search = QemuSearch { program: Some(program), path: None };
            assert!(matches!(QemuBackend::find(&search), Err(FindError::Unusable { .. })));
        }
    }

    #[test]
    fn reads_versions() {
        let debian = b"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)\nCopyright\n";
        assert_eq!(parse_version(debian).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version(b"QEMU emulator version x"), None);
        assert_eq!(parse_version(b"\xff"), None);
    }
}
