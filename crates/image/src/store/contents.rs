//! What is in the store: listing it, and removing what is not needed.

use std::{collections::HashSet, fs, fs::File, os::unix::fs::MetadataExt as _};

use costrel_store::{Digest, EntryName, Removal};

use super::{ImageStore, LocalError};
use crate::{Image, ImageRecord, Reference, record::Record};

/// What [`ImageStore::remove`] and [`ImageStore::prune`] took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Names.
    pub images: usize,
    /// Blobs that no other name needs and nobody uses.
    pub blobs: usize,
    /// What those occupied on the disk, in bytes.
    pub bytes: u64,
}

/// What the store occupies, for `df`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Names.
    pub images: usize,
    /// Blobs.
    pub blobs: usize,
    /// The blobs' lengths, in bytes.
    pub apparent_size: u64,
    /// What they occupy on the disk, in bytes.
    pub allocated_size: u64,
    /// How much of that no name needs: [`ImageStore::prune`] removes it.
    pub reclaimable: u64,
}

impl ImageStore {
    /// All names and what they stand for, by name.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn list(&self) -> Result<Vec<ImageRecord>, LocalError> {
        let mut list: Vec<_> = self.records()?.iter().map(|(_, record)| record.summary()).collect();
        list.sort_by(|a, b| (&a.reference, &a.platform).cmp(&(&b.reference, &b.platform)));
        Ok(list)
    }

    /// What the name stands for, by platform: an image, or none where some of its blobs are gone.
    /// A name with a digest stands for all that have that digest in its repository.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn named(
        &self,
        reference: &Reference,
    ) -> Result<Vec<(ImageRecord, Option<Image>)>, LocalError> {
        let records = self.records()?.into_iter().map(|(_, record)| record);
        let mut named = records
            .filter(|record| record.answers(reference))
            .map(|record| Ok((record.summary(), self.assemble(&record, &record.reference)?)))
            .collect::<Result<Vec<_>, LocalError>>()?;
        named.sort_by(|(a, _), (b, _)| {
            (&a.platform, &a.reference).cmp(&(&b.platform, &b.reference))
        });
        Ok(named)
    }

    /// Removes the name, for all platforms, and the blobs that nobody else needs. Blobs that are
    /// in use stay until [`Self::prune`].
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn remove(&self, reference: &Reference) -> Result<Removed, LocalError> {
        let _gate = self.gate(File::lock)?;
        let (doomed, kept): (Vec<_>, Vec<_>) =
            self.records()?.into_iter().partition(|(_, record)| record.answers(reference));
        let mut removed = Removed::default();
        for (name, _) in &doomed {
            removed.images += usize::from(self.inner.records.remove(name)? == Removal::Removed);
        }
        let used: HashSet<Digest> = digests(&kept).collect();
        let candidates: HashSet<Digest> =
            digests(&doomed).filter(|digest| !used.contains(digest)).collect();
        for digest in candidates {
            self.remove_blob(&EntryName::of_digest(&digest), &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes all blobs that no name needs and nobody uses, and records that cannot be read.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn prune(&self) -> Result<Removed, LocalError> {
        let _gate = self.gate(File::lock)?;
        let mut removed = Removed::default();
        for (name, record) in self.entries()? {
            if record.is_none() {
                self.inner.records.remove(&name)?;
            }
        }
        let used = self.used_names()?;
        for entry in self.inner.blobs.entries()? {
            if !used.contains(&entry.name) {
                self.remove_blob(&entry.name, &mut removed)?;
            }
        }
        self.sweep()?;
        Ok(removed)
    }

    fn used_names(&self) -> Result<HashSet<EntryName>, LocalError> {
        Ok(digests(&self.records()?).map(|digest| EntryName::of_digest(&digest)).collect())
    }

    fn remove_blob(&self, name: &EntryName, removed: &mut Removed) -> Result<(), LocalError> {
        let size = fs::metadata(self.inner.blobs.path(name)).map_or(0, |blob| blob.blocks() * 512);
        if self.inner.blobs.remove(name)? == Removal::Removed {
            removed.blobs += 1;
            removed.bytes += size;
        }
        Ok(())
    }

    /// Removes what killed processes left half-written. Returns how many files that were.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn sweep(&self) -> Result<usize, LocalError> {
        Ok(self.inner.blobs.sweep()? + self.inner.records.sweep()?)
    }

    /// What the store occupies.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn usage(&self) -> Result<Usage, LocalError> {
        let used = self.used_names()?;
        let mut usage = Usage { images: self.records()?.len(), ..Usage::default() };
        for entry in self.inner.blobs.entries()? {
            usage.blobs += 1;
            usage.apparent_size += entry.apparent_size;
            usage.allocated_size += entry.allocated_size;
            if !used.contains(&entry.name) {
                usage.reclaimable += entry.allocated_size;
            }
        }
        Ok(usage)
    }
}

fn digests(records: &[(EntryName, Record)]) -> impl Iterator<Item = Digest> {
    records.iter().flat_map(|(_, record)| record.blobs()).map(|blob| blob.digest)
}
