//! Which namespaces this process can make for a child.
//!
//! All are asked for at once. Only where that fails is each tried alone, once: what was refused is
//! remembered for as long as this process lives.

use std::sync::{Mutex, PoisonError};

use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions},
};

use crate::clone::{clone, flag};

/// A set of `CLONE_NEW…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Namespaces(u64);

/// Namespaces that were refused, and why.
#[derive(Clone, Default, Debug)]
pub(crate) struct Refusals(Vec<(libc::c_int, Errno)>);

const OTHERS: [libc::c_int; 6] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

static REFUSED: Mutex<Refusals> = Mutex::new(Refusals(Vec::new()));

impl Namespaces {
    pub(crate) fn has(self, namespace: libc::c_int) -> bool {
        self.0 & flag(namespace) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As the kernel takes them.
    pub(crate) fn flags(self) -> u64 {
        self.0
    }

    /// All that a child should have. Root makes its user namespace later, when it is another user.
    fn all(is_root: bool) -> Self {
        let user = if is_root { 0 } else { flag(libc::CLONE_NEWUSER) };
        Self(OTHERS.iter().fold(user, |set, &namespace| set | flag(namespace)))
    }

    fn without(self, refusals: &Refusals) -> Self {
        Self(refusals.0.iter().fold(self.0, |set, &(namespace, _)| set & !flag(namespace)))
    }
}

impl Refusals {
    /// Why a namespace was refused.
    pub(crate) fn of(&self, namespace: libc::c_int) -> Option<Errno> {
        self.0.iter().find(|(refused, _)| *refused == namespace).map(|(_, error)| *error)
    }
}

/// What to ask for, as far as is known.
pub(crate) fn available(is_root: bool) -> (Namespaces, Refusals) {
    let refused = REFUSED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (Namespaces::all(is_root).without(&refused), refused)
}

/// Whether an error of `clone` may be due to its namespaces.
pub(crate) fn may_be_due(error: Errno) -> bool {
    matches!(
        error,
        Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS | Errno::INVAL | Errno::NOSYS
    )
}

/// Finds out which of these are refused, now that not all of them can be had.
pub(crate) fn narrow(wanted: Namespaces, error: Errno) -> (Namespaces, Refusals) {
    let user = wanted.0 & flag(libc::CLONE_NEWUSER);
    let mut refusals = Refusals::default();
    let wanted_others = OTHERS.iter().copied().filter(|&namespace| wanted.has(namespace));
    if user != 0
        && let Err(error) = attempt(Namespaces(user))
    {
        // Nobody but root makes the others without it.
        refusals.0.push((libc::CLONE_NEWUSER, error));
        refusals.0.extend(wanted_others.map(|namespace| (namespace, error)));
    } else {
        for namespace in wanted_others {
            if let Err(error) = attempt(Namespaces(user | flag(namespace))) {
                refusals.0.push((namespace, error));
            }
        }
    }
    if refusals.0.is_empty() {
        // Each can be had alone, but not all together: a limit is near.
        let all = OTHERS.iter().chain([&libc::CLONE_NEWUSER]).copied();
        refusals.0.extend(all.filter(|&n| wanted.has(n)).map(|namespace| (namespace, error)));
        return (Namespaces(0), refusals);
    }
    let mut known = REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    for &(namespace, error) in &refusals.0 {
        if known.of(namespace).is_none() {
            known.0.push((namespace, error));
        }
    }
    (wanted.without(&known), known.clone())
}

/// Makes a child that ends at once.
fn attempt(namespaces: Namespaces) -> Result<(), Errno> {
    let child = clone(namespaces.0, None, |_| {})?;
    let handle = std::os::fd::AsFd::as_fd(&child.handle);
    while let Err(Errno::INTR) =
        rustix::process::waitid(WaitId::PidFd(handle), WaitIdOptions::EXITED)
    {}
    Ok(())
}
