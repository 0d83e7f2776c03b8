use super::*;

/// A catalog of its own.
pub(crate) fn catalog() -> (tempfile::TempDir, Catalog) {
    let directory = tempfile::tempdir().unwrap();
    let catalog = open(&directory).unwrap();
    (directory, catalog)
}

pub(crate) fn open(directory: &tempfile::TempDir) -> Result<Catalog, OpenError> {
    let settings =
        CatalogSettings { account_id: "123456789012".into(), region: "us-east-1".into() };
    Catalog::open(&directory.path().join("catalog"), settings)
}
