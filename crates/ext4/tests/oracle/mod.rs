//! e2fsprogs, which know better than we do.

#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{path::Path, process::Command};

/// Whether e2fsprogs are installed; says so if not.
pub(crate) fn has_tools() -> bool {
    ["e2fsck", "debugfs", "resize2fs"].iter().all(|tool| {
        let found = Command::new(tool).output().is_ok();
        if !found {
            eprintln!("SKIPPED: {tool} is not installed (package e2fsprogs)");
        }
        found
    })
}

/// Requires that e2fsck has nothing to say.
pub(crate) fn check(image: &Path) {
    let output = Command::new("e2fsck").args(["-f", "-n"]).arg(image).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "e2fsck: {}\n{text}", output.status);
    let said: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.starts_with("e2fsck "))
        .collect();
    assert!(said.len() == 1 && said[0].contains("files ("), "e2fsck says:\n{text}");
}

/// What debugfs prints.
pub(crate) fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("debugfs").arg("-R").arg(request).arg(image).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = errors.lines().filter(|line| !line.starts_with("debugfs ")).collect();
    assert!(errors.is_empty(), "debugfs {request}: {errors:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
