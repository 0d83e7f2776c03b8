//! The serial console's output: into its log, and watched for the kernel's last words.

use std::{
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use costrel_vmm::{ConsoleLog, ConsoleWatch};

use super::life::{Happening, Happenings};

/// What is shared by the serial line and the machine's life.
#[derive(Clone, Debug)]
pub(crate) struct Console(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// None once it could not be written.
    log: Option<ConsoleLog>,
    watch: ConsoleWatch,
    halted: bool,
}

/// The end of the serial line that the guest writes to, byte by byte.
#[derive(Debug)]
pub(crate) struct ConsoleWriter {
    console: Console,
    happenings: Happenings,
    line: Vec<u8>,
}

/// A longer line is passed on in pieces.
const LINE_BYTES: usize = 256;

impl Console {
    pub(crate) fn new(log: File, limit: u64) -> Self {
        let log = Some(ConsoleLog::new(log, limit));
        Self(Arc::new(Mutex::new(Inner { log, watch: ConsoleWatch::default(), halted: false })))
    }

    pub(crate) fn writer(&self, happenings: Happenings) -> ConsoleWriter {
        ConsoleWriter { console: self.clone(), happenings, line: Vec::with_capacity(LINE_BYTES) }
    }

    /// The last lines, for people.
    pub(crate) fn tail(&self) -> String {
        self.lock().watch.tail()
    }

    /// The kernel's panic, if there was one.
    pub(crate) fn panic(&self) -> Option<String> {
        self.lock().watch.words().panic.clone()
    }

    /// Completes the log.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        inner.watch.finish();
        if let Some(log) = &mut inner.log {
            // Nobody is left to be told.
            let _ = log.finish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleWriter {
    fn pass_on(&mut self) {
        let halted = {
            let mut inner = self.console.lock();
            // Without room on the disk the machine goes on without its log.
            if inner.log.as_mut().is_some_and(|log| log.write(&self.line).is_err()) {
                inner.log = None;
            }
            inner.watch.take(&self.line);
            let halted = inner.watch.words().halted && !inner.halted;
            inner.halted |= halted;
            halted
        };
        self.line.clear();
        if halted {
            self.happenings.tell(Happening::Halted);
        }
    }
}

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() >= LINE_BYTES {
                self.pass_on();
            }
        }
        Ok(bytes.len())
    }

    /// The serial line flushes after every byte; what counts is the line's end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
