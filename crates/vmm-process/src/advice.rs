//! What the owner of a host could do about a measure that cannot be had.

use std::fs;

use rustix::io::Errno;

/// A refused user namespace, or one in which nothing is allowed.
pub(crate) fn user_namespace(error: Errno) -> Option<String> {
    let is = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == value)
    };
    if is("kernel/unprivileged_userns_clone", "0") {
        return Some("`sysctl -w kernel.unprivileged_userns_clone=1` allows it".to_owned());
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Some(
            "an AppArmor profile with `userns,` for this program allows it, or `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0` for all"
                .to_owned(),
        );
    }
    if error == Errno::NOSPC {
        return Some("`sysctl user.max_user_namespaces` tells how many there can be".to_owned());
    }
    namespace(error)
}

/// Another refused namespace.
pub(crate) fn namespace(error: Errno) -> Option<String> {
    match error {
        Errno::NOSPC => Some("`sysctl user` tells how many namespaces there can be".to_owned()),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => Some(
            "in a container, its own confinement (seccomp, AppArmor) has to allow it".to_owned(),
        ),
        _ => None,
    }
}

/// Landlock.
pub(crate) fn landlock(error: Errno) -> Option<String> {
    match error {
        Errno::NOSYS => Some("Linux has it from 5.13 on, where it is configured".to_owned()),
        Errno::OPNOTSUPP => {
            Some("add `landlock` to `lsm=` among the kernel's arguments".to_owned())
        }
        _ => None,
    }
}
