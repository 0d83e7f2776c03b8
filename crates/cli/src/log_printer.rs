//! A function's log on standard error.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    sync::Mutex,
};

use costrel_agent_client::wire::OutputStream;
use costrel_functions::log::LogSink;

/// What is done to the carriage returns with which runtimes part the lines of one log entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CarriageReturns {
    BecomeNewlines,
    Stay,
}

/// Prints the platform's lines, in green on a terminal, and what the function prints, as it is.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    colour: bool,
    carriage_returns: CarriageReturns,
    // Whether the last byte printed was a line's end. The platform's lines start on a new one.
    at_line_start: Mutex<bool>,
}

impl LogPrinter {
    pub(crate) fn new(colours: bool, carriage_returns: CarriageReturns) -> Self {
        let colour = colours && stderr().is_terminal();
        Self { colour, carriage_returns, at_line_start: Mutex::new(true) }
    }

    fn print(&self, fresh_line: bool, bytes: &[u8]) {
        let Ok(mut at_line_start) = self.at_line_start.lock() else { return };
        let mut stderr = stderr().lock();
        // Nobody is left to tell that standard error cannot be written to.
        if fresh_line && !*at_line_start {
            let _ = stderr.write_all(b"\n");
        }
        let _ = stderr.write_all(bytes);
        if let Some(last) = bytes.last() {
            *at_line_start = *last == b'\n';
        }
    }
}

impl LogSink for LogPrinter {
    fn platform(&self, line: &str) {
        let line =
            if self.colour { format!("\x1b[32m{line}\x1b[0m\n") } else { format!("{line}\n") };
        self.print(true, line.as_bytes());
    }

    fn notice(&self, text: &str) {
        self.print(true, format!("warning: {text}\n").as_bytes());
    }

    fn function(&self, _stream: OutputStream, data: &[u8]) {
        if self.carriage_returns == CarriageReturns::Stay || !data.contains(&b'\r') {
            return self.print(false, data);
        }
        let data: Vec<u8> =
            data.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
        self.print(false, &data);
    }
}
