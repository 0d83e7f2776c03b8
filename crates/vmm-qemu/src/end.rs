//! Tells from all that was heard how a machine ended.

use std::{io, process::ExitStatus};

use costrel_vmm::{Exit, LastWords, printable};

/// All that is known of an end.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) killed: bool,
    pub(crate) halted: bool,
    pub(crate) shutdown_reason: Option<&'a str>,
    pub(crate) words: &'a LastWords,
    pub(crate) status: &'a io::Result<ExitStatus>,
    pub(crate) stderr: &'a [u8],
    pub(crate) ran_out_of_memory: bool,
}

impl End<'_> {
    pub(crate) fn exit(&self) -> Exit {
        match self.shutdown_reason {
            Some("guest-reset" | "guest-panic") => match &self.words.panic {
                Some(message) => Exit::Panic { message: message.clone() },
                None if self.words.rebooting => Exit::Reboot,
                None => Exit::TripleFault,
            },
            Some("guest-shutdown") => Exit::PowerOff,
            _ if self.halted => Exit::PowerOff,
            _ if self.killed => Exit::Killed,
            Some(reason) => Exit::Monitor { reason: format!("it was told to end ({reason})") },
            None => Exit::Monitor { reason: self.monitor_reason() },
        }
    }

    fn monitor_reason(&self) -> String {
        if self.ran_out_of_memory {
            return "QEMU was ended, since it needed more memory than its control group may have"
                .to_owned();
        }
        let status = match self.status {
            Ok(status) => format!("QEMU ended with {status}"),
            Err(error) => format!("QEMU's end was missed: {error}"),
        };
        let stderr = printable(self.stderr);
        let stderr = stderr.trim();
        if stderr.is_empty() { status } else { format!("{status}: {stderr}") }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, sync::LazyLock};

    use super::*;

    fn end<'a>(reason: Option<&'a str>, words: &'a LastWords) -> End<'a> {
        static STATUS: LazyLock<io::Result<ExitStatus>> =
            LazyLock::new(|| Ok(ExitStatus::from_raw(0)));
        End {
            killed: false,
            halted: false,
            shutdown_reason: reason,
            words,
            status: &STATUS,
            stderr: b"",
            ran_out_of_memory: false,
        }
    }

    #[test]
    fn a_reset_is_a_panic_or_a_reboot() {
        let silent = LastWords::default();
        let panicked = LastWords { panic: Some("oh".to_owned()), ..LastWords::default() };
        let rebooting = LastWords { rebooting: true, ..LastWords::default() };
        let reset = Some("guest-reset");
        assert_eq!(end(reset, &panicked).exit(), Exit::Panic { message: "oh".to_owned() });
        assert_eq!(end(reset, &rebooting).exit(), Exit::Reboot);
        assert_eq!(end(reset, &silent).exit(), Exit::TripleFault);
        // What the guest prints alone ends nothing.
        assert!(matches!(end(None, &panicked).exit(), Exit::Monitor { .. }));
    }

    #[test]
    fn a_kill_is_told_from_a_failure() {
        let words = LastWords::default();
        let killed = Ok(ExitStatus::from_raw(9));
        let end = End { status: &killed, stderr: b"qemu: \x1b[31mno\n", ..end(None, &words) };
        let reason = "QEMU ended with signal: 9 (SIGKILL): qemu: \u{fffd}[31mno".to_owned();
        assert_eq!(end.exit(), Exit::Monitor { reason });
        let greedy = End { ran_out_of_memory: true, ..end }.exit().to_string();
        assert!(greedy.contains("more memory than its control group may have"), "{greedy}");
        assert_eq!(End { killed: true, ..end }.exit(), Exit::Killed);
        assert_eq!(End { killed: true, halted: true, ..end }.exit(), Exit::PowerOff);
        // It had ended by itself when it was killed.
        let shutdown_reason = Some("guest-shutdown");
        assert_eq!(End { killed: true, shutdown_reason, ..end }.exit(), Exit::PowerOff);
        let shutdown_reason = Some("host-signal");
        assert!(matches!(End { shutdown_reason, ..end }.exit(), Exit::Monitor { .. }));
    }
}
