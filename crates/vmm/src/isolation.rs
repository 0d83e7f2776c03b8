//! What separates a machine's monitor from the rest of the host: which measures are in force, and
//! which could not be had.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was tried to confine a monitor with, and what came of it: at most one entry a measure.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JailReport {
    measures: Vec<Measure>,
}

/// One measure and its standing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// Which one.
    pub name: MeasureName,
    /// Whether it holds.
    #[serde(flatten)]
    pub standing: Standing,
}

/// The measures that there are, in the order in which people are told of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MeasureName {
    /// A user id that no other process of the host has.
    OwnUserId,
    /// A user namespace: no capability counts outside of it.
    UserNamespace,
    /// No capability, nor any way to gain one.
    Capabilities,
    /// No program gives more rights than the process has (`PR_SET_NO_NEW_PRIVS`).
    NoNewPrivileges,
    /// A view of the file system of its own: nothing, or programs only and nothing to write to.
    FileSystem,
    /// A network namespace without an interface that is up.
    NetworkNamespace,
    /// A PID namespace: no other process can be named, hence signalled or traced.
    PidNamespace,
    /// Namespaces of System V IPC and POSIX message queues, and of the host's name.
    IpcAndUtsNamespaces,
    /// A Landlock domain, whatever the mounts and the sockets in reach.
    Landlock,
    /// A filter of system calls.
    Seccomp,
    /// Limits of the process itself (`setrlimit`).
    ResourceLimits,
    /// Limits of memory and of processes by a control group.
    ControlGroup,
}

/// Whether a measure holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "kebab-case")]
pub enum Standing {
    /// It holds.
    InForce {
        /// More of it, where there is more to say: `ABI 7`, `1914729813`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// It should hold and does not: [`Strictness::Strict`] refuses such a machine.
    Lacking {
        /// What the system said.
        reason: String,
        /// What its owner could do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        advice: Option<String>,
    },
    /// It does not hold, and another one takes its place or the host has nothing to make it with.
    /// No machine is refused for it.
    Waived {
        /// Why.
        reason: String,
        /// What its owner could do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        advice: Option<String>,
    },
}

/// What is done about a measure that is lacking.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// The machine runs without it, and the report says so.
    #[default]
    Warn,
    /// The machine does not start.
    Strict,
}

/// A machine that was not started, for lack of a measure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the machine would not be isolated as strictly as asked for{}", Lines(lacking))]
pub struct IsolationError {
    /// The measures that are lacking, and why.
    pub lacking: Vec<Measure>,
}

impl Standing {
    /// It holds, and there is no more to say.
    #[must_use]
    pub fn in_force() -> Self {
        Self::InForce { detail: None }
    }

    /// It holds.
    #[must_use]
    pub fn with_detail(detail: impl Into<String>) -> Self {
        Self::InForce { detail: Some(detail.into()) }
    }

    /// It should hold and does not.
    #[must_use]
    pub fn lacking(reason: impl Into<String>) -> Self {
        Self::Lacking { reason: reason.into(), advice: None }
    }
}

impl JailReport {
    /// All that is known, in the order of [`MeasureName`].
    #[must_use]
    pub fn measures(&self) -> &[Measure] {
        &self.measures
    }

    /// What is known of one measure.
    #[must_use]
    pub fn standing(&self, name: MeasureName) -> Option<&Standing> {
        self.measures.iter().find(|measure| measure.name == name).map(|measure| &measure.standing)
    }

    /// Whether a measure is known to hold.
    #[must_use]
    pub fn is_in_force(&self, name: MeasureName) -> bool {
        matches!(self.standing(name), Some(Standing::InForce { .. }))
    }

    /// Takes in what is known of a measure, in place of what was known before.
    pub fn set(&mut self, name: MeasureName, standing: Standing) {
        let measure = Measure { name, standing };
        match self.measures.binary_search_by_key(&name, |measure| measure.name) {
            Ok(index) => self.measures[index] = measure,
            Err(index) => self.measures.insert(index, measure),
        }
    }

    /// Takes in what somebody else knows, such as the monitor itself of what it did after its
    /// start: the other's word counts where both have one.
    pub fn merge(&mut self, other: Self) {
        for Measure { name, standing } in other.measures {
            self.set(name, standing);
        }
    }

    /// The measures that should hold and do not.
    pub fn lacking(&self) -> impl Iterator<Item = &Measure> {
        self.measures.iter().filter(|measure| matches!(measure.standing, Standing::Lacking { .. }))
    }

    /// Whether a machine may run with what is in force.
    ///
    /// # Errors
    /// [`IsolationError`] under [`Strictness::Strict`], if anything is lacking.
    pub fn check(&self, strictness: Strictness) -> Result<(), IsolationError> {
        let lacking: Vec<Measure> = match strictness {
            Strictness::Warn => Vec::new(),
            Strictness::Strict => self.lacking().cloned().collect(),
        };
        if lacking.is_empty() { Ok(()) } else { Err(IsolationError { lacking }) }
    }
}

impl fmt::Display for MeasureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnUserId => "user id of its own",
            Self::UserNamespace => "user namespace",
            Self::Capabilities => "no capabilities",
            Self::NoNewPrivileges => "no new privileges",
            Self::FileSystem => "file system",
            Self::NetworkNamespace => "network namespace",
            Self::PidNamespace => "PID namespace",
            Self::IpcAndUtsNamespaces => "IPC and UTS namespaces",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
            Self::ResourceLimits => "resource limits",
            Self::ControlGroup => "control group",
        })
    }
}

/// One measure: `Landlock (ABI 7)`, or `control group: not delegated; do this`.
impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)?;
        match &self.standing {
            Standing::InForce { detail: None } => Ok(()),
            Standing::InForce { detail: Some(detail) } => write!(f, " ({detail})"),
            Standing::Lacking { reason, advice } | Standing::Waived { reason, advice } => {
                write!(f, ": {reason}")?;
                advice.as_ref().map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
        }
    }
}

/// One line of what is in force, one for each measure that is not.
impl fmt::Display for JailReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "in force: ";
        for measure in &self.measures {
            if matches!(measure.standing, Standing::InForce { .. }) {
                write!(f, "{separator}{measure}")?;
                separator = ", ";
            }
        }
        if separator != ", " {
            f.write_str("in force: nothing")?;
        }
        for measure in &self.measures {
            match measure.standing {
                Standing::InForce { .. } => {}
                Standing::Lacking { .. } => write!(f, "\nlacking: {measure}")?,
                Standing::Waived { .. } => write!(f, "\nnot in force: {measure}")?,
            }
        }
        Ok(())
    }
}

struct Lines<'a>(&'a [Measure]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|measure| write!(f, "\n    lacking: {measure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> JailReport {
        let mut report = JailReport::default();
        report.set(MeasureName::Landlock, Standing::with_detail("ABI 7"));
        report.set(MeasureName::Capabilities, Standing::in_force());
        report.set(
            MeasureName::ControlGroup,
            Standing::Waived { reason: "none is delegated".to_owned(), advice: None },
        );
        report
    }

    #[test]
    fn people_read_it() {
        let mut report = report();
        let text = "in force: no capabilities, Landlock (ABI 7)\n\
                    not in force: control group: none is delegated";
        assert_eq!(report.to_string(), text);
        report.set(
            MeasureName::PidNamespace,
            Standing::Lacking { reason: "no".to_owned(), advice: Some("do".to_owned()) },
        );
        assert!(report.to_string().contains("\nlacking: PID namespace: no; do\n"), "{report}");
        assert_eq!(JailReport::default().to_string(), "in force: nothing");
    }

    #[test]
    fn strict_refuses_what_is_lacking_and_only_that() {
        let mut report = report();
        assert!(report.check(Strictness::Strict).is_ok());
        report.set(MeasureName::Seccomp, Standing::lacking("no"));
        assert!(report.check(Strictness::Warn).is_ok());
        let error = report.check(Strictness::Strict).unwrap_err();
        assert_eq!(error.lacking.len(), 1);
        assert!(error.to_string().ends_with("\n    lacking: seccomp: no"), "{error}");
    }

    #[test]
    fn the_later_word_counts() {
        let mut report = report();
        let mut later = JailReport::default();
        later.set(MeasureName::Landlock, Standing::lacking("left out"));
        later.set(MeasureName::Seccomp, Standing::in_force());
        report.merge(later);
        assert!(!report.is_in_force(MeasureName::Landlock));
        assert!(report.is_in_force(MeasureName::Seccomp));
        assert_eq!(report.measures().len(), 4);
    }

    #[test]
    fn survives_json() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(
            json[1],
            serde_json::json!({"name": "landlock", "standing": "in-force", "detail": "ABI 7"})
        );
        assert_eq!(serde_json::from_value::<JailReport>(json).unwrap(), report());
    }
}
