//! Archives with whole images: what `docker save` and skopeo write, and what nobody should.
#![no_main]

use std::fs;

use costrel_fuzz::directory;
use costrel_image::{ImageStore, NoProgress, Platform, StoreSettings};
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

fuzz_target!(|input: &[u8]| {
    let directory = directory();
    let path = directory.join("image.tar");
    let mut archive = input.to_vec();
    mend(&mut archive);
    fs::write(&path, archive).expect("a file");
    let store = ImageStore::open(&directory.join("store"), StoreSettings::default());
    let store = store.expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let images = runtime.block_on(store.import(&path, None, &Platform::host(), &NoProgress));
    for image in images.into_iter().flatten() {
        store.remove(&image.reference).expect("a store");
    }
    store.prune().expect("a store");
});
