//! `costrel image prune`.

use clap::Args;
use costrel_rootfs::StagedEntry;
use costrel_store::Removal;

use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Also remove disks that nothing uses now, of images, functions and agents: each is staged
    /// again when it is needed
    #[arg(long)]
    staged: bool,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let images = host::images(environment, &Config::read(environment)?)?;
    let stager = host::stager(environment)?;
    let pruned = images.prune()?;
    stager.sweep()?;
    // By what has a name now: whoever stages another image meanwhile holds its disk, or can stage
    // it again.
    let named: Vec<_> = images.list()?.into_iter().map(|image| image.manifest_digest).collect();
    let doomed = if arguments.staged { stager.entries()? } else { stager.orphans(&named)? };
    let (mut disks, mut freed) = (0, 0);
    for StagedEntry { allocated_size, .. } in removed(&stager, doomed)? {
        disks += 1;
        freed += allocated_size;
    }
    println!("removed {} ({})", tables::plural(pruned.blobs, "blob"), tables::bytes(pruned.bytes));
    println!("removed {} ({})", tables::plural(disks, "staged disk"), tables::bytes(freed));
    Ok(())
}

/// Removes the disks; gives those that nobody used.
fn removed(
    stager: &costrel_rootfs::Stager,
    doomed: Vec<StagedEntry>,
) -> Result<Vec<StagedEntry>, costrel_rootfs::StageError> {
    let mut removed = Vec::new();
    for entry in doomed {
        if stager.remove(&entry)? == Removal::Removed {
            removed.push(entry);
        }
    }
    Ok(removed)
}
