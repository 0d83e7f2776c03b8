//! Layers: the tar reader, the merge, and the file system that comes of them.
#![no_main]

use std::fs;

use costrel_fuzz::{check, directory};
use costrel_rootfs::{ImageLayers, LayerBlob, LayerCompression, Silent, Stager};
use costrel_store::Digest;
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

/// Gives every header its checksum: no random change would find it.
fn mend(bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<BLOCK>();
    for block in blocks.iter_mut().filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

// The first byte says after how many blocks the second layer begins, the second how the two are
// compressed.
fuzz_target!(|input: &[u8]| {
    let [split, kinds, archives @ ..] = input else { return };
    let mut archives = archives.to_vec();
    mend(&mut archives);
    let split = (usize::from(*split) * BLOCK).min(archives.len());
    let (lower, upper) = archives.split_at(split);
    let directory = directory();
    let layers = [(lower, kinds & 15), (upper, kinds >> 4)].map(|(archive, kind)| {
        // What is compressed is fuzzed as such; what it unpacks to is not known then.
        let compression = match kind {
            1 => LayerCompression::Gzip,
            2 => LayerCompression::Zstd,
            _ => LayerCompression::Plain,
        };
        let path = directory.join(format!("layer{}", archive.as_ptr() == upper.as_ptr()));
        fs::write(&path, archive).expect("a file");
        LayerBlob { path, compression, diff_id: Digest::of(archive), size: archive.len() as u64 }
    });
    let stager = Stager::open(&directory.join("cache")).expect("a cache");
    let key = Digest::of(b"");
    if let Ok(disk) = stager.image(&ImageLayers { key, layers: layers.to_vec() }, &Silent) {
        check(disk.path());
    }
    stager.remove_image(&key).expect("it is not in use");
});
