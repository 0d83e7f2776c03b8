//! A function's disk: code at `/var/task`, layers at `/opt`.

use std::path::PathBuf;

use costrel_ext4::{Content, Image, Kind, Metadata, NodeId};
use costrel_store::{Digest, Hasher};

use crate::{
    CodeError, StageError, StageProgress,
    code::{Budget, Source, Target},
    path::{EntryError, Missing, directory},
};

/// What code and layers may have together, unpacked: Lambda's 250 MiB.
pub const DEFAULT_UNPACKED_LIMIT: u64 = 250 << 20;

/// What a function's disk is made of.
#[derive(Clone, Debug)]
pub struct FunctionSource {
    /// The code, unless it is in the image.
    pub code: Option<CodeSource>,
    /// Layers, as zip files or directories, unpacked to `/opt` one after the other: what comes
    /// later wins.
    pub layers: Vec<PathBuf>,
    /// Where the code is seen.
    pub placement: CodePlacement,
    /// How many bytes code and layers may have together, unpacked.
    pub unpacked_limit: u64,
}

/// A function's code.
#[derive(Clone, Debug)]
pub enum CodeSource {
    /// A directory. What is in it becomes readable to all, whatever its modes.
    Directory(PathBuf),
    /// A zip file. Its modes are kept, as Lambda keeps them; where it gives none, 0644.
    Zip(PathBuf),
}

/// Where a function sees its code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodePlacement {
    /// At `/var/task`.
    Task,
    /// Also at `/var/runtime`, where functions without a managed runtime have their bootstrap.
    TaskAndRuntime,
}

/// The sources, opened, and the digest of what is in them.
#[derive(Debug)]
pub(crate) struct FunctionKey {
    code: Option<(Source, Digest)>,
    layers: Vec<(Source, Digest)>,
    digest: Digest,
}

impl FunctionKey {
    /// Opens and reads all sources.
    pub(crate) fn of(function: &FunctionSource) -> Result<Self, StageError> {
        let mut budget = Budget::new(function.unpacked_limit);
        let mut hasher = Hasher::new();
        let mut open = |path: &PathBuf, opened: Result<Source, CodeError>| {
            opened
                .and_then(|source| {
                    let digest = source.digest(&mut budget)?;
                    hasher.field(digest.as_bytes());
                    Ok((source, digest))
                })
                .map_err(|source| StageError::Code { path: path.clone(), source })
        };
        let code = match &function.code {
            Some(CodeSource::Directory(path)) => Some(open(path, Source::directory(path))?),
            Some(CodeSource::Zip(path)) => Some(open(path, Source::zip(path))?),
            None => None,
        };
        let layers = function
            .layers
            .iter()
            .map(|path| open(path, Source::either(path)))
            .collect::<Result<Vec<_>, _>>()?;
        hasher.field(&[u8::from(code.is_some()), function.placement as u8]);
        // Whether the sources exceed it depends on it.
        hasher.field(&function.unpacked_limit.to_le_bytes());
        Ok(Self { code, layers, digest: hasher.finish() })
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Puts the sources' content into the image.
    pub(crate) fn fill(
        &self,
        image: &mut Image<'_>,
        function: &FunctionSource,
        progress: &dyn StageProgress,
    ) -> Result<(), StageError> {
        let task = make_directory(image, &[b"var", b"task"]);
        let opt = make_directory(image, &[b"opt"]);
        let mut budget = Budget::new(function.unpacked_limit);
        let sources = self.code.iter().map(|code| ("code", task, code));
        let sources = sources.chain(self.layers.iter().map(|layer| ("layer", opt, layer)));
        for (mark, (what, root, (source, digest))) in (1..).zip(sources) {
            progress.started(what, None);
            let mut target = Target { image, root, mark, progress };
            source.unpack(digest, &mut target, &mut budget).map_err(|error| StageError::Code {
                path: source.path().to_owned(),
                source: error,
            })?;
            progress.finished();
        }
        if function.placement == CodePlacement::TaskAndRuntime {
            let runtime = make_directory(image, &[b"var", b"runtime"]);
            link_all(image, task, runtime).map_err(|source| StageError::Code {
                path: self
                    .code
                    .as_ref()
                    .map(|(code, _)| code.path().to_owned())
                    .unwrap_or_default(),
                source: CodeError::Entry { name: "/var/runtime".into(), source },
            })?;
        }
        Ok(())
    }
}

/// A directory of the image's own.
fn make_directory(image: &mut Image<'_>, path: &[&[u8]]) -> NodeId {
    match directory(image.tree_mut(), path, Missing::Create) {
        Ok(Some(node)) => node,
        other => unreachable!("the disk's own directories are sound: {other:?}"),
    }
}

/// Gives everything below one directory a second name below another.
fn link_all(image: &mut Image<'_>, from: NodeId, to: NodeId) -> Result<(), EntryError> {
    let tree = image.tree_mut();
    let mut directories = vec![(from, to)];
    while let Some((from, to)) = directories.pop() {
        let children: Vec<_> = tree
            .children(from)
            .map(|entry| (tree.name(entry).to_vec(), tree.target(entry)))
            .collect();
        for (name, node) in children {
            if tree.kind(node) == Kind::Directory {
                let (mode, modified) = (tree.mode(node), tree.modified(node));
                let metadata = Metadata { mode, modified, ..Metadata::default() };
                let entry = tree.insert(to, &name, Content::Directory, &metadata, 0)?;
                directories.push((node, tree.target(entry)));
            } else {
                tree.link(to, &name, node, 0)?;
            }
        }
    }
    Ok(())
}
