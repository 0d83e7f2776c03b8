//! The cache of staged disks.

use std::{collections::HashSet, fs::File, io, path::Path, thread, time::SystemTime};

use costrel_ext4::{Image, ImageSpec, WriteError, is_intact};
use costrel_store::{Digest, EntryName, Hasher, Removal, Store};

use crate::{
    FunctionSource, ImageLayers, LayerBlob, StageError, StageProgress, StagedDisk, StagedEntry,
    StagedKind, function::FunctionKey, init, layer::LayerStream, merge, tar::TarReader,
};

/// Part of every key. It changes whenever the same input gives other bytes.
const FORMAT: &str = "1";

/// Stages disks into a cache that any number of processes share: each disk is made once.
///
/// All calls block, some of them for seconds.
#[derive(Clone, Debug)]
pub struct Stager {
    images: Store,
    functions: Store,
    inits: Store,
}

impl Stager {
    /// Opens the cache below this directory, making its directories where they are missing.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn open(cache_root: &Path) -> Result<Self, StageError> {
        Ok(Self {
            images: Store::open(cache_root.join("rootfs"))?,
            functions: Store::open(cache_root.join("functions"))?,
            inits: Store::open(cache_root.join("init"))?,
        })
    }

    /// The disk from which all VMs start: the agent as `/sbin/vminitd`, and the directories on
    /// which it mounts.
    ///
    /// # Errors
    /// [`StageError::Agent`] if the binary cannot be read.
    pub fn init_block(&self, agent: &Path) -> Result<StagedDisk, StageError> {
        let binary = init::read(agent)?;
        let key = key("init", |hasher| hasher.field(Digest::of(&binary).as_bytes()));
        stage(&self.inits, key, "init", |image| init::fill(image, &binary))
    }

    /// An image's layers, one on top of the other.
    ///
    /// # Errors
    /// [`StageError`]: a layer that is damaged or has an entry that cannot be honoured, a cache
    /// that cannot be written.
    pub fn image(
        &self,
        image: &ImageLayers,
        progress: &dyn StageProgress,
    ) -> Result<StagedDisk, StageError> {
        let key = image_key(&image.key);
        stage(&self.images, key, "rootfs", |target| stage_layers(target, &image.layers, progress))
    }

    /// A function's code and its layers.
    ///
    /// # Errors
    /// [`StageError::Code`] names what cannot be honoured, and in which of the sources.
    pub fn function(
        &self,
        function: &FunctionSource,
        progress: &dyn StageProgress,
    ) -> Result<StagedDisk, StageError> {
        let content = FunctionKey::of(function)?;
        let key = key("function", |hasher| hasher.field(content.digest().as_bytes()));
        stage(&self.functions, key, "function", |image| content.fill(image, function, progress))
    }

    /// All disks in the cache.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn entries(&self) -> Result<Vec<StagedEntry>, StageError> {
        let mut entries = Vec::new();
        for (kind, store) in self.stores() {
            entries.extend(store.entries()?.into_iter().map(|info| StagedEntry::new(kind, info)));
        }
        Ok(entries)
    }

    /// Removes a disk, unless somebody uses it.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn remove(&self, entry: &StagedEntry) -> Result<Removal, StageError> {
        Ok(self.store(entry.kind).remove(&entry.name)?)
    }

    /// Removes the disk of the image with this [`ImageLayers::key`], unless somebody uses it.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn remove_image(&self, image: &Digest) -> Result<Removal, StageError> {
        Ok(self.images.remove(&EntryName::of_digest(&image_key(image)))?)
    }

    /// Whether somebody uses the disk at this moment.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn is_used(&self, entry: &StagedEntry) -> Result<bool, StageError> {
        Ok(self.store(entry.kind).is_used(&entry.name)?)
    }

    /// The disks of images that are none of these, by their [`ImageLayers::key`].
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn orphans(&self, images: &[Digest]) -> Result<Vec<StagedEntry>, StageError> {
        let kept: HashSet<_> =
            images.iter().map(|image| EntryName::of_digest(&image_key(image))).collect();
        let entries = self.images.entries()?.into_iter();
        Ok(entries
            .filter(|info| !kept.contains(&info.name))
            .map(|info| StagedEntry::new(StagedKind::Image, info))
            .collect())
    }

    /// Removes what killed processes left half-written. Returns how many disks that were.
    ///
    /// # Errors
    /// [`StageError::Store`].
    pub fn sweep(&self) -> Result<usize, StageError> {
        let mut swept = 0;
        for (_, store) in self.stores() {
            swept += store.sweep()?;
        }
        Ok(swept)
    }

    fn store(&self, kind: StagedKind) -> &Store {
        match kind {
            StagedKind::Image => &self.images,
            StagedKind::Function => &self.functions,
            StagedKind::Init => &self.inits,
        }
    }

    fn stores(&self) -> [(StagedKind, &Store); 3] {
        [StagedKind::Image, StagedKind::Function, StagedKind::Init]
            .map(|kind| (kind, self.store(kind)))
    }
}

fn key(kind: &str, add: impl FnOnce(&mut Hasher)) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(kind.as_bytes());
    hasher.field(FORMAT.as_bytes());
    add(&mut hasher);
    hasher.finish()
}

fn image_key(image: &Digest) -> Digest {
    key("image", |hasher| hasher.field(image.as_bytes()))
}

/// The entry of this key; where it is missing, an image that `fill` puts the content into.
fn stage(
    store: &Store,
    key: Digest,
    label: &'static str,
    fill: impl FnOnce(&mut Image<'_>) -> Result<(), StageError>,
) -> Result<StagedDisk, StageError> {
    let name = EntryName::of_digest(&key);
    discard_if_damaged(store, &name)?;
    let write = |file: &File| {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&key.as_bytes()[..16]);
        let mut image = Image::create(file, ImageSpec { uuid, label, created: 0 })?;
        fill(&mut image)?;
        let written = image.finish()?;
        let sealed = |source| WriteError::Io { operation: "seal", source };
        file.set_modified(SEAL).map_err(sealed)?;
        tracing::debug!(%key, size = written.size, nodes = written.nodes, "staged a disk");
        Ok(())
    };
    let lease = store.get_or_create(&name, |draft| {
        let path = store.path(&name);
        write(draft.file()).map_err(|error: StageError| error.at(&path))
    })?;
    Ok(StagedDisk { lease, key })
}

/// Every staged disk was last modified at this time, so that any write to it since shows, at no
/// cost, wherever in its data it went.
const SEAL: SystemTime = SystemTime::UNIX_EPOCH;

fn is_as_staged(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    Ok(file.metadata()?.modified()? == SEAL && is_intact(&file)?)
}

/// A disk that was cut short or overwritten since it was staged, as by a crash of the host, is
/// removed, so that it is staged again.
fn discard_if_damaged(store: &Store, name: &EntryName) -> Result<(), StageError> {
    let Some(lease) = store.get(name)? else { return Ok(()) };
    let path = lease.path().to_owned();
    if is_as_staged(&path).unwrap_or(false) {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "a staged disk is damaged and is staged again");
    drop(lease);
    match store.remove(name)? {
        Removal::Removed | Removal::Absent => Ok(()),
        Removal::InUse => Err(StageError::Damaged { path }),
    }
}

fn stage_layers(
    image: &mut Image<'_>,
    layers: &[LayerBlob],
    progress: &dyn StageProgress,
) -> Result<(), StageError> {
    for (index, layer) in layers.iter().enumerate() {
        let mark = u16::try_from(index + 1).map_err(|_| StageError::TooManyLayers(layers.len()))?;
        let what = format!("layer {} of {}", index + 1, layers.len());
        progress.started(&what, Some(layer.size));
        let failed = |source| StageError::Layer {
            number: index + 1,
            count: layers.len(),
            path: layer.path.clone(),
            source,
        };
        let actual = thread::scope(|scope| {
            let stream = LayerStream::start(scope, layer, progress)
                .map_err(|source| StageError::OpenLayer { path: layer.path.clone(), source })?;
            let mut archive = TarReader::new(stream);
            merge::apply(image, mark, &mut archive).map_err(failed)?;
            archive.drain().map_err(|error| failed(error.into()))?;
            Ok::<_, StageError>(archive.into_source().digest())
        })?;
        if actual != layer.diff_id {
            let (path, expected) = (layer.path.clone(), layer.diff_id);
            return Err(StageError::DiffId { path, expected, actual });
        }
        progress.finished();
    }
    Ok(())
}
