//! Damaged and hostile archives: whatever is in them, they are staged soundly or refused.

mod support;

use std::{fs, io::Write as _, path::Path};

use costrel_rootfs::{
    CodePlacement, CodeSource, FunctionSource, ImageLayers, LayerBlob, LayerCompression, Silent,
    Stager,
};
use costrel_store::Digest;
use proptest::{prelude::*, test_runner::Config};
use support::{Layer, check};
use tar::EntryType;
use zip::{ZipWriter, write::SimpleFileOptions};

fn config() -> Config {
    let cases = match std::env::var_os("COSTREL_LONG_TESTS") {
        Some(_) => 20_000,
        None => 100,
    };
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Bytes of a sound archive, some of which are to be changed.
fn archive() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.directory("d/").file("d/f", &[1; 1000]).symlink("l", "d").hard_link("h", "d/f");
    layer.pax(&[("path", b"long"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]);
    layer.file("short", b"x");
    let map = [("GNU.sparse.size", &b"9000"[..]), ("GNU.sparse.map", b"0,10,5000,5")];
    layer.pax(&map).file("sparse", &[2; 15]);
    let major = [("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.realsize", b"8000")];
    let mut content = b"1\n100\n5\n".to_vec();
    content.resize(512, 0);
    content.extend_from_slice(b"12345");
    layer.pax(&major).file("sparse1", &content);
    layer.entry(EntryType::GNULongName, b"L", b"", b"gnu/long/name\0", |_| {}).file("y", b"");
    layer.file("d/.wh.f", b"").file("d/.wh..wh..opq", b"");
    layer.bytes()
}

fn stage_layer(directory: &Path, bytes: &[u8]) {
    let path = directory.join("layer");
    fs::write(&path, bytes).unwrap();
    let layer = LayerBlob {
        path,
        compression: LayerCompression::Plain,
        diff_id: Digest::of(bytes),
        size: bytes.len() as u64,
    };
    let stager = Stager::open(&directory.join("cache")).unwrap();
    let image = ImageLayers { key: Digest::of(bytes), layers: vec![layer] };
    if let Ok(disk) = stager.image(&image, &Silent) {
        check(disk.path());
    }
    assert_eq!(fs::read_dir(directory.join("cache/rootfs/.drafts")).unwrap().count(), 0);
}

/// Gives every header its checksum, so that the change is not noticed at once.
fn mend(bytes: &mut [u8]) {
    let (blocks, _) = bytes.as_chunks_mut::<512>();
    for block in blocks.iter_mut().filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn zip_bytes() -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    for name in ["a", "d/b", "d/c"] {
        zip.start_file(name, options.large_file(name == "a")).unwrap();
        zip.write_all(&[3; 3000]).unwrap();
    }
    zip.add_symlink("link", "a", options).unwrap();
    zip.finish().unwrap().into_inner()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn changed_layers(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = archive();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        mend(&mut bytes);
        stage_layer(tempfile::tempdir().unwrap().path(), &bytes);
    }

    #[test]
    fn changed_fields(
        block in any::<prop::sample::Index>(),
        field in prop::sample::select(vec![(0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (329, 8)]),
        text in prop::collection::vec(prop_oneof![Just(b'7'), Just(0), Just(0x80), Just(0xff), any::<u8>()], 100),
    ) {
        let mut bytes = archive();
        let at = block.index(bytes.len() / 512) * 512;
        bytes[at + field.0..][..field.1].copy_from_slice(&text[..field.1]);
        mend(&mut bytes);
        stage_layer(tempfile::tempdir().unwrap().path(), &bytes);
    }

    #[test]
    fn changed_zip_files(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = zip_bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("code.zip");
        fs::write(&path, bytes).unwrap();
        let function = FunctionSource {
            code: Some(CodeSource::Zip(path)),
            layers: Vec::new(),
            placement: CodePlacement::TaskAndRuntime,
            unpacked_limit: 1 << 20,
        };
        let stager = Stager::open(&directory.path().join("cache")).unwrap();
        if let Ok(disk) = stager.function(&function, &Silent) {
            check(disk.path());
        }
    }
}
