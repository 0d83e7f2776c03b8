//! The power to save a machine, and to have any number of machines go on from what was saved.

use std::fs::File;

use async_trait::async_trait;

use crate::{BootError, Exit, Machine, MachineSpec};

/// The two files of a saved machine. Its disks are not among them: whoever owns them keeps what
/// they were.
///
/// Both are open for reading and writing while a machine is saved, and for reading while one is
/// restored. Whoever restores has checked that they are as they were written.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// What virtual CPUs and devices were, in a form of the backend's own that begins with its name
    /// and version.
    pub state: File,
    /// The guest's memory: what is zero in it is a hole in the file. As long as the memory.
    pub memory: File,
}

/// Saves a machine: a power that a machine has if its [`MachineSpec::saving`] says so, and if its
/// backend can do it.
#[async_trait]
pub trait Saver: Send + Sync {
    /// Saves the machine, which must be paused, into two empty files. It stays paused and can go
    /// on afterwards. Streams to its ports that are open do not survive in what is restored.
    ///
    /// # Errors
    /// [`SaveError`]; the files hold nothing of use then, and the machine is as before.
    async fn save(&self, files: &SnapshotFiles) -> Result<(), SaveError>;
}

/// Restores machines: a power that a backend may have.
#[async_trait]
pub trait Restorer: Send + Sync {
    /// What a snapshot depends on beside the machine's description, for people: the backend's form
    /// and program, and the host's processor. A machine that was saved where this text was another
    /// one must not be restored.
    ///
    /// # Errors
    /// [`BootError`] where the backend cannot find it out.
    fn compatibility(&self) -> Result<Vec<(&'static str, String)>, BootError>;

    /// Makes a machine that stands where the saved one stood, paused: [`Machine::resume`] lets it go
    /// on, which is little work then. `spec` is as the saved one's but for its directory, its
    /// console and the paths of its disks, which have the content that they had when it was saved.
    /// The files may be shared by any number of machines; none of them changes anything in them.
    ///
    /// # Errors
    /// [`RestoreError`]; then nothing is left of the machine.
    async fn restore(
        &self,
        spec: &MachineSpec,
        files: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, RestoreError>;
}

/// Why a machine was not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It has ended.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// It has to be paused first.
    #[error("the machine is not paused")]
    NotPaused,
    /// The files could not be written, or the monitor could not tell what is to be written.
    #[error("cannot save the machine: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

/// Why a machine was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The files are not those of a machine that can be restored here.
    #[error("the snapshot cannot be restored: {reason}")]
    Refused {
        /// What is wrong with them.
        reason: String,
    },
    /// The machine could not be started, which is not the files' fault.
    #[error(transparent)]
    Boot(#[from] BootError),
}
