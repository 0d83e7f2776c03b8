//! How staging tells what it is doing.

/// Is told how staging goes on. Calls may come from several threads.
pub trait StageProgress: Send + Sync {
    /// Something begins, of so many bytes as far as that is known.
    fn started(&self, what: &str, total_bytes: Option<u64>);
    /// So many more bytes of it are done.
    fn advanced(&self, bytes: u64);
    /// It is done.
    fn finished(&self);
}

/// For those who do not want to know.
#[derive(Clone, Copy, Default, Debug)]
pub struct Silent;

impl StageProgress for Silent {
    fn started(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advanced(&self, _bytes: u64) {}
    fn finished(&self) {}
}
