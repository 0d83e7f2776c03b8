//! A real browser, without a window.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Chromium with a profile of its own.
#[derive(Debug)]
pub struct Browser {
    profile: tempfile::TempDir,
}

impl Default for Browser {
    fn default() -> Self {
        Self::new()
    }
}

impl Browser {
    /// A browser that has seen nothing yet.
    ///
    /// # Panics
    /// If there is no temporary directory to be had.
    #[must_use]
    pub fn new() -> Self {
        Self { profile: tempfile::tempdir().expect("a temporary directory") }
    }

    /// The page as it is after so many milliseconds of the page's own time, as HTML, and what the
    /// browser has to say of it: refused scripts, for one.
    ///
    /// # Panics
    /// If Chromium is not installed, or fails.
    #[must_use]
    pub fn document(&self, url: &str, milliseconds: u32) -> (String, String) {
        let output = self
            .command(milliseconds)
            .args(["--dump-dom", url])
            .output()
            .expect("chromium: `scripts/install-deps.sh test` installs it");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        (String::from_utf8(output.stdout).expect("UTF-8"), said)
    }

    /// A picture of the page.
    ///
    /// # Panics
    /// As [`Browser::document`].
    #[must_use]
    pub fn picture(&self, url: &str, file: &Path, dark: bool) -> PathBuf {
        let mut command = self.command(2_000);
        if dark {
            command.arg("--blink-settings=preferredColorScheme=0");
        }
        let status = command
            .arg(format!("--screenshot={}", file.display()))
            .args(["--window-size=1280,1000", url])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("chromium").success());
        file.to_owned()
    }

    fn command(&self, milliseconds: u32) -> Command {
        let mut command = Command::new("chromium");
        command
            .args(["--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions"])
            // Its sandbox wants user namespaces, and refuses to be root's; the page is our own.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args(["--enable-logging=stderr", "--proxy-server=direct://"])
            .arg(format!("--virtual-time-budget={milliseconds}"))
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .stdin(Stdio::null());
        command
    }
}
