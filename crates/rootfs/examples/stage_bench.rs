//! Stages tarballs as an image's layers, and says how long that took and how much memory.
//!
//! `stage_bench DIRECTORY LAYER.tar[.gz|.zst]…` keeps the disk image in DIRECTORY and prints one
//! line: its path, seconds, peak memory in KiB (`VmHWM`), bytes of the image and bytes allocated.
#![expect(clippy::print_stdout, reason = "an example prints its findings")]

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use costrel_rootfs::{ImageLayers, LayerBlob, LayerCompression, Silent, Stager};
use costrel_store::{Digest, Hasher};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let directory = arguments.next().ok_or("usage: stage_bench DIRECTORY LAYER…")?;
    let layers = arguments.map(layer).collect::<Result<Vec<_>, _>>()?;
    let image = ImageLayers { key: Digest::of(&std::process::id().to_le_bytes()), layers };
    let stager = Stager::open(&directory)?;

    let started = Instant::now();
    let disk = stager.image(&image, &Silent)?;
    let seconds = started.elapsed().as_secs_f64();

    let metadata = fs::metadata(disk.path())?;
    println!(
        "{} {seconds:.3} s, {} KiB peak, {} bytes, {} allocated",
        disk.path().display(),
        peak_memory()?,
        metadata.len(),
        metadata.blocks() * 512,
    );
    Ok(())
}

/// The layer, its diff id taken from a file beside it (`LAYER.diffid`) or found out beforehand.
fn layer(path: PathBuf) -> Result<LayerBlob, Failure> {
    let compression = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "tgz") => LayerCompression::Gzip,
        Some("zst") => LayerCompression::Zstd,
        _ => LayerCompression::Plain,
    };
    let noted = path.with_extension("diffid");
    let diff_id = match fs::read_to_string(&noted) {
        Ok(text) => text.trim().parse()?,
        Err(_) => {
            let digest = uncompressed(&path, compression)?;
            fs::write(&noted, digest.to_string())?;
            digest
        }
    };
    let size = fs::metadata(&path)?.len();
    Ok(LayerBlob { path, compression, diff_id, size })
}

fn uncompressed(path: &Path, compression: LayerCompression) -> Result<Digest, Failure> {
    let file = io::BufReader::new(File::open(path)?);
    let mut source: Box<dyn Read> = match compression {
        LayerCompression::Plain => Box::new(file),
        LayerCompression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        LayerCompression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
    };
    let mut hasher = Hasher::new();
    io::copy(&mut source, &mut hasher)?;
    Ok(hasher.finish())
}

/// The most memory that the process ever had, in KiB; 0 where the system does not say.
fn peak_memory() -> Result<u64, Failure> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Ok(0) };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.unwrap_or("0").parse()?)
}
