//! Random stacks of layers, merged by umoci and by us.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use costrel_rootfs::{LayerError, Silent, StageError, Stager};
use costrel_store::Digest;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use support::{Layer, Mounted, Tree, check, image, tree};
use tar::EntryType;

/// An entry of a layer.
#[derive(Clone, Debug)]
enum Step {
    Directory(Fields),
    /// With so many bytes.
    File(Fields, u16),
    Symlink(Fields, &'static str),
    /// To one of the files before it.
    HardLink(String, prop::sample::Index),
    Device(Fields),
    Fifo(Fields),
    Whiteout(String),
    Opaque(String),
}

impl Step {
    /// The path in the archive.
    fn path(&self) -> String {
        match self {
            Self::Directory(fields)
            | Self::File(fields, _)
            | Self::Symlink(fields, _)
            | Self::Device(fields)
            | Self::Fifo(fields) => fields.path.clone(),
            Self::HardLink(path, _) => path.clone(),
            Self::Whiteout(path) => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                format!("{parent}/.wh.{name}")
            }
            Self::Opaque(path) => format!("{path}/.wh..wh..opq"),
        }
    }
}

#[derive(Clone, Debug)]
struct Fields {
    path: String,
    mode: u32,
    owner: u64,
    modified: u64,
    attribute: bool,
}

/// Mostly directories have the names of directories, so that most stacks are sound.
fn path() -> impl Strategy<Value = String> {
    let directory = || prop::sample::select(vec!["a", "b", "c"]);
    let leaf = prop_oneof![6 => prop::sample::select(vec!["x", "y", "z"]), 1 => directory()];
    (prop::collection::vec(directory(), 0..3), leaf).prop_map(|(mut names, leaf)| {
        names.push(leaf);
        names.join("/")
    })
}

fn directory_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn fields(path: impl Strategy<Value = String>) -> impl Strategy<Value = Fields> {
    let mode = prop::sample::select(vec![0o644, 0o755, 0o4755, 0o1777, 0o600, 0]);
    (
        path,
        mode,
        prop::sample::select(vec![0, 1000, 70_000, 2_000_000]),
        0..1_400_000_000_u64,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(path, mode, owner, modified, attribute)| Fields {
            path,
            mode,
            owner,
            modified,
            attribute,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let targets =
        vec!["a", "b", "/c", "../d", "a/b", "/", ".", "..", "../../a/c", "nowhere/at/all"];
    prop_oneof![
        5 => fields(directory_path()).prop_map(Step::Directory),
        6 => (fields(path()), 0..9000_u16)
            .prop_map(|(fields, length)| Step::File(fields, length)),
        3 => (fields(path()), prop::sample::select(targets))
            .prop_map(|(fields, target)| Step::Symlink(fields, target)),
        3 => (path(), any::<prop::sample::Index>()).prop_map(|(path, target)| Step::HardLink(path, target)),
        1 => fields(path()).prop_map(Step::Device),
        1 => fields(path()).prop_map(Step::Fifo),
        2 => path().prop_map(Step::Whiteout),
        1 => directory_path().prop_map(Step::Whiteout),
        1 => directory_path().prop_map(Step::Opaque),
    ]
}

fn archives(stack: &[Vec<Step>]) -> Vec<Layer> {
    let mut files = vec!["nowhere".to_owned()];
    stack.iter().map(|steps| archive(steps, &mut files)).collect()
}

fn archive(steps: &[Step], files: &mut Vec<String>) -> Layer {
    let mut layer = Layer::new();
    for step in steps {
        match step {
            Step::Directory(fields) => add(&mut layer, EntryType::Directory, fields, "", b""),
            Step::File(fields, length) => {
                let content: Vec<u8> = (0..*length).map(|n| n.to_le_bytes()[0]).collect();
                files.push(fields.path.clone());
                add(&mut layer, EntryType::Regular, fields, "", &content);
            }
            Step::Symlink(fields, target) => {
                add(&mut layer, EntryType::Symlink, fields, target, b"");
            }
            Step::HardLink(path, target) => {
                let target: &String = target.get(files.as_slice());
                layer.hard_link(path, target);
            }
            Step::Device(fields) => add(&mut layer, EntryType::Char, fields, "", b""),
            Step::Fifo(fields) => add(&mut layer, EntryType::Fifo, fields, "", b""),
            Step::Whiteout(_) | Step::Opaque(_) => {
                layer.file(&step.path(), b"");
            }
        }
    }
    layer
}

fn add(layer: &mut Layer, kind: EntryType, fields: &Fields, link: &str, content: &[u8]) {
    if fields.attribute
        && kind != EntryType::Symlink
        && kind != EntryType::Fifo
        && kind != EntryType::Char
    {
        layer.pax(&[("SCHILY.xattr.user.note", b"a\nb\0c"), ("mtime", b"123456789.987654321")]);
    }
    layer.entry(kind, fields.path.as_bytes(), link.as_bytes(), content, |header| {
        header.set_mode(fields.mode);
        header.set_uid(fields.owner);
        header.set_gid(fields.owner + 1);
        header.set_mtime(fields.modified);
        if kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
    });
}

/// An OCI layout of the layers, unpacked by umoci; what it complains of if it cannot.
fn unpack(directory: &Path, layers: &[Vec<u8>]) -> Result<Tree, String> {
    let layout = directory.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    let stored: Vec<_> = layers.iter().map(|layer| put(layer)).collect();
    let ids: Vec<_> = stored.iter().map(|(digest, _)| format!("\"{digest}\"")).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    let (config, config_size) = put(config.as_bytes());
    let descriptor = |kind: &str, digest: &Digest, size: usize| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}"#
        )
    };
    let layers: Vec<_> = stored
        .iter()
        .map(|(digest, size)| descriptor("layer.v1.tar", digest, *size) + "}")
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{}}},"layers":[{}]}}"#,
        descriptor("config.v1+json", &config, config_size),
        layers.join(",")
    );
    let (manifest, size) = put(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{},"annotations":{{"org.opencontainers.image.ref.name":"t"}}}}]}}"#,
        descriptor("manifest.v1+json", &manifest, size)
    );
    fs::write(layout.join("index.json"), index).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let target = directory.join("unpacked");
    let image = format!("{}:t", layout.display());
    let output = Command::new("umoci")
        .args(["raw", "unpack", "--image", &image])
        .arg(&target)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(tree(&target))
}

fn can_run() -> bool {
    let lacks = |what: &str| {
        eprintln!("SKIPPED: {what}");
        false
    };
    if Command::new("umoci").arg("--version").output().is_err() {
        return lacks("umoci is not installed (package umoci)");
    }
    rustix::process::geteuid().is_root() || lacks("unpacking devices and owners needs root")
}

/// umoci makes the directories that no layer has with the present time.
fn drop_new_times(theirs: &mut Tree, ours: &mut Tree) {
    for (path, found) in theirs {
        if found.modified.0 > 1_500_000_000 {
            found.modified = (0, 0);
            if let Some(ours) = ours.get_mut(path) {
                ours.modified = (0, 0);
            }
        }
    }
}

/// What came of a stack.
enum Verdict {
    Merged,
    Refused { layer: usize, name: String },
}

/// Merges a stack in both ways. What we refuse, umoci must refuse too; that is asked once.
fn compare(stack: &[Vec<Step>], ask: bool) -> Result<Verdict, TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path(), archives(stack));
    let stager = Stager::open(&directory.path().join("cache")).unwrap();
    let theirs = || {
        let bytes: Vec<_> = archives(stack).into_iter().map(Layer::bytes).collect();
        unpack(directory.path(), &bytes)
    };
    let disk = match stager.image(&image, &Silent) {
        Ok(disk) => disk,
        Err(StageError::Layer { number, source: LayerError::Entry { name, source }, .. }) => {
            prop_assert!(!ask || theirs().is_err(), "only we refuse {}: {}", name, source);
            return Ok(Verdict::Refused { layer: number - 1, name });
        }
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let mut theirs = match theirs() {
        Ok(tree) => tree,
        // umoci cannot link a file to itself; GNU tar has nothing to do then, nor have we.
        Err(error) if error.contains("link: no such file or directory") => {
            return Ok(Verdict::Merged);
        }
        Err(error) => return Err(TestCaseError::fail(format!("only umoci refuses: {error}"))),
    };
    check(disk.path());
    let Some(mounted) = Mounted::new(disk.path()) else { return Ok(Verdict::Merged) };
    let mut ours = tree(mounted.path());
    drop_new_times(&mut theirs, &mut ours);
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let (ours, theirs) = (ours.get(path), theirs.get(path));
        prop_assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(path));
    }
    Ok(Verdict::Merged)
}

#[test]
fn merges_as_umoci_does() {
    if !can_run() {
        return;
    }
    let cases = match std::env::var_os("COSTREL_LONG_TESTS") {
        Some(_) => 4000,
        None => 500,
    };
    let counts = Counts::default();
    // Most of the time is other processes'.
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| merge_stacks(cases / THREADS, &counts));
        }
    });
    let [merged, refused] = [&counts.merged, &counts.refused].map(|count| count.load(Relaxed));
    eprintln!("{merged} stacks merged alike, {refused} of them after refusals alike");
}

const THREADS: u32 = 4;

#[derive(Default)]
struct Counts {
    merged: AtomicU32,
    refused: AtomicU32,
}

fn merge_stacks(cases: u32, counts: &Counts) {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let stacks = prop::collection::vec(prop::collection::vec(step(), 1..14), 1..5);
    let result = TestRunner::new(config).run(&stacks, |mut stack| {
        let mut first = true;
        // What is refused is taken out, so that the rest is compared too.
        while let Verdict::Refused { layer, name } = compare(&stack, first)? {
            if first {
                counts.refused.fetch_add(1, Relaxed);
            }
            first = false;
            let before = stack[layer].len();
            stack[layer].retain(|step| step.path() != name);
            prop_assert!(stack[layer].len() < before, "{} is of no step", name);
        }
        counts.merged.fetch_add(1, Relaxed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
