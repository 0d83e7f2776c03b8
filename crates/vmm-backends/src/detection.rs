//! What there is to run machines with, and which of it is taken.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use costrel_vmm::{Backend, JailReport, Strictness};
use costrel_vmm_qemu::{FindError, QemuBackend, QemuSearch};

use crate::kvm::KvmVerdict;

/// What the user wants.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BackendChoice {
    /// The fastest that works.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Software emulation.
    Emulated,
}

/// Where to look, and for what.
#[derive(Clone, Debug, Default)]
pub struct DetectionSettings {
    /// What the user wants.
    pub choice: BackendChoice,
    /// QEMU's program, where the user names one.
    pub qemu: Option<PathBuf>,
    /// The value of `PATH`, where QEMU is looked for otherwise.
    pub path: Option<OsString>,
    /// A directory in which the verdict on KVM is kept; it is made when needed.
    pub cache: PathBuf,
    /// What is done about a machine that cannot be isolated as it should be.
    pub strictness: Strictness,
}

/// What was found on this machine.
#[derive(Debug)]
pub struct Detection {
    choice: BackendChoice,
    strictness: Strictness,
    kvm: KvmVerdict,
    qemu: Result<Arc<QemuBackend>, Arc<FindError>>,
}

/// One thing found, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact {
    /// What it is about: `KVM`, `QEMU`, `backend`, `jail`.
    pub subject: &'static str,
    /// Whether it is as it should be.
    pub standing: Standing,
    /// What was found, and why it is so.
    pub finding: String,
    /// What could be done about it, or what else is to be said; a line each.
    pub advice: Option<String>,
}

/// How good a thing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// As it should be.
    Good,
    /// Costrel works without it, or with less of it.
    Lacking,
    /// Nothing runs until it is set right.
    Failing,
}

/// Why no machine can be run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoBackend {
    /// KVM was asked for, which this version has no backend for.
    #[error(
        "the KVM backend was asked for, and this version of Costrel does not have it yet (KVM \
         here: {verdict}); choose `emulated` or `auto`"
    )]
    KvmNotYetThere {
        /// What there would be to build on.
        verdict: KvmVerdict,
    },
    /// KVM is no help, and there is no QEMU.
    #[error(
        "this machine cannot run virtual machines: {}; install QEMU (on Debian and Ubuntu: \
         `apt install qemu-system-x86`)",
        without_qemu(kvm, choice)
    )]
    NoQemu {
        /// The user's choice.
        choice: BackendChoice,
        /// What is to be said of KVM.
        kvm: KvmVerdict,
        /// Why there is no QEMU.
        #[source]
        qemu: Arc<FindError>,
    },
}

fn without_qemu(kvm: &KvmVerdict, choice: &BackendChoice) -> String {
    match (choice, kvm) {
        (BackendChoice::Emulated, _) => "emulation needs QEMU".to_owned(),
        (_, KvmVerdict::Works) => {
            "KVM works, but this version of Costrel has no backend for it yet, and emulation needs \
             QEMU"
                .to_owned()
        }
        (_, verdict) => format!("{verdict}, and emulation needs QEMU"),
    }
}

impl Detection {
    /// Looks around. Takes less than a millisecond, but for the first time after a boot, when KVM
    /// is tried out.
    #[must_use]
    pub fn detect(settings: &DetectionSettings) -> Self {
        let search = QemuSearch { program: settings.qemu.clone(), path: settings.path.clone() };
        Self {
            choice: settings.choice,
            strictness: settings.strictness,
            kvm: KvmVerdict::of_this_machine(Some(&settings.cache)),
            qemu: QemuBackend::find(&search)
                .map(|qemu| Arc::new(qemu.with_strictness(settings.strictness)))
                .map_err(Arc::new),
        }
    }

    /// The verdict on KVM.
    #[must_use]
    pub fn kvm(&self) -> &KvmVerdict {
        &self.kvm
    }

    /// QEMU, or why there is none.
    ///
    /// # Errors
    /// [`FindError`], as found.
    pub fn qemu(&self) -> Result<&QemuBackend, &FindError> {
        self.qemu.as_deref().map_err(|error| &**error)
    }

    /// The backend to boot machines with.
    ///
    /// # Errors
    /// [`NoBackend`], which tells people what to do.
    pub fn backend(&self) -> Result<Arc<dyn Backend>, NoBackend> {
        if self.choice == BackendChoice::Kvm {
            return Err(NoBackend::KvmNotYetThere { verdict: self.kvm.clone() });
        }
        match &self.qemu {
            Ok(qemu) => Ok(Arc::<QemuBackend>::clone(qemu)),
            Err(error) => Err(NoBackend::NoQemu {
                choice: self.choice,
                kvm: self.kvm.clone(),
                qemu: Arc::clone(error),
            }),
        }
    }

    /// All that was found, for people. Runs QEMU twice: for its version, and in a jail.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let facts = [self.kvm_fact(), self.qemu_fact(), self.backend_fact()];
        facts.into_iter().chain(self.jail_fact()).collect()
    }

    /// What a machine's process would be confined by. None where there is nothing to confine.
    fn jail_fact(&self) -> Option<Fact> {
        let report = self.qemu.as_ref().ok()?.try_jail();
        let (standing, finding, advice) = match report {
            Ok(report) => {
                let text = report.to_string();
                let (finding, rest) = text.split_once('\n').unwrap_or((&text, ""));
                let advice = (!rest.is_empty()).then(|| rest.to_owned());
                (self.jail_standing(&report), finding.to_owned(), advice)
            }
            Err(error) => (Standing::Failing, with_sources(&error), None),
        };
        Some(Fact { subject: "jail", standing, finding, advice })
    }

    fn jail_standing(&self, report: &JailReport) -> Standing {
        match (report.check(Strictness::Strict), self.strictness) {
            (Ok(()), _) => Standing::Good,
            (Err(_), Strictness::Warn) => Standing::Lacking,
            (Err(_), Strictness::Strict) => Standing::Failing,
        }
    }

    fn kvm_fact(&self) -> Fact {
        let standing = match self.kvm {
            KvmVerdict::Works => Standing::Good,
            _ => Standing::Lacking,
        };
        Fact { subject: "KVM", standing, finding: self.kvm.to_string(), advice: self.kvm.advice() }
    }

    fn qemu_fact(&self) -> Fact {
        let install = || Some("on Debian and Ubuntu: `apt install qemu-system-x86`".to_owned());
        let (standing, finding, advice) = match &self.qemu {
            Ok(qemu) => match qemu.version() {
                Ok(version) => {
                    let program = qemu.program().display();
                    (Standing::Good, format!("version {version}, {program}"), None)
                }
                Err(error) => (Standing::Failing, with_sources(&error), install()),
            },
            Err(error) => (Standing::Failing, with_sources(&**error), install()),
        };
        Fact { subject: "QEMU", standing, finding, advice }
    }

    fn backend_fact(&self) -> Fact {
        let (standing, finding) = match self.backend() {
            Ok(backend) => (Standing::Good, format!("{}, {}", backend.name(), self.why_emulated())),
            Err(error) => (Standing::Failing, error.to_string()),
        };
        Fact { subject: "backend", standing, finding, advice: None }
    }

    fn why_emulated(&self) -> &'static str {
        match (self.choice, &self.kvm) {
            (BackendChoice::Emulated, _) => "as chosen",
            (_, KvmVerdict::Works) => {
                "since this version of Costrel has no KVM backend yet, though KVM works here"
            }
            _ => "since KVM cannot be used here",
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{GuestStep, GuestStop, KvmFailure};

    fn detection(choice: BackendChoice, kvm: KvmVerdict, path: &str) -> Detection {
        let search = QemuSearch { program: None, path: Some(path.into()) };
        let qemu = QemuBackend::find(&search).map(Arc::new).map_err(Arc::new);
        Detection { choice, strictness: Strictness::Warn, kvm, qemu }
    }

    /// A directory with a program of QEMU's name that tells a version.
    fn with_qemu() -> (tempfile::TempDir, String) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("qemu-system-x86_64");
        std::fs::write(&program, "#!/bin/sh\necho QEMU emulator version 9.9.9 '(x)'\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        (directory, path)
    }

    fn emulates_only() -> KvmVerdict {
        KvmVerdict::Fails(KvmFailure {
            step: GuestStep::CompareExchange,
            stop: GuestStop::InternalError { suberror: 1 },
        })
    }

    #[test]
    fn emulation_is_chosen_and_explained() {
        let (_directory, path) = with_qemu();
        for (choice, kvm, why) in [
            (BackendChoice::Auto, KvmVerdict::Works, "no KVM backend yet, though KVM works"),
            (BackendChoice::Auto, emulates_only(), "since KVM cannot be used here"),
            (BackendChoice::Emulated, KvmVerdict::Works, "as chosen"),
        ] {
            let detection = detection(choice, kvm, &path);
            assert_eq!(detection.backend().unwrap().name(), "emulated");
            let facts = detection.facts();
            assert!(facts[1].finding.starts_with("version 9.9.9, /"), "{facts:?}");
            assert!(facts[2].finding.contains(why), "{facts:?}");
            assert!(facts.iter().all(|fact| fact.standing != Standing::Failing));
        }
        let facts = detection(BackendChoice::Auto, emulates_only(), &path).facts();
        assert_eq!(
            facts[0].finding,
            "/dev/kvm opens but only emulates, and cannot run a stock kernel: a trial guest failed \
             at `lock cmpxchg16b`: internal error, suberror 1 (an instruction that it cannot emulate)"
        );
    }

    #[test]
    fn no_backend_names_what_to_do() {
        let (_directory, path) = with_qemu();
        let kvm = detection(BackendChoice::Kvm, KvmVerdict::Missing, &path);
        let error = kvm.backend().unwrap_err().to_string();
        assert!(error.contains("does not have it yet (KVM here: there is no /dev/kvm)"), "{error}");

        for choice in [BackendChoice::Auto, BackendChoice::Emulated] {
            for verdict in [KvmVerdict::Works, KvmVerdict::Missing, emulates_only()] {
                let nothing = detection(choice, verdict, "/nonexistent");
                let error = nothing.backend().unwrap_err().to_string();
                assert!(error.contains("apt install qemu-system-x86"), "{error}");
                assert!(nothing.facts().iter().any(|f| f.standing == Standing::Failing));
            }
        }
    }
}
