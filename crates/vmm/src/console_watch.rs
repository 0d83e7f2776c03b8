//! What the guest's kernel says on the serial console: its last words, and those that tell an end.

use std::collections::VecDeque;

/// The console's tail, and what its lines told. The guest may print anything, without end: all of
/// it is bounded, and nothing that could drive a terminal gets out.
#[derive(Debug, Default)]
pub struct ConsoleWatch {
    tail: VecDeque<u8>,
    line: Vec<u8>,
    words: LastWords,
}

/// What the kernel said of its end.
#[derive(Clone, Debug, Default)]
pub struct LastWords {
    /// The first panic's message.
    pub panic: Option<String>,
    /// It said that it halts, which a kernel without a way to power off does instead.
    pub halted: bool,
    /// It said that it reboots.
    pub rebooting: bool,
}

const TAIL_BYTES: usize = 8 << 10;
const TAIL_LINES: usize = 24;
/// What is longer is cut: none of the lines looked for is.
const LINE_BYTES: usize = 512;

impl ConsoleWatch {
    /// What the kernel said of its end, so far.
    #[must_use]
    pub fn words(&self) -> &LastWords {
        &self.words
    }

    /// Takes what the guest printed.
    pub fn take(&mut self, bytes: &[u8]) {
        let keep = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let overflow = (self.tail.len() + keep.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..overflow);
        self.tail.extend(keep);
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_BYTES - self.line.len();
            self.line.extend(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.read_line();
            }
        }
    }

    /// Looks at the last line even though it was never finished.
    pub fn finish(&mut self) {
        self.read_line();
    }

    fn read_line(&mut self) {
        let line = printable(&std::mem::take(&mut self.line));
        let line = without_timestamp(line.trim_end());
        if let Some(message) = line.strip_prefix("Kernel panic - not syncing: ")
            && self.words.panic.is_none()
        {
            self.words.panic = Some(message.to_owned());
        }
        match line {
            "reboot: System halted"
            | "reboot: Power off not available: System halted instead"
            | "reboot: Power down" => self.words.halted = true,
            "reboot: Restarting system" => self.words.rebooting = true,
            _ => {}
        }
    }

    /// The last lines, for people.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = printable(&bytes);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// `[    1.234567] text` without what `printk.time` puts before it.
fn without_timestamp(line: &str) -> &str {
    line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(line, |(stamp, rest)| {
        let digits = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
        if stamp.chars().all(digits) { rest } else { line }
    })
}

/// The bytes as text, control characters other than line ends and tabs replaced.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let control = |c: char| c.is_control() && c != '\n' && c != '\t';
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "");
    text.replace(control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(chunks: &[&str]) -> LastWords {
        let mut watch = ConsoleWatch::default();
        for chunk in chunks {
            watch.take(chunk.as_bytes());
        }
        watch.finish();
        watch.words
    }

    #[test]
    fn finds_the_last_words() {
        let found = words(&[
            "[    0.5] Kernel pa",
            "nic - not syncing: Attempted to kill init! exitcode=0x00000700\r\n",
            "[    0.6] Kernel panic - not syncing: again\n",
        ]);
        assert_eq!(found.panic.unwrap(), "Attempted to kill init! exitcode=0x00000700");
        assert!(words(&["x\n[    1.234567] reboot: System halted"]).halted);
        assert!(words(&["reboot: Power down\r\n"]).halted);
        assert!(words(&["[ 1.0] reboot: Power off not available: System halted instead\n"]).halted);
        assert!(words(&["[    0.617912] reboot: Restarting system\r\n"]).rebooting);
        let found = words(&["he said: reboot: Power down\n", "[no] reboot: Power down\n"]);
        assert!(!found.halted && found.panic.is_none());
    }

    #[test]
    fn a_flood_stays_bounded() {
        let mut watch = ConsoleWatch::default();
        for _ in 0..1000 {
            watch.take(&[b'x'; 4096]);
        }
        assert!(watch.tail.capacity() <= 4 * TAIL_BYTES && watch.line.capacity() <= 4 * LINE_BYTES);
        watch.take(b"\nKernel panic - not syncing: heard all the same\n");
        assert_eq!(watch.words.panic.as_deref(), Some("heard all the same"));
    }

    #[test]
    fn the_tail_is_the_last_lines_and_harmless() {
        let mut watch = ConsoleWatch::default();
        for number in 0..100 {
            watch.take(format!("line {number}\r\n").as_bytes());
        }
        watch.take(b"\x1b[2Jend\n");
        let tail = watch.tail();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 77\n"), "{tail}");
        assert!(tail.ends_with("\u{fffd}[2Jend"), "{tail}");
    }
}
