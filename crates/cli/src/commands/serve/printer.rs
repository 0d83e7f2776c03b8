//! Functions' logs on standard error as they come, with the functions' names.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use costrel_logs::{LogLine, Source};

use super::LogFormat;

/// How many lines may wait for whoever reads standard error. More are dropped, and counted: they are
/// in the log.
const WAITING: usize = 10_000;

/// How wide the names' column is, for names that are not longer.
const NAME_WIDTH: usize = 12;

/// Colours that can be told apart on a dark and on a light ground; red and green have a meaning.
const COLOURS: [&str; 8] = ["36", "35", "33", "34", "96", "95", "93", "94"];

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) format: LogFormat,
    pub(crate) colour: bool,
}

impl Style {
    /// Colours are for terminals, unless `NO_COLOR` is set.
    pub(crate) fn new(format: LogFormat, no_colour: bool, is_terminal: bool) -> Self {
        Self { format, colour: !no_colour && is_terminal && format == LogFormat::Text }
    }

    /// The line as it is printed, with its end.
    pub(crate) fn line(self, line: &LogLine) -> String {
        if self.format == LogFormat::Json {
            return line.to_json() + "\n";
        }
        let text = line.text();
        let text = text.trim_end_matches('\r');
        let name = &line.function;
        let platform = line.source == Source::Platform;
        let mut printed = String::new();
        // Runtimes part the lines of one entry with carriage returns.
        for part in text.split('\r') {
            let part = printable(part);
            let (dim, end) = match (self.colour, line.source) {
                (true, _) if platform => ("\x1b[32m", "\x1b[0m"),
                (true, Source::Notice) => ("\x1b[33m", "\x1b[0m"),
                _ => ("", ""),
            };
            let notice = if line.source == Source::Notice { "note: " } else { "" };
            let column = if self.colour {
                format!("\x1b[{}m{name:<NAME_WIDTH$} │\x1b[0m", colour_of(name))
            } else {
                format!("{name:<NAME_WIDTH$} │")
            };
            // A colour that the function has not ended would run on.
            let end = if end.is_empty() && part.contains('\x1b') { "\x1b[0m" } else { end };
            printed += &format!("{column} {dim}{notice}{part}{end}\n");
        }
        printed
    }
}

/// Always the same for a name: FNV-1a of it.
fn colour_of(name: &str) -> &'static str {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    COLOURS[hash as usize % COLOURS.len()]
}

/// A guest must not move the cursor or rename the window: of the controls, only tabs and colours stay.
fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter.is_control() && letter != '\t') {
        clean += &rest[..at];
        rest = &rest[at..];
        match colour_sequence(rest) {
            Some(length) => {
                clean += &rest[..length];
                rest = &rest[length..];
            }
            None => {
                let control = rest.chars().next().unwrap_or_default();
                clean.extend(control.escape_default());
                rest = &rest[control.len_utf8()..];
            }
        }
    }
    clean + rest
}

/// The length of an escape sequence that sets colours, if the text begins with one.
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

/// Prints lines by a thread of its own: who reads standard error may be slow.
pub(super) struct Printer {
    style: Style,
    lines: Option<SyncSender<String>>,
    dropped: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Printer {
    pub(super) fn new(format: LogFormat, no_colour: bool) -> std::io::Result<Self> {
        let (lines, received) = sync_channel::<String>(WAITING);
        let thread = std::thread::Builder::new().name("print".to_owned()).spawn(move || {
            for line in received {
                // Nobody is left to tell that standard error cannot be written to.
                let _ = stderr().write_all(line.as_bytes());
            }
        })?;
        Ok(Self {
            style: Style::new(format, no_colour, stderr().is_terminal()),
            lines: Some(lines),
            dropped: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn print(&self, line: &LogLine) {
        self.send(self.style.line(line));
    }

    /// Something that the server itself has to say.
    pub(super) fn tell(&self, text: &str) {
        match self.style.format {
            LogFormat::Text => self.send(format!("{text}\n")),
            LogFormat::Json => {
                let at = jiff::Timestamp::now().to_string();
                self.send(format!(
                    "{}\n",
                    serde_json::json!({ "at": at, "source": "server", "text": text })
                ));
            }
        }
    }

    fn send(&self, line: String) {
        let Some(lines) = &self.lines else { return };
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.tell(&format!("{dropped} lines were not printed; `costrel logs` has them"));
            }
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.get_mut().ok().and_then(Option::take) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(source: Source, text: &str) -> LogLine {
        LogLine {
            at: jiff::Timestamp::UNIX_EPOCH,
            function: "hello".into(),
            version: "1".into(),
            instance: uuid::Uuid::nil(),
            request_id: None,
            source,
            bytes: text.into(),
        }
    }

    #[test]
    fn names_stand_before_lines() {
        let plain = Style::new(LogFormat::Text, false, false);
        assert_eq!(plain.line(&line(Source::Stdout, "hi")), "hello        │ hi\n");
        assert_eq!(
            plain.line(&line(Source::Stdout, "a\rb\r")),
            "hello        │ a\nhello        │ b\n"
        );
        assert_eq!(plain.line(&line(Source::Notice, "hm")), "hello        │ note: hm\n");
        let colour = Style::new(LogFormat::Text, false, true);
        let printed = colour.line(&line(Source::Platform, "END"));
        assert!(printed.ends_with("│\x1b[0m \x1b[32mEND\x1b[0m\n"), "{printed:?}");
        assert_eq!(printed, colour.line(&line(Source::Platform, "END")));
        let not = Style::new(LogFormat::Text, true, true);
        assert!(!not.line(&line(Source::Platform, "END")).contains('\x1b'));
        let json = Style::new(LogFormat::Json, false, true).line(&line(Source::Stdout, "hi"));
        assert_eq!(LogLine::from_json(json.as_bytes()), Some(line(Source::Stdout, "hi")));
    }

    #[test]
    fn guests_do_not_control_the_terminal() {
        assert_eq!(printable("a\tb\x1b[1;31mred\x1b[0m"), "a\tb\x1b[1;31mred\x1b[0m");
        assert_eq!(printable("\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(printable("\x1b[2J\u{9b}1m"), "\\u{1b}[2J\\u{9b}1m");
        assert_eq!(printable("\x1b["), "\\u{1b}[");
    }

    #[test]
    fn names_have_different_colours() {
        let colours: std::collections::HashSet<_> =
            ["hello", "thumbs", "orders", "mail"].map(colour_of).into();
        assert!(colours.len() >= 3, "{colours:?}");
    }
}
