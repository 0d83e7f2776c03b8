//! The catalog itself: what is in memory, what is on disk, and how both change together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use costrel_store::{Digest, EntryName, Store, StoreError};
use tokio::sync::broadcast;

use crate::{
    CatalogError, CodeSigning, Conflict, DiskError, FunctionReference, FunctionVersion, Home,
    Missing, Preparation, Provisioning, Version,
    disk::{Records, at, make_directory},
    layer::LayerRecord,
    record::FunctionRecord,
};

/// The layout of the directory. Another one is not touched.
const FORMAT: &str = "costrel catalog 1\n";

/// Changes that a slow subscriber may be behind.
const CHANGES: usize = 1024;

/// Whose functions these are.
#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// 12 digits.
    pub account_id: String,
    /// Such as `us-east-1`.
    pub region: String,
}

/// All functions and layers of one account in one region. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Catalog {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) home: Arc<Home>,
    pub(crate) functions: Records,
    pub(crate) layers: Records,
    pub(crate) signing: Records,
    /// Never held while the disk is waited for.
    state: RwLock<State>,
    /// Held by the one who changes anything, disk included. Taken before `state`.
    writing: Mutex<()>,
    changes: broadcast::Sender<Change>,
    pub(crate) preparation: RwLock<Option<Arc<dyn Preparation>>>,
    pub(crate) provisioning: RwLock<Option<Arc<dyn Provisioning>>>,
    /// Held for its lock.
    _lock: File,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Those that were uploaded.
    pub(crate) functions: BTreeMap<Arc<str>, Arc<FunctionRecord>>,
    /// Those of files on the host. They hide uploaded ones of the same name.
    pub(crate) declared: BTreeMap<Arc<str>, Arc<FunctionRecord>>,
    pub(crate) layers: BTreeMap<String, Arc<LayerRecord>>,
    pub(crate) signing: BTreeMap<String, Arc<CodeSigning>>,
    /// The function of each URL's id.
    pub(crate) urls: HashMap<String, Arc<str>>,
}

/// A change of a function: of its code, its configuration, or anything else of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its name. It may be gone.
    pub function: Arc<str>,
}

/// Why a catalog cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the functions in {} are in use by another server: stop it, or choose another directory", directory.display())]
    InUse {
        /// Where it is.
        directory: PathBuf,
    },
    /// Another version of this program made it.
    #[error("{} is of a format that this version does not know: {found:?}", path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Its files cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its code cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Catalog {
    /// Opens the catalog in a directory, making it where there is none, and removes what killed
    /// processes left. No other process can open it until all handles are dropped.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, settings: CatalogSettings) -> Result<Self, OpenError> {
        make_directory(directory)?;
        let lock = lock(directory)?;
        check_format(&directory.join("format"))?;
        let root = directory.join(format!("{}.{}", settings.account_id, settings.region));
        let code = Store::open(root.join("code"))?;
        code.sweep()?;
        let CatalogSettings { account_id, region } = settings;
        let functions = Records::open(root.join("functions"))?;
        let layers = Records::open(root.join("layers"))?;
        let signing = Records::open(root.join("signing"))?;
        let mut state = State::default();
        for record in functions.read_all::<FunctionRecord>()? {
            state.insert(false, &Arc::new(record));
        }
        for record in layers.read_all::<LayerRecord>()? {
            state.layers.insert(record.name.clone(), Arc::new(record));
        }
        for record in signing.read_all::<CodeSigning>()? {
            state.signing.insert(record.id.clone(), Arc::new(record));
        }
        let catalog = Self {
            inner: Arc::new(Inner {
                home: Arc::new(Home { account_id, region, code }),
                functions,
                layers,
                signing,
                state: RwLock::new(state),
                writing: Mutex::default(),
                changes: broadcast::channel(CHANGES).0,
                preparation: RwLock::default(),
                provisioning: RwLock::default(),
                _lock: lock,
            }),
        };
        catalog.collect_all()?;
        Ok(catalog)
    }

    /// Whose functions these are.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.inner.home
    }

    /// Tells of each change of a function from now on. A subscriber that is told it lags behind has
    /// missed some: to it, every function may have changed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.inner.changes.subscribe()
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.inner.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is in memory; the disk says the same already.
    pub(crate) fn update_state<T>(&self, update: impl FnOnce(&mut State) -> T) -> T {
        update(&mut self.inner.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn notify(&self, function: &Arc<str>) {
        // Nobody may listen.
        let _ = self.inner.changes.send(Change { function: Arc::clone(function) });
    }

    /// The function that a caller names, whatever its qualifier.
    pub(crate) fn record(
        &self,
        reference: &FunctionReference,
    ) -> Result<Arc<FunctionRecord>, Missing> {
        self.check_home(reference)?;
        let state = self.state();
        let found = state.find(&reference.name).map(|(_, record)| Arc::clone(record));
        found.ok_or_else(|| self.not_found(reference))
    }

    pub(crate) fn check_home(&self, reference: &FunctionReference) -> Result<(), Missing> {
        let home = &self.inner.home;
        let elsewhere = |named: &Option<String>, ours: &str| {
            named.as_deref().is_some_and(|named| named != ours)
        };
        if elsewhere(&reference.account_id, &home.account_id)
            || elsewhere(&reference.region, &home.region)
        {
            return Err(self.not_found(reference));
        }
        Ok(())
    }

    pub(crate) fn not_found(&self, reference: &FunctionReference) -> Missing {
        let home = &self.inner.home;
        let region = reference.region.as_deref().unwrap_or(&home.region);
        let account = reference.account_id.as_deref().unwrap_or(&home.account_id);
        let mut arn = format!(
            "arn:{}:lambda:{region}:{account}:function:{}",
            home.partition(),
            reference.name
        );
        if let Some(qualifier) = &reference.qualifier {
            arn.extend([":", qualifier.as_str()]);
        }
        Missing::Function(arn)
    }

    /// Changes a function: on disk, then in memory, then for whoever subscribed. `edit` sees a copy.
    pub(crate) fn change<T, E>(
        &self,
        reference: &FunctionReference,
        edit: impl FnOnce(&mut FunctionRecord) -> Result<T, E>,
    ) -> Result<T, CatalogError>
    where
        CatalogError: From<E>,
    {
        self.change_any(reference, |_| Ok(()), edit)
    }

    /// The same for what a declared function's files say: of one, it is refused.
    pub(crate) fn change_uploaded<T, E>(
        &self,
        reference: &FunctionReference,
        edit: impl FnOnce(&mut FunctionRecord) -> Result<T, E>,
    ) -> Result<T, CatalogError>
    where
        CatalogError: From<E>,
    {
        let refuse = |declared| match declared {
            true => Err(Conflict::Declared(reference.name.clone())),
            false => Ok(()),
        };
        self.change_any(reference, refuse, edit)
    }

    fn change_any<T, E>(
        &self,
        reference: &FunctionReference,
        check: impl FnOnce(bool) -> Result<(), Conflict>,
        edit: impl FnOnce(&mut FunctionRecord) -> Result<T, E>,
    ) -> Result<T, CatalogError>
    where
        CatalogError: From<E>,
    {
        let writing = self.writing();
        self.check_home(reference)?;
        let (declared, old) = {
            let state = self.state();
            let (declared, record) =
                state.find(&reference.name).ok_or_else(|| self.not_found(reference))?;
            (declared, Arc::clone(record))
        };
        check(declared)?;
        let mut new = (*old).clone();
        let value = edit(&mut new)?;
        if new != *old {
            self.install(&writing, declared, new)?;
        }
        Ok(value)
    }

    /// Puts a function in the place of what has its name.
    pub(crate) fn install(
        &self,
        writing: &MutexGuard<'_, ()>,
        declared: bool,
        record: FunctionRecord,
    ) -> Result<(), CatalogError> {
        if !declared {
            self.inner.functions.write(&record.name, &record)?;
        }
        let record = Arc::new(record);
        let old = self.update_state(|state| state.insert(declared, &record));
        self.provision_anew(old.as_deref(), Some(&record));
        self.notify(&record.name);
        if let Some(old) = old {
            self.collect(writing, old.digests())?;
        }
        Ok(())
    }

    /// A version as others see it.
    pub(crate) fn version(
        &self,
        record: &FunctionRecord,
        version: Version,
    ) -> Option<FunctionVersion> {
        let content = Arc::clone(record.content(version)?);
        let home = Arc::clone(&self.inner.home);
        Some(FunctionVersion { home, name: Arc::clone(&record.name), version, content })
    }

    /// Removes those of these zip files that nothing needs any more.
    pub(crate) fn collect(
        &self,
        _writing: &MutexGuard<'_, ()>,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<(), StoreError> {
        let doomed: BTreeSet<Digest> = {
            let state = self.state();
            let digests: BTreeSet<Digest> = digests.into_iter().collect();
            let kept = state.digests(&digests);
            digests.into_iter().filter(|digest| !kept.contains(digest)).collect()
        };
        for digest in doomed {
            // One that is uploaded again at this moment is in use, and stays.
            self.inner.home.code.remove(&EntryName::of_digest(&digest))?;
        }
        Ok(())
    }

    /// Removes all zip files that nothing needs: those of uploads that came to nothing.
    fn collect_all(&self) -> Result<(), StoreError> {
        let writing = self.writing();
        let entries = self.inner.home.code.entries()?;
        let digest = |name: &EntryName| format!("sha256:{name}").parse().ok();
        self.collect(&writing, entries.iter().filter_map(|entry| digest(&entry.name)))
    }
}

impl State {
    /// A function and whether it is declared.
    pub(crate) fn find(&self, name: &str) -> Option<(bool, &Arc<FunctionRecord>)> {
        let declared = self.declared.get(name).map(|record| (true, record));
        declared.or_else(|| self.functions.get(name).map(|record| (false, record)))
    }

    /// All functions, by name; of two of the same name, the declared one.
    pub(crate) fn all(&self) -> BTreeMap<&Arc<str>, &Arc<FunctionRecord>> {
        self.functions.iter().chain(&self.declared).collect()
    }

    pub(crate) fn insert(
        &mut self,
        declared: bool,
        record: &Arc<FunctionRecord>,
    ) -> Option<Arc<FunctionRecord>> {
        let functions = if declared { &mut self.declared } else { &mut self.functions };
        let old = functions.insert(Arc::clone(&record.name), Arc::clone(record));
        for url in old.iter().flat_map(|old| old.urls.values()) {
            self.urls.remove(&url.id);
        }
        for url in record.urls.values() {
            self.urls.insert(url.id.clone(), Arc::clone(&record.name));
        }
        old
    }

    pub(crate) fn remove(&mut self, declared: bool, name: &str) -> Option<Arc<FunctionRecord>> {
        let functions = if declared { &mut self.declared } else { &mut self.functions };
        let old = functions.remove(name)?;
        for url in old.urls.values() {
            self.urls.remove(&url.id);
        }
        Some(old)
    }

    /// Those of these zip files that something needs.
    fn digests(&self, of: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let functions = self.functions.values().chain(self.declared.values());
        let layers = self.layers.values().flat_map(|layer| layer.digests());
        functions
            .flat_map(|record| record.digests())
            .chain(layers)
            .filter(|digest| of.contains(digest))
            .collect()
    }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(at("lock", &path)(error).into()),
    }
}

fn check_format(path: &Path) -> Result<(), OpenError> {
    match fs::read_to_string(path) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(OpenError::Format { path: path.to_owned(), found }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let draft = path.with_extension("new");
            let write = || -> io::Result<()> {
                let mut file = File::create(&draft)?;
                io::Write::write_all(&mut file, FORMAT.as_bytes())?;
                file.sync_all()?;
                fs::rename(&draft, path)
            };
            Ok(write().map_err(at("write", path))?)
        }
        Err(error) => Err(at("read", path)(error).into()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
