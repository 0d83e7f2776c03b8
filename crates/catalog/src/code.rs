//! Uploaded zip files: looked into, kept once, handed out.

use std::{
    fs::File,
    io::{self, Cursor, Write as _},
};

use costrel_rootfs::DEFAULT_UNPACKED_LIMIT;
use costrel_store::{Digest, EntryName, Lease};

use crate::{Catalog, CatalogError, Code, Invalid};

/// What a zip file may have when it is uploaded, in bytes: Lambda's 50 MiB.
pub const UPLOAD_LIMIT: usize = 50 << 20;

/// A zip file in the catalog that nothing needs yet. Dropped before it is used, it is removed.
#[derive(Debug)]
pub struct UploadedCode {
    catalog: Catalog,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) unzipped_size: u64,
    /// None only while it is dropped.
    lease: Option<Lease>,
}

/// A zip file of the catalog, open. It stays readable when it is removed.
#[derive(Debug)]
pub struct CodeFile {
    /// The file, at its beginning.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

impl Catalog {
    /// Looks into a zip file and keeps it. Waits for the disk.
    ///
    /// # Errors
    /// [`CatalogError::UploadSize`]; [`Invalid::Unzip`], [`Invalid::EmptyZip`],
    /// [`Invalid::Unzipped`]; what the disk says.
    pub fn upload(&self, zip: &[u8]) -> Result<UploadedCode, CatalogError> {
        if zip.len() > UPLOAD_LIMIT {
            return Err(CatalogError::UploadSize { size: zip.len(), limit: UPLOAD_LIMIT });
        }
        let unzipped_size = unzipped_size(zip)?;
        let digest = Digest::of(zip);
        let lease = self
            .home()
            .code
            .get_or_create(&EntryName::of_digest(&digest), |draft| draft.file().write_all(zip))?;
        Ok(UploadedCode {
            catalog: self.clone(),
            digest,
            size: zip.len() as u64,
            unzipped_size,
            lease: Some(lease),
        })
    }

    /// Opens a zip file that a function or a layer needs. None: nothing does.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_code(&self, digest: &Digest) -> io::Result<Option<CodeFile>> {
        match File::open(self.home().code.path(&EntryName::of_digest(digest))) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some(CodeFile { file, size }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl UploadedCode {
    /// It as a function's code.
    #[must_use]
    pub fn code(&self) -> Code {
        let Self { digest, size, unzipped_size, .. } = *self;
        Code::Zip { digest, size, unzipped_size }
    }
}

impl Drop for UploadedCode {
    fn drop(&mut self) {
        drop(self.lease.take());
        let writing = self.catalog.writing();
        // What cannot be removed now is removed by the next start.
        let _ = self.catalog.collect(&writing, [self.digest]);
    }
}

/// What all files of a zip file have together, as its directory tells. Whoever unpacks it checks
/// that it tells the truth.
fn unzipped_size(zip: &[u8]) -> Result<u64, Invalid> {
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).map_err(|_| Invalid::Unzip)?;
    if archive.is_empty() {
        return Err(Invalid::EmptyZip);
    }
    let mut total: u64 = 0;
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|_| Invalid::Unzip)?;
        total = total.saturating_add(file.size());
    }
    if total > DEFAULT_UNPACKED_LIMIT {
        return Err(Invalid::Unzipped);
    }
    Ok(total)
}
