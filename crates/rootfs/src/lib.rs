//! Turns image layers, function code and agent binaries into block devices.
//!
//! A [`Stager`] makes ext4 images and keeps them in a cache, by the digest of what they hold:
//!
//! | disk | holds | found by |
//! |---|---|---|
//! | [`Stager::init_block`] | the agent | the binary's content |
//! | [`Stager::image`] | an image's layers, merged | the image's digest |
//! | [`Stager::function`] | code at `/var/task`, layers at `/opt` | their content |
//!
//! They are read-only, and all VMs share them. [`create_scratch`] makes the disk that is a VM's
//! own. The same input gives the same bytes; the archives are read once, and what they say is
//! honoured or refused by name.

mod code;
mod disk;
mod error;
mod function;
mod init;
mod layer;
mod merge;
mod path;
mod progress;
mod scratch;
mod stager;
mod tar;

pub use disk::{StagedDisk, StagedEntry, StagedKind};
pub use error::{CodeError, StageError};
pub use function::{CodePlacement, CodeSource, DEFAULT_UNPACKED_LIMIT, FunctionSource};
pub use layer::{ImageLayers, LayerBlob, LayerCompression};
pub use merge::LayerError;
pub use path::EntryError;
pub use progress::{Silent, StageProgress};
pub use scratch::create_scratch;
pub use stager::Stager;
pub use tar::TarError;
