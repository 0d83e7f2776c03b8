//! `costrel df`: what Costrel occupies on the disk.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use costrel_image::ImageStore;
use costrel_rootfs::{StageError, StagedEntry, StagedKind, Stager};
use costrel_snapshot::{SnapshotError, SnapshotStore};

use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

/// What `costrel df` takes: nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Reclaimable is what `costrel image prune` frees, of functions and init blocks \
                  with --staged, `costrel snapshot prune --all` of snapshots, and what the next \
                  start frees of sandboxes."
)]
pub(crate) struct Arguments {}

/// A kind of thing.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    count: usize,
    /// In bytes, as all that follows.
    allocated: u64,
    apparent: u64,
    /// None where nothing removes it but its owner.
    reclaimable: Option<u64>,
}

impl Usage {
    fn add(&mut self, (apparent, allocated): (u64, u64), is_reclaimable: bool) {
        self.count += 1;
        self.allocated += allocated;
        self.apparent += apparent;
        *self.reclaimable.get_or_insert(0) += if is_reclaimable { allocated } else { 0 };
    }
}

pub(crate) fn run(_arguments: &Arguments, environment: &Environment) -> Outcome {
    let config = Config::read(environment)?;
    let images = host::images(environment, &config)?;
    let stager = host::stager(environment)?;
    let saved = host::snapshots(environment, &config)?;
    let cache = environment.cache();
    let rows = [
        ("image blobs", blobs(&images)?),
        ("image disks", image_disks(&images, &stager)?),
        ("function disks", disks(&stager, StagedKind::Function)?),
        ("init blocks", disks(&stager, StagedKind::Init)?),
        ("snapshots", snapshots(&saved)?),
        ("kernels", kernels(&cache.join("kernels"))?),
        ("sandboxes left", sandboxes(&cache.join("sandboxes"))?),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(what, usage)| {
            vec![
                (*what).to_owned(),
                usage.count.to_string(),
                tables::bytes(usage.allocated),
                tables::bytes(usage.apparent),
                usage.reclaimable.map_or_else(|| "-".to_owned(), tables::bytes),
            ]
        })
        .collect();
    tables::print(&["WHAT", "COUNT", "ALLOCATED", "APPARENT", "RECLAIMABLE"], &rows);
    Ok(())
}

fn blobs(images: &ImageStore) -> Result<Usage, costrel_image::LocalError> {
    let usage = images.usage()?;
    Ok(Usage {
        count: usage.blobs,
        allocated: usage.allocated_size,
        apparent: usage.apparent_size,
        reclaimable: Some(usage.reclaimable),
    })
}

fn image_disks(images: &ImageStore, stager: &Stager) -> Result<Usage, crate::failure::Failure> {
    let named: Vec<_> = images.list()?.into_iter().map(|image| image.manifest_digest).collect();
    let orphans: Vec<_> = stager.orphans(&named)?.into_iter().map(|entry| entry.name).collect();
    let is_reclaimable =
        |entry: &StagedEntry| Ok(orphans.contains(&entry.name) && !stager.is_used(entry)?);
    Ok(total(stager, StagedKind::Image, is_reclaimable)?)
}

fn disks(stager: &Stager, kind: StagedKind) -> Result<Usage, StageError> {
    total(stager, kind, |entry| Ok(!stager.is_used(entry)?))
}

fn total(
    stager: &Stager,
    kind: StagedKind,
    is_reclaimable: impl Fn(&StagedEntry) -> Result<bool, StageError>,
) -> Result<Usage, StageError> {
    let mut usage = Usage { reclaimable: Some(0), ..Usage::default() };
    for entry in stager.entries()?.iter().filter(|entry| entry.kind == kind) {
        usage.add((entry.apparent_size, entry.allocated_size), is_reclaimable(entry)?);
    }
    Ok(usage)
}

fn snapshots(saved: &SnapshotStore) -> Result<Usage, SnapshotError> {
    let mut usage = Usage { reclaimable: Some(0), ..Usage::default() };
    for entry in saved.entries()? {
        usage.add((entry.apparent_size, entry.allocated_size), !saved.is_used(&entry.name)?);
    }
    Ok(usage)
}

/// The kernels that were built here, which installations link to.
fn kernels(directory: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for path in directories(directory)? {
        usage.add(size(&path)?, false);
    }
    Ok(Usage { reclaimable: None, ..usage })
}

/// The directories of sandboxes, and of those the ones whose owner is gone.
fn sandboxes(directory: &Path) -> io::Result<Usage> {
    let mut usage = Usage { reclaimable: Some(0), ..Usage::default() };
    for path in directories(directory)? {
        let lives = File::open(path.join("lock"))
            .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        if !lives {
            usage.add(size(&path)?, true);
        }
    }
    Ok(usage)
}

/// Those in this directory, if there is one; not those with a dot, nor links.
fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(path) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut directories = Vec::new();
    for entry in listing {
        let entry = entry?;
        if entry.file_type()?.is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

/// The apparent and the allocated size of all that is in a directory, which may change meanwhile.
fn size(directory: &Path) -> io::Result<(u64, u64)> {
    let (mut apparent, mut allocated) = (0, 0);
    let mut paths = vec![directory.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        allocated += metadata.blocks() * 512;
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        } else {
            apparent += metadata.len();
        }
    }
    Ok((apparent, allocated))
}
