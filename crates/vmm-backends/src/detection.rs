//! What there is to run machines with, and which of it is taken.

use std::{ffi::OsString, fmt, path::PathBuf, sync::Arc};

use costrel_vmm::{Backend, JailReport, Strictness, with_sources};
use costrel_vmm_kvm::{HugePages, KvmBackend, KvmSettings, ProgramError};
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
    /// The program `costrel-vmm`, which runs machines on KVM.
    pub vmm: PathBuf,
    /// Whether guests' memory is in huge pages on KVM.
    pub huge_pages: HugePages,
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
    vmm: Result<Arc<KvmBackend>, Arc<ProgramError>>,
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
    /// KVM was asked for, and does not work here.
    #[error("the KVM backend was asked for, and cannot be had: {verdict}{}", Advice(verdict.advice()))]
    KvmUnusable {
        /// What is to be said of it.
        verdict: KvmVerdict,
    },
    /// KVM was asked for and works, and the program that uses it is missing.
    #[error("the KVM backend was asked for, and cannot be had")]
    NoVmm(#[source] Arc<ProgramError>),
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
            "KVM works, but costrel-vmm is missing, and emulation needs QEMU".to_owned()
        }
        (_, verdict) => format!("{verdict}, and emulation needs QEMU"),
    }
}

struct Advice(Option<String>);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// What machines are run with.
enum Chosen<'a> {
    Kvm(&'a Arc<KvmBackend>),
    Emulated(&'a Arc<QemuBackend>),
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
            vmm: KvmBackend::new(KvmSettings {
                program: settings.vmm.clone(),
                strictness: settings.strictness,
                huge_pages: settings.huge_pages,
            })
            .map(Arc::new)
            .map_err(Arc::new),
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
        Ok(match self.chosen()? {
            Chosen::Kvm(kvm) => Arc::<KvmBackend>::clone(kvm),
            Chosen::Emulated(qemu) => Arc::<QemuBackend>::clone(qemu),
        })
    }

    fn chosen(&self) -> Result<Chosen<'_>, NoBackend> {
        let works = self.kvm == KvmVerdict::Works;
        match (self.choice, &self.vmm) {
            (BackendChoice::Kvm, _) if !works => {
                return Err(NoBackend::KvmUnusable { verdict: self.kvm.clone() });
            }
            (BackendChoice::Kvm, Err(error)) => return Err(NoBackend::NoVmm(Arc::clone(error))),
            (BackendChoice::Kvm, Ok(vmm)) => return Ok(Chosen::Kvm(vmm)),
            (BackendChoice::Auto, Ok(vmm)) if works => return Ok(Chosen::Kvm(vmm)),
            (BackendChoice::Auto | BackendChoice::Emulated, _) => {}
        }
        self.qemu.as_ref().map(Chosen::Emulated).map_err(|error| NoBackend::NoQemu {
            choice: self.choice,
            kvm: self.kvm.clone(),
            qemu: Arc::clone(error),
        })
    }

    /// All that was found, for people. Runs QEMU for its version, and what would run a machine in
    /// its jail.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let facts = [self.kvm_fact(), self.vmm_fact(), self.qemu_fact(), self.backend_fact()];
        facts.into_iter().chain(self.jail_fact()).collect()
    }

    /// What a machine's process would be confined by. None where there is nothing to confine.
    fn jail_fact(&self) -> Option<Fact> {
        let report = match self.chosen().ok()? {
            Chosen::Kvm(kvm) => kvm.try_jail().map_err(|error| with_sources(&error)),
            Chosen::Emulated(qemu) => qemu.try_jail().map_err(|error| with_sources(&error)),
        };
        let (standing, finding, advice) = match report {
            Ok(report) => {
                let text = report.to_string();
                let (finding, rest) = text.split_once('\n').unwrap_or((&text, ""));
                let advice = (!rest.is_empty()).then(|| rest.to_owned());
                (self.jail_standing(&report), finding.to_owned(), advice)
            }
            Err(error) => (Standing::Failing, error, None),
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

    fn vmm_fact(&self) -> Fact {
        let (standing, finding) = match &self.vmm {
            Ok(vmm) => (Standing::Good, vmm.program().display().to_string()),
            Err(error) => (Standing::Lacking, with_sources(&**error)),
        };
        Fact { subject: "VMM", standing, finding, advice: None }
    }

    fn qemu_fact(&self) -> Fact {
        let install = || Some("on Debian and Ubuntu: `apt install qemu-system-x86`".to_owned());
        // Nobody misses it where KVM is used.
        let bad = match self.chosen() {
            Ok(Chosen::Kvm(_)) => Standing::Lacking,
            _ => Standing::Failing,
        };
        let (standing, finding, advice) = match &self.qemu {
            Ok(qemu) => match qemu.version() {
                Ok(version) => {
                    let program = qemu.program().display();
                    (Standing::Good, format!("version {version}, {program}"), None)
                }
                Err(error) => (bad, with_sources(&error), install()),
            },
            Err(error) => (bad, with_sources(&**error), install()),
        };
        Fact { subject: "QEMU", standing, finding, advice }
    }

    fn backend_fact(&self) -> Fact {
        let (standing, finding) = match self.chosen() {
            Ok(chosen) => {
                let (name, why) = self.choice_and_why(&chosen);
                (Standing::Good, format!("{name}, {why}"))
            }
            Err(error) => (Standing::Failing, with_sources(&error)),
        };
        Fact { subject: "backend", standing, finding, advice: None }
    }

    fn choice_and_why(&self, chosen: &Chosen<'_>) -> (&'static str, &'static str) {
        let chosen_by_user = "as chosen";
        match (chosen, self.choice, &self.kvm) {
            (Chosen::Kvm(kvm), BackendChoice::Auto, _) => (kvm.name(), "since KVM works here"),
            (Chosen::Kvm(kvm), _, _) => (kvm.name(), chosen_by_user),
            (Chosen::Emulated(qemu), BackendChoice::Auto, KvmVerdict::Works) => {
                (qemu.name(), "since costrel-vmm is missing, though KVM works here")
            }
            (Chosen::Emulated(qemu), BackendChoice::Auto, _) => {
                (qemu.name(), "since KVM cannot be used here")
            }
            (Chosen::Emulated(qemu), _, _) => (qemu.name(), chosen_by_user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{GuestStep, GuestStop, KvmFailure};

    fn detection(choice: BackendChoice, kvm: KvmVerdict, path: &str, vmm: &str) -> Detection {
        let search = QemuSearch { program: None, path: Some(path.into()) };
        let qemu = QemuBackend::find(&search).map(Arc::new).map_err(Arc::new);
        let strictness = Strictness::Warn;
        let vmm = KvmBackend::new(KvmSettings {
            program: vmm.into(),
            strictness,
            huge_pages: HugePages::default(),
        });
        let vmm = vmm.map(Arc::new).map_err(Arc::new);
        Detection { choice, strictness, kvm, vmm, qemu }
    }

    /// Any program will do where none is run.
    const PROGRAM: &str = "/bin/sh";
    const NOTHING: &str = "/nonexistent";

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
    fn the_choice_is_explained() {
        let (_directory, path) = with_qemu();
        for (choice, kvm, vmm, name, why) in [
            (BackendChoice::Auto, KvmVerdict::Works, PROGRAM, "kvm", "since KVM works here"),
            (BackendChoice::Kvm, KvmVerdict::Works, PROGRAM, "kvm", "as chosen"),
            (BackendChoice::Auto, KvmVerdict::Works, NOTHING, "emulated", "costrel-vmm is missing"),
            (BackendChoice::Auto, emulates_only(), PROGRAM, "emulated", "KVM cannot be used here"),
            (BackendChoice::Emulated, KvmVerdict::Works, PROGRAM, "emulated", "as chosen"),
        ] {
            let detection = detection(choice, kvm, &path, vmm);
            assert_eq!(detection.backend().unwrap().name(), name);
            let fact = detection.backend_fact();
            assert_eq!(fact.standing, Standing::Good);
            assert!(fact.finding.starts_with(name) && fact.finding.contains(why), "{fact:?}");
        }
        let emulated = detection(BackendChoice::Auto, emulates_only(), &path, PROGRAM);
        assert!(emulated.qemu_fact().finding.starts_with("version 9.9.9, /"));
        assert_eq!(
            emulated.kvm_fact().finding,
            "/dev/kvm opens but only emulates, and cannot run a stock kernel: a trial guest failed \
             at `lock cmpxchg16b`: internal error, suberror 1 (an instruction that it cannot emulate)"
        );
    }

    #[test]
    fn no_backend_names_what_to_do() {
        let (_directory, path) = with_qemu();
        let forbidden = KvmVerdict::Forbidden { group: Some("kvm".to_owned()) };
        let kvm = detection(BackendChoice::Kvm, forbidden, &path, PROGRAM);
        let error = kvm.backend().unwrap_err().to_string();
        assert!(error.contains("which you are not; join the group kvm: `sudo usermod"), "{error}");
        let kvm = detection(BackendChoice::Kvm, KvmVerdict::Works, &path, NOTHING);
        let error = with_sources(&kvm.backend().unwrap_err());
        assert!(error.contains("cannot be had: cannot run /nonexistent"), "{error}");

        for choice in [BackendChoice::Auto, BackendChoice::Emulated] {
            for verdict in [KvmVerdict::Works, KvmVerdict::Missing, emulates_only()] {
                let nothing = detection(choice, verdict, NOTHING, NOTHING);
                let error = nothing.backend().unwrap_err().to_string();
                assert!(error.contains("apt install qemu-system-x86"), "{error}");
                assert!(nothing.facts().iter().any(|f| f.standing == Standing::Failing));
            }
        }
        // With KVM at work nobody needs QEMU.
        let kvm = detection(BackendChoice::Auto, KvmVerdict::Works, NOTHING, PROGRAM);
        assert_eq!(kvm.qemu_fact().standing, Standing::Lacking);
    }
}
