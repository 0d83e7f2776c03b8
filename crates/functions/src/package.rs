//! What a function's code comes in, and how its runtime is launched.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
};

use costrel_image::ImageSource;
use costrel_rootfs::CodeSource;

use crate::Runtime;

/// What a function is made of.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where its root file system comes from; nothing for a static `bootstrap`.
    pub image: Option<ImageSource>,
    /// The code at /var/task, where it is not in the image.
    pub code: Option<CodeSource>,
    /// How the runtime starts.
    pub launch: Launch,
}

/// How a function's runtime starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Launch {
    /// By the first `bootstrap` of /var/task, /opt and /var/runtime, as AWS's runtimes do.
    Bootstrap(Runtime),
    /// By the image's entry point, with the handler in the place of its command if there is one.
    Entrypoint,
}

/// Whether the `bootstrap` of this code can run only with an image around it: it is a script or
/// asks for a dynamic loader, or there is none that could be looked at here.
///
/// # Errors
/// What the system said of reading the code.
pub fn needs_image(code: &CodeSource) -> io::Result<bool> {
    let interpreted = match code {
        CodeSource::Directory(path) => is_interpreted(File::open(path.join("bootstrap"))?)?,
        CodeSource::Zip(path) => is_interpreted(io::Cursor::new(bootstrap_of_zip(path)?))?,
    };
    Ok(interpreted)
}

fn bootstrap_of_zip(path: &Path) -> io::Result<Vec<u8>> {
    // The program headers stand at the front; a loader's name does not matter.
    const FRONT: u64 = 64 << 10;
    let mut archive =
        zip::ZipArchive::new(io::BufReader::new(File::open(path)?)).map_err(io::Error::other)?;
    let bootstrap = archive.by_name("bootstrap").map_err(io::Error::other)?;
    let mut front = Vec::new();
    bootstrap.take(FRONT).read_to_end(&mut front)?;
    Ok(front)
}

/// Whether an executable is anything but an ELF file without a PT_INTERP segment.
///
/// Specification: System V ABI, "Object Files", ELF64 and ELF32, both little-endian.
fn is_interpreted(mut file: impl Read + Seek) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut header = [0; 64];
    if let Err(error) = file.read_exact(&mut header) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(true) } else { Err(error) };
    }
    let number = |at: usize, length: usize| {
        header[at..at + length]
            .iter()
            .rev()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    if &header[..4] != b"\x7fELF" || header[5] != 1 {
        return Ok(true);
    }
    let (table, entry_size, count) = match header[4] {
        2 => (number(32, 8), number(54, 2), number(56, 2)),
        1 => (number(28, 4), number(42, 2), number(44, 2)),
        _ => return Ok(true),
    };
    for index in 0..count {
        let mut kind = [0; 4];
        file.seek(io::SeekFrom::Start(table.saturating_add(index * entry_size)))?;
        if file.read_exact(&mut kind).is_err() || u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segments: &[u32]) -> io::Cursor<Vec<u8>> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = u8::try_from(segments.len()).unwrap();
        for kind in segments {
            file.extend(kind.to_le_bytes());
            file.extend([0; 52]);
        }
        io::Cursor::new(file)
    }

    #[test]
    fn only_a_static_elf_file_stands_alone() {
        assert!(!is_interpreted(elf(&[1, 1, 2])).unwrap());
        assert!(is_interpreted(elf(&[6, 3, 1])).unwrap());
        assert!(is_interpreted(io::Cursor::new(b"#!/bin/sh\n")).unwrap());
        assert!(is_interpreted(io::Cursor::new(vec![b'#'; 100])).unwrap());
        let mut cut = elf(&[1, 1]).into_inner();
        cut.truncate(70);
        assert!(is_interpreted(io::Cursor::new(cut)).unwrap());
    }
}
