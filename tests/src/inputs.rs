//! What the tests work on.

use std::path::{Path, PathBuf};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

fn target() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target)
}

fn made(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: `make test` makes it", path.display());
    path
}

/// The installation's root.
#[must_use]
pub fn installation() -> PathBuf {
    made(target().join("costrel"))
}

/// The agent.
#[must_use]
pub fn vminitd() -> PathBuf {
    made(installation().join("lib/costrel/vminitd"))
}

/// The guest kernel.
#[must_use]
pub fn kernel() -> PathBuf {
    made(installation().join("lib/costrel/vmlinux"))
}

/// An OCI layout: Debian's python3.11 with AWS's runtime client.
#[must_use]
pub fn python_image() -> PathBuf {
    made(target().join("test-inputs/python-image"))
}

/// An OCI layout: Node.js 22 with AWS's runtime client, on Debian's packages.
#[must_use]
pub fn node_image() -> PathBuf {
    made(target().join("test-inputs/node-image"))
}

/// A zip file with a static `bootstrap` on the `lambda_runtime` crate.
#[must_use]
pub fn rust_function() -> PathBuf {
    made(target().join("test-inputs/rust-function.zip"))
}

/// A layer with an extension on the `lambda-extension` crate.
#[must_use]
pub fn rust_extension() -> PathBuf {
    made(target().join("test-inputs/rust-extension.zip"))
}

/// A file or directory of `examples/`.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    made(workspace().join("examples").join(name))
}

/// A file of `scripts/`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    made(workspace().join("scripts").join(name))
}

/// Zips the example layer, with a text file beside it, into `directory`.
///
/// # Panics
/// If `zip` is missing or fails.
#[must_use]
pub fn layer_zip(directory: &Path) -> PathBuf {
    let layer = directory.join("layer.zip");
    std::fs::write(directory.join("greeting.txt"), "from a layer").expect("a text file");
    for (from, what) in [(example("python-layer").as_path(), "python"), (directory, "greeting.txt")]
    {
        let status = std::process::Command::new("zip")
            .args(["-qrX"])
            .arg(&layer)
            .args([what, "-x", "*__pycache__*"])
            .current_dir(from)
            .status();
        assert!(status.expect("zip is not installed").success());
    }
    layer
}
