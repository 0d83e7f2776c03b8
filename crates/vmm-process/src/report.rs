//! Puts into words what of a jail is in force.

use costrel_vmm::{JailReport, MeasureName, Standing};
use rustix::io::Errno;

use crate::{
    advice,
    child::{Faults, Files, Step},
    namespaces::{Namespaces, Refusals},
};

/// All that is known when a child is about to execute its program.
pub(crate) struct Findings<'a> {
    pub(crate) namespaces: Namespaces,
    pub(crate) refusals: &'a Refusals,
    pub(crate) faults: &'a Faults,
    /// The id that it was to become, or why it was not to; none where its owner is not root.
    pub(crate) own_id: Option<Result<u32, String>>,
    pub(crate) files: Files,
    /// As the ruleset was made.
    pub(crate) landlock: Standing,
    pub(crate) limits: String,
    pub(crate) group: Option<Standing>,
}

impl Findings<'_> {
    pub(crate) fn report(self) -> JailReport {
        let mut report = JailReport::default();
        self.users(&mut report);
        let cannot = |error: Errno| Standing::lacking(error.to_string());
        let after = |step, standing: Standing| self.faults.of(step).map_or(standing, cannot);

        let files = match self.files {
            Files::Empty => "an empty root",
            Files::ReadOnly if self.faults.of(Step::Proc).is_some() => {
                "read-only; /proc is the host's"
            }
            Files::ReadOnly => "read-only",
        };
        report.set(
            MeasureName::FileSystem,
            match self.refused(libc::CLONE_NEWNS) {
                Some(standing) => standing,
                None => after(Step::Files, Standing::with_detail(files)),
            },
        );
        for (name, namespaces) in [
            (MeasureName::NetworkNamespace, &[libc::CLONE_NEWNET][..]),
            (MeasureName::PidNamespace, &[libc::CLONE_NEWPID]),
            (MeasureName::IpcAndUtsNamespaces, &[libc::CLONE_NEWIPC, libc::CLONE_NEWUTS]),
        ] {
            let refused = namespaces.iter().find_map(|&namespace| self.refused(namespace));
            report.set(name, refused.unwrap_or_else(Standing::in_force));
        }
        let bounding_set = match self.faults.of(Step::BoundingSet) {
            None => Standing::with_detail("the bounding set is empty"),
            Some(_) => Standing::in_force(),
        };
        report.set(MeasureName::Capabilities, after(Step::Capabilities, bounding_set));
        report
            .set(MeasureName::NoNewPrivileges, after(Step::NoNewPrivileges, Standing::in_force()));
        report.set(
            MeasureName::Landlock,
            match self.faults.of(Step::Landlock) {
                Some(error) => crate::landlocked::lacking(error),
                None => self.landlock.clone(),
            },
        );
        report.set(
            MeasureName::ResourceLimits,
            after(Step::Limits, Standing::with_detail(self.limits.clone())),
        );
        if let Some(group) = self.group {
            report.set(MeasureName::ControlGroup, group);
        }
        report
    }

    fn users(&self, report: &mut JailReport) {
        let namespace_fault = match &self.own_id {
            None => self.faults.of(Step::UserMap),
            Some(_) => self.faults.of(Step::OwnUserNamespace),
        };
        let refusal = self.refusals.of(libc::CLONE_NEWUSER).filter(|_| self.own_id.is_none());
        let namespace = match refusal.or(namespace_fault) {
            None => Standing::in_force(),
            Some(error) => Standing::Lacking {
                reason: error.to_string(),
                advice: advice::user_namespace(error),
            },
        };
        let Some(own_id) = &self.own_id else {
            report.set(MeasureName::UserNamespace, namespace);
            return;
        };
        let own_id = match (own_id, self.faults.of(Step::OwnUserId)) {
            (Ok(id), None) => Ok(id.to_string()),
            (Ok(_), Some(error)) => Err(error.to_string()),
            (Err(reason), _) => Err(reason.clone()),
        };
        // For a machine that has a user of its own the namespace is one wall more.
        let namespace = match (namespace, &own_id) {
            (Standing::Lacking { reason, advice }, Ok(_)) => Standing::Waived { reason, advice },
            (namespace, _) => namespace,
        };
        // Root of a user namespace, as in a container, may lack ids to give: it is confined as
        // anybody else is who has but one.
        let is_refused = self.faults.of(Step::OwnUserId).is_some();
        let is_apart = matches!(namespace, Standing::InForce { .. });
        let own_id = match own_id {
            Ok(id) => Standing::with_detail(id),
            Err(reason) if is_refused && is_apart => Standing::Waived { reason, advice: None },
            Err(reason) => Standing::lacking(reason),
        };
        report.set(MeasureName::UserNamespace, namespace);
        report.set(MeasureName::OwnUserId, own_id);
    }

    fn refused(&self, namespace: libc::c_int) -> Option<Standing> {
        if self.namespaces.has(namespace) {
            return None;
        }
        let error = self.refusals.of(namespace).unwrap_or(Errno::PERM);
        let advice = match self.refusals.of(libc::CLONE_NEWUSER) {
            Some(error) if self.own_id.is_none() => advice::user_namespace(error),
            _ => advice::namespace(error),
        };
        Some(Standing::Lacking { reason: error.to_string(), advice })
    }
}
