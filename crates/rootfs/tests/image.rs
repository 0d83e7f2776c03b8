//! What layers can say, and what is refused.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]

mod support;

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use costrel_rootfs::{
    EntryError, ImageLayers, LayerBlob, LayerCompression, LayerError, Silent, StageError,
    StageProgress, StagedDisk, StagedKind, Stager, TarError,
};
use costrel_store::{Digest, Removal};
use support::{Layer, Mounted, Tree, blob, check, image, tree};
use tar::EntryType;

fn stage_in(directory: &Path, layers: Vec<Layer>) -> Result<StagedDisk, StageError> {
    let stager = Stager::open(&directory.join("cache")).unwrap();
    stager.image(&image(directory, layers), &Silent)
}

/// The merged tree, seen through a mount.
fn merged(layers: Vec<Layer>) -> Option<Tree> {
    let directory = tempfile::tempdir().unwrap();
    let disk = stage_in(directory.path(), layers).unwrap();
    check(disk.path());
    Mounted::new(disk.path()).map(|mounted| tree(mounted.path()))
}

fn layer(fill: impl FnOnce(&mut Layer)) -> Layer {
    let mut layer = Layer::new();
    fill(&mut layer);
    layer
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.keys().skip(1).map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn later_layers_win() {
    let Some(tree) = merged(vec![
        layer(|l| {
            l.directory("d/").file("d/kept", b"1").file("d/hidden", b"2").file("replaced", b"3");
            l.directory("opaque/").file("opaque/lower", b"").hard_link("linked", "replaced");
        }),
        layer(|l| {
            // Markers before and after what they do not concern.
            l.file("opaque/before", b"").file("opaque/.wh..wh..opq", b"").file("opaque/after", b"");
            l.file("d/.wh.hidden", b"").directory("replaced/").file("replaced/in", b"4");
            l.file("d/.wh..wh.plnk", b"").hard_link("again", "linked");
        }),
    ]) else {
        return;
    };
    let expected = [
        "again",
        "d",
        "d/kept",
        "linked",
        "opaque",
        "opaque/after",
        "opaque/before",
        "replaced",
        "replaced/in",
    ];
    assert_eq!(paths(&tree), expected);
    assert_eq!(tree[&b"linked"[..]].content, b"3");
    assert_eq!(tree[&b"linked"[..]].same_as, b"again");
}

#[test]
fn long_strange_and_global() {
    let long = "n".repeat(255);
    let deep = format!("{}/{long}", ["directory"; 30].join("/"));
    let target = "t".repeat(4000);
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\n=\0\0";
    let Some(tree) = merged(vec![layer(|l| {
        l.pax(&[("path", deep.as_bytes())]).file("short", b"deep");
        l.entry(
            EntryType::GNULongName,
            b"././@LongLink",
            b"",
            format!("gnu/{long}\0").as_bytes(),
            |_| {},
        );
        l.entry(
            EntryType::GNULongLink,
            b"././@LongLink",
            b"",
            format!("{target}\0").as_bytes(),
            |_| {},
        );
        l.symlink("short", "short");
        l.entry(EntryType::Regular, b"caf\xe9\xff", b"", b"latin", |_| {});
        l.pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("uid", b"4000000000"),
            ("mtime", b"-1.5"),
        ]);
        l.file("capable", b"");
        l.extension(EntryType::XGlobalHeader, &[("gid", b"77"), ("mtime", b"99.000000009")]);
        l.file("global", b"").pax(&[("mtime", b"100")]).file("local", b"");
    })]) else {
        return;
    };
    assert_eq!(tree[deep.as_bytes()].content, b"deep");
    assert_eq!(tree[format!("gnu/{long}").as_bytes()].content, target.as_bytes());
    assert_eq!(tree[&b"caf\xe9\xff"[..]].content, b"latin");
    let capable = &tree[&b"capable"[..]];
    assert_eq!(capable.attributes[&b"security.capability"[..]], capability);
    assert_eq!((capable.user, capable.modified), (4_000_000_000, (-2, 500_000_000)));
    let global = &tree[&b"global"[..]];
    assert_eq!((global.group, global.modified), (77, (99, 9)));
    assert_eq!(tree[&b"local"[..]].modified, (100, 0));
}

#[test]
fn sparse_files_of_every_format_stay_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let sparse = directory.path().join("sparse");
    let file = fs::File::options().read(true).write(true).create_new(true).open(&sparse).unwrap();
    for n in 0..40_u64 {
        file.write_all_at(format!("piece {n}").as_bytes(), n * (100 << 20)).unwrap();
    }
    file.set_len(5 << 30).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let archive = directory.path().join("archive.tar");
        let packed = Command::new("tar")
            .args(format)
            .args(["--sparse", "-C"])
            .arg(directory.path())
            .arg("-cf")
            .arg(&archive)
            .arg("sparse")
            .status();
        if !packed.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: GNU tar is not installed");
            return;
        }
        let bytes = fs::read(&archive).unwrap();
        let layers = vec![blob(directory.path(), "l", &bytes, LayerCompression::Gzip)];
        let stager = Stager::open(&directory.path().join("cache")).unwrap();
        let disk = stager.image(&ImageLayers { key: Digest::of(&bytes), layers }, &Silent).unwrap();
        check(disk.path());
        let metadata = fs::metadata(disk.path()).unwrap();
        assert!(metadata.len() < 8 << 20, "{format:?}: {} bytes", metadata.len());
        assert!(metadata.blocks() * 512 < 1 << 20, "{format:?}");
        let Some(mounted) = Mounted::new(disk.path()) else { return };
        let staged = fs::File::open(mounted.path().join("sparse")).unwrap();
        assert_eq!(staged.metadata().unwrap().len(), 5 << 30);
        for n in 0..40_u64 {
            let (mut ours, mut theirs) = ([0; 20_000], [0; 20_000]);
            let offset = (n * (100 << 20)).saturating_sub(9_000);
            staged.read_exact_at(&mut ours, offset).unwrap();
            file.read_exact_at(&mut theirs, offset).unwrap();
            assert!(ours == theirs, "{format:?} at {offset}");
        }
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layers = || {
        vec![
            layer(|l| {
                for n in 0..3000 {
                    l.file(&format!("d/{n}"), &vec![n.to_string().as_bytes()[0]; n]);
                }
            }),
            layer(|l| {
                l.file("d/.wh.77", b"").file("d/78", b"x");
            }),
        ]
    };
    let bytes = || {
        let directory = tempfile::tempdir().unwrap();
        fs::read(stage_in(directory.path(), layers()).unwrap().path()).unwrap()
    };
    assert!(bytes() == bytes());
}

#[test]
fn an_image_is_staged_once_and_removed_when_unused() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(
        directory.path(),
        vec![layer(|l| {
            l.file("a", b"1");
        })],
    );
    let stager = Stager::open(directory.path()).unwrap();
    let disk = stager.image(&image, &Silent).unwrap();
    assert!(disk.built());
    assert!(!stager.image(&image, &Silent).unwrap().built());
    let entries = stager.entries().unwrap();
    assert_eq!((entries.len(), entries[0].kind), (1, StagedKind::Image));
    assert_eq!(stager.remove_image(&image.key).unwrap(), Removal::InUse);
    drop(disk);
    assert_eq!(stager.remove_image(&image.key).unwrap(), Removal::Removed);
    assert!(stager.entries().unwrap().is_empty());
}

#[test]
fn a_damaged_disk_is_staged_again() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(
        directory.path(),
        vec![layer(|l| {
            l.file("a", b"1");
        })],
    );
    let stager = Stager::open(directory.path()).unwrap();
    let path = stager.image(&image, &Silent).unwrap().path().to_owned();
    let sound = fs::read(&path).unwrap();
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let disk = stager.image(&image, &Silent).unwrap();
    assert!(disk.built());
    assert!(fs::read(&path).unwrap() == sound);
    drop(disk);
    // One byte of a file's content, which no checksum of ext4's covers.
    let content = sound.windows(2).position(|bytes| bytes == b"1\0").unwrap();
    let mut changed = sound.clone();
    changed[content] = b'2';
    fs::write(&path, &changed).unwrap();
    let disk = stager.image(&image, &Silent).unwrap();
    assert!(disk.built());
    assert!(fs::read(&path).unwrap() == sound);
    fs::write(&path, b"").unwrap();
    assert!(matches!(stager.image(&image, &Silent), Err(StageError::Damaged { .. })));
}

/// What a single layer of this content is refused for.
fn refusal(fill: impl FnOnce(&mut Layer)) -> (String, EntryError) {
    let directory = tempfile::tempdir().unwrap();
    match stage_in(directory.path(), vec![layer(fill)]) {
        Err(StageError::Layer { source: LayerError::Entry { name, source }, .. }) => {
            let left = fs::read_dir(directory.path().join("cache/rootfs/.drafts")).unwrap();
            assert_eq!(left.count(), 0);
            (name, source)
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let long = format!("d/{}", "n".repeat(256));
    let (name, error) = refusal(|l| {
        l.pax(&[("path", long.as_bytes())]).file("x", b"");
    });
    assert_eq!(name, long);
    assert!(error.to_string().contains("255"), "{error}");

    let (name, error) = refusal(|l| {
        l.file("a/../../etc/passwd", b"");
    });
    assert_eq!(name, "a/../../etc/passwd");
    assert!(matches!(error, EntryError::Escapes));
    assert!(matches!(
        refusal(|l| {
            l.hard_link("a", "../b");
        })
        .1,
        EntryError::Escapes
    ));
    assert!(matches!(
        refusal(|l| {
            l.hard_link("a", "b");
        })
        .1,
        EntryError::LinkTarget(_)
    ));
    assert!(matches!(
        refusal(|l| {
            l.directory("d").hard_link("a", "d");
        })
        .1,
        EntryError::LinkToDirectory(_)
    ));
    assert!(matches!(
        refusal(|l| {
            l.file("f", b"").file("f/g", b"");
        })
        .1,
        EntryError::NotADirectory(_)
    ));
    assert!(matches!(
        refusal(|l| {
            l.symlink("l", "m").symlink("m", "l").file("l/f", b"");
        })
        .1,
        EntryError::SymlinkLoop
    ));
    let huge = [("GNU.sparse.size", &b"99999999999999999"[..]), ("GNU.sparse.map", b"0,1")];
    let (name, error) = refusal(|l| {
        l.pax(&huge).file("huge", b"x");
    });
    assert!(name == "huge" && matches!(error, EntryError::TooLarge { .. }), "{error}");
    assert!(matches!(
        refusal(|l| {
            l.file(".wh..", b"");
        })
        .1,
        EntryError::Whiteout
    ));
    assert!(matches!(
        refusal(|l| {
            l.symlink("l", "");
        })
        .1,
        EntryError::Tree(_)
    ));
}

fn broken(bytes: &[u8], compression: LayerCompression, cut: usize) -> StageError {
    let directory = tempfile::tempdir().unwrap();
    let layer = blob(directory.path(), "l", bytes, compression);
    let blob = fs::read(&layer.path).unwrap();
    fs::write(&layer.path, &blob[..blob.len() - cut]).unwrap();
    let stager = Stager::open(&directory.path().join("cache")).unwrap();
    stager.image(&ImageLayers { key: Digest::of(b""), layers: vec![layer] }, &Silent).unwrap_err()
}

#[test]
fn damaged_layers_are_refused() {
    let bytes = layer(|l| {
        l.file("a", &[1; 5000]);
    })
    .bytes();
    for compression in [LayerCompression::Gzip, LayerCompression::Zstd] {
        assert!(matches!(
            broken(&bytes, compression, 3),
            StageError::Layer { source: LayerError::Tar(TarError::Read(_)), .. }
        ));
    }
    assert!(matches!(
        broken(&bytes, LayerCompression::Plain, 3000),
        StageError::Layer { source: LayerError::Tar(TarError::Read(_)), .. }
    ));
    // All entries are there, but not all bytes.
    assert!(matches!(broken(&bytes, LayerCompression::Plain, 512), StageError::DiffId { .. }));
    let mut flipped = bytes.clone();
    flipped[10] ^= 1;
    assert!(matches!(
        broken(&flipped, LayerCompression::Plain, 0),
        StageError::Layer { source: LayerError::Tar(TarError::Checksum { .. }), .. }
    ));
    assert!(matches!(
        broken(b"<html>no blob at all", LayerCompression::Gzip, 0),
        StageError::Layer { .. }
    ));
    let layer = LayerBlob {
        path: "/nowhere".into(),
        compression: LayerCompression::Plain,
        diff_id: Digest::of(b""),
        size: 0,
    };
    let directory = tempfile::tempdir().unwrap();
    let stager = Stager::open(directory.path()).unwrap();
    let missing = stager.image(&ImageLayers { key: Digest::of(b""), layers: vec![layer] }, &Silent);
    assert!(matches!(missing, Err(StageError::OpenLayer { .. })));
}

#[test]
fn a_hard_link_too_many_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let staged = |links: usize, hidden: usize| {
        let layers = vec![
            // The first one is compressed, which takes long without optimization.
            layer(|_| {}),
            layer(|l| {
                l.file("file", b"x");
                for number in 1..links {
                    l.hard_link(&format!("d/{number:05}"), "file");
                }
            }),
            layer(|l| {
                for number in 1..=hidden {
                    l.file(&format!("d/.wh.{number:05}"), b"");
                }
            }),
        ];
        let stager = Stager::open(&directory.path().join("cache")).unwrap();
        stager.image(&image(directory.path(), layers), &Silent)
    };
    let error = staged(65_001, 0).unwrap_err();
    // In the order in which the image has them: the root's own names come first.
    assert!(error.to_string().contains("\"d/65000\""), "{error}");
    // What a later layer hides does not count, and 65,000 are allowed.
    check(staged(65_001, 1).unwrap().path());
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Counter(AtomicU64, AtomicU64);
    impl StageProgress for Counter {
        fn started(&self, what: &str, total_bytes: Option<u64>) {
            assert!(what.starts_with("layer "));
            self.0.fetch_add(total_bytes.unwrap(), Ordering::Relaxed);
        }
        fn advanced(&self, bytes: u64) {
            self.1.fetch_add(bytes, Ordering::Relaxed);
        }
        fn finished(&self) {}
    }
    let directory = tempfile::tempdir().unwrap();
    let layers = (0..3)
        .map(|n| {
            layer(|l| {
                l.file("a", &vec![1; n * 9000]);
            })
        })
        .collect();
    let counter = Counter::default();
    Stager::open(&directory.path().join("cache"))
        .unwrap()
        .image(&image(directory.path(), layers), &counter)
        .unwrap();
    assert_eq!(counter.0.into_inner(), counter.1.into_inner());
}

#[test]
fn a_full_disk_is_said_plainly_and_left_clean() {
    let directory = tempfile::tempdir().unwrap();
    let small = directory.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot mount a tmpfs (needs root)");
        return;
    }
    let layers = vec![layer(|l| {
        l.file("big", &[7; 3 << 20]);
    })];
    let image = image(directory.path(), layers);
    let stager = Stager::open(&small).unwrap();
    let failed = stager.image(&image, &Silent);
    let left = fs::read_dir(small.join("rootfs/.drafts")).unwrap().count();
    let entries = stager.entries().unwrap().len();
    Command::new("umount").arg(&small).status().unwrap();
    assert!(matches!(failed, Err(StageError::NoSpace { .. })), "{failed:?}");
    assert_eq!((left, entries), (0, 0));
}
