//! Where the page's content comes from.

use costrel_fleet::FleetStatus;
use costrel_logs::LogLine;

use crate::HistoryEntry;

/// Knows what the status page shows. A seam: tests of the page need neither machines nor files.
pub trait StatusSource: Send + Sync + 'static {
    /// All functions, by name.
    fn functions(&self) -> Vec<FunctionRow>;

    /// The instances, and what waits for them.
    fn fleet(&self) -> FleetStatus;

    /// What an invocation has logged. It may wait for the disk.
    ///
    /// # Errors
    /// In words for people: the log cannot be read.
    fn log(&self, invocation: &HistoryEntry) -> Result<Vec<LogLine>, String>;
}

/// How a function came to be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FunctionOrigin {
    /// By a call of the API.
    Created,
    /// By a file or by options.
    Declared,
}

/// A function, as the page shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionRow {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub origin: FunctionOrigin,
    /// The state of its latest version, as AWS names it, such as `Active`.
    pub state: String,
    /// Its runtime's name, or its image's.
    pub runtime: String,
    /// Its memory in MB.
    pub memory: u32,
    /// How long an invocation may take, in seconds.
    pub timeout: u32,
    /// Its published versions, the oldest first.
    pub versions: Vec<String>,
    /// Its aliases, each with the version that it stands for.
    pub aliases: Vec<(String, String)>,
    /// The address of its function URL.
    pub url: Option<String>,
}
