//! Several processes on one cache, and processes that die on it.

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use costrel_rootfs::{ImageLayers, LayerBlob, LayerCompression, Silent, Stager};
use costrel_store::Digest;
use support::{Layer, blob, check};

/// Names the directory in which a child of a test stages.
const DIRECTORY: &str = "COSTREL_TEST_STAGE_DIRECTORY";

fn archive() -> Vec<u8> {
    let mut layer = Layer::new();
    for n in 0..3000_u32 {
        layer.file(&format!("d{}/{n}", n % 50), &n.to_le_bytes().repeat(1000));
    }
    layer.bytes()
}

fn staged(directory: &Path) -> ImageLayers {
    let path = directory.join("layer");
    let diff_id: Digest = fs::read_to_string(directory.join("diff")).unwrap().parse().unwrap();
    let size = fs::metadata(&path).unwrap().len();
    let layer = LayerBlob { path, compression: LayerCompression::Gzip, diff_id, size };
    ImageLayers { key: diff_id, layers: vec![layer] }
}

fn prepare(directory: &Path) {
    let layer = blob(directory, "layer", &archive(), LayerCompression::Gzip);
    fs::write(directory.join("diff"), layer.diff_id.to_string()).unwrap();
}

/// Stages in a process of its own, by running [`child`].
fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    let stager = Stager::open(&directory.join("cache")).unwrap();
    if stager.image(&staged(directory), &Silent).unwrap().built() {
        fs::write(directory.join(format!("built{}", std::process::id())), "").unwrap();
    }
}

#[test]
fn several_processes_stage_once() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let children: Vec<_> = (0..4).map(|_| start(directory.path())).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let entries = fs::read_dir(directory.path()).unwrap();
    let built = entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("built"));
    assert_eq!(built.count(), 1);
}

#[test]
fn a_killed_process_leaves_what_a_sweep_removes() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let stager = Stager::open(&directory.path().join("cache")).unwrap();
    let drafts = || fs::read_dir(directory.path().join("cache/rootfs/.drafts")).unwrap().count();
    for milliseconds in [5, 15, 30, 50, 80, 120, 200, 300] {
        let mut child = start(directory.path());
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        stager.sweep().unwrap();
        assert_eq!(drafts(), 0, "after {milliseconds} ms");
        // Whatever is there is whole.
        for entry in stager.entries().unwrap() {
            check(&entry.path);
            stager.remove(&entry).unwrap();
        }
    }
    let disk = stager.image(&staged(directory.path()), &Silent).unwrap();
    check(disk.path());
    assert_eq!(drafts(), 0);
}
