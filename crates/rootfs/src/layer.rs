//! An image's layers as they lie on disk, and the stream of bytes in them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::Scope,
};

use costrel_store::{Digest, Hasher};
use flate2::bufread::MultiGzDecoder;

use crate::StageProgress;

/// How much is handed from thread to thread at once, and how many such pieces there are.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// The layers of an image, the lowest first.
#[derive(Clone, Debug)]
pub struct ImageLayers {
    /// What the staged disk is found by: the digest of the image's manifest or configuration.
    pub key: Digest,
    /// The layers.
    pub layers: Vec<LayerBlob>,
}

/// A layer: a tar archive, maybe compressed.
#[derive(Clone, Debug)]
pub struct LayerBlob {
    /// Where it is.
    pub path: PathBuf,
    /// How it is compressed.
    pub compression: LayerCompression,
    /// The digest of the archive without compression; verified while it is read.
    pub diff_id: Digest,
    /// The size of the blob in bytes, for progress.
    pub size: u64,
}

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerCompression {
    /// Not at all.
    Plain,
    /// gzip, of one member or many.
    Gzip,
    /// Zstandard, of one frame or many.
    Zstd,
}

/// The uncompressed bytes of a layer, inflated by a thread of their own.
pub(crate) struct LayerStream {
    pieces: Receiver<io::Result<Vec<u8>>>,
    used: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
    hasher: Hasher,
}

/// Tells progress how much of the blob was read.
struct Counted<'p, R> {
    source: R,
    progress: &'p dyn StageProgress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.progress.advanced(count as u64);
        Ok(count)
    }
}

impl LayerStream {
    /// Starts reading. If the stream is dropped early, the thread ends.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        layer: &LayerBlob,
        progress: &'scope dyn StageProgress,
    ) -> io::Result<Self> {
        let file = Counted { source: File::open(&layer.path)?, progress };
        let source: Box<dyn Read + Send + 'scope> = match layer.compression {
            LayerCompression::Plain => Box::new(file),
            LayerCompression::Gzip => {
                Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, file)))
            }
            LayerCompression::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
        };
        let (full, pieces) = sync_channel(PIECES);
        let (used, empty) = sync_channel(PIECES + 2);
        scope.spawn(move || inflate(source, &full, &empty));
        Ok(Self { pieces, used, piece: Vec::new(), position: 0, hasher: Hasher::new() })
    }

    /// The digest of all that was read.
    pub(crate) fn digest(self) -> Digest {
        self.hasher.finish()
    }
}

fn inflate(
    mut source: impl Read,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match source.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Nobody may listen any more; then the error is of no interest.
                    let _ = full.send(Err(error));
                    return;
                }
            }
        }
        piece.truncate(filled);
        if filled == 0 || full.send(Ok(piece)).is_err() {
            return;
        }
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for LayerStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.piece.len() {
            // A closed channel is the end of the stream.
            let next = self.pieces.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            self.hasher.update(&next);
            let old = std::mem::replace(&mut self.piece, next);
            self.position = 0;
            // If the thread has ended, the buffer is not needed any more.
            let _ = self.used.try_send(old);
        }
        Ok(&self.piece[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.piece.len());
    }
}
