//! Functions of files on the host: listed and invoked like uploaded ones, and followed as they
//! change.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;

use crate::{
    Catalog, Code, Configuration, State, UrlChange, VersionContent, record::FunctionRecord,
    url::new_url, version::new_revision,
};

/// A function of a directory, of `costrel.toml` or of a template.
#[derive(Clone, Debug)]
pub struct DeclaredFunction {
    /// Its name.
    pub name: String,
    /// Its configuration; layers are paths ([`crate::LayerContent::Path`]).
    pub configuration: Configuration,
    /// Its code.
    pub code: DeclaredCode,
    /// Concurrency that is reserved for it.
    pub reserved_concurrency: Option<u32>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its URL.
    pub url: Option<UrlChange>,
}

/// The code of a declared function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeclaredCode {
    /// A directory.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What stands for the content of the directory and of the layers: another one is a change.
        stamp: String,
        /// What its runtime comes in, in place of the runtime's own image: a source of images
        /// ([`costrel_image::ImageSource::parse`]).
        image: Option<String>,
    },
    /// A zip file.
    Zip {
        /// Where it is.
        path: PathBuf,
        /// As for directories.
        stamp: String,
        /// As for directories.
        image: Option<String>,
    },
    /// An image.
    Image {
        /// A source of images ([`costrel_image::ImageSource::parse`]).
        uri: String,
    },
}

impl Catalog {
    /// Replaces all declared functions by these. One whose code or configuration is another gets a
    /// new revision; one that stays the same keeps its own. Aliases and policies that were given to
    /// one since stay until it is declared no more. Nothing of this is on disk.
    pub fn declare(&self, functions: Vec<DeclaredFunction>) {
        let _writing = self.writing();
        let old: Vec<(Arc<str>, Arc<FunctionRecord>)> = {
            let state = self.state();
            state.declared.iter().map(|(name, old)| (Arc::clone(name), Arc::clone(old))).collect()
        };
        let mut changed = Vec::new();
        let mut kept = Vec::new();
        for function in functions {
            let before = old.iter().find(|(name, _)| **name == *function.name);
            let record = declared(function, before.map(|(_, record)| &**record));
            kept.push(Arc::clone(&record.name));
            if before.is_none_or(|(_, before)| **before != record) {
                changed.push(Arc::new(record));
            }
        }
        let gone: Vec<_> = old.into_iter().filter(|(name, _)| !kept.contains(name)).collect();
        self.update_state(|state| {
            for (name, _) in &gone {
                state.remove(true, name);
            }
            for record in &changed {
                state.insert(true, record);
            }
        });
        let names = gone.iter().map(|(name, _)| name).chain(changed.iter().map(|new| &new.name));
        names.for_each(|name| self.notify(name));
    }
}

fn declared(function: DeclaredFunction, before: Option<&FunctionRecord>) -> FunctionRecord {
    let DeclaredFunction { name, configuration, code, reserved_concurrency, tags, url } = function;
    let code = match code {
        DeclaredCode::Directory { path, stamp, image } => Code::Directory { path, stamp, image },
        DeclaredCode::Zip { path, stamp, image } => Code::File { path, stamp, image },
        DeclaredCode::Image { uri } => Code::Image { uri },
    };
    let same = before.filter(|before| {
        before.latest.code == code && before.latest.configuration == configuration
    });
    let mut record = match (same, before) {
        (Some(same), _) => same.clone(),
        (None, before) => {
            let content = VersionContent {
                revision_id: new_revision(),
                configuration,
                code,
                last_modified: Timestamp::now(),
                state: State::Active,
            };
            match before {
                Some(before) => FunctionRecord { latest: Arc::new(content), ..before.clone() },
                None => FunctionRecord::new(&name, content),
            }
        }
    };
    record.reserved = reserved_concurrency;
    record.tags = tags;
    match url {
        None => {
            record.urls.remove("");
        }
        Some(change) => match record.urls.get_mut("") {
            Some(url) => change.apply(url),
            None => {
                let mut url = new_url();
                change.apply(&mut url);
                record.urls.insert(String::new(), url);
            }
        },
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FunctionReference, catalog::tests::catalog};

    fn function(stamp: &str) -> DeclaredFunction {
        DeclaredFunction {
            name: "f".into(),
            configuration: Configuration { memory_size: 256, ..Configuration::default() },
            code: DeclaredCode::Directory { path: "/app".into(), stamp: stamp.into(), image: None },
            reserved_concurrency: Some(2),
            tags: BTreeMap::new(),
            url: None,
        }
    }

    #[test]
    fn only_a_change_makes_a_revision_and_is_told() {
        let (_directory, catalog) = catalog();
        let mut changes = catalog.subscribe();
        let reference = FunctionReference::of_name("f");
        let revision = || catalog.resolve(&reference).unwrap().version.content.revision_id.clone();
        catalog.declare(vec![function("1")]);
        let first = revision();
        catalog.declare(vec![function("1")]);
        assert_eq!(revision(), first);
        catalog.declare(vec![function("2")]);
        assert_ne!(revision(), first);
        catalog.declare(vec![]);
        assert!(catalog.resolve(&reference).is_err());
        let told: Vec<_> =
            std::iter::from_fn(|| changes.try_recv().ok()).map(|change| change.function).collect();
        assert_eq!(told, ["f".into(), "f".into(), "f".into()]);
    }
}
