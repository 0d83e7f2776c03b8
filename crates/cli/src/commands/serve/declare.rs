//! Tells the catalogue of declared functions, and of their changes.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use costrel_catalog::{
    AliasChange, ApplyOn, AuthType, Catalog, Configuration, Cors, DeclaredCode, DeclaredFunction,
    EventInvokeChange, FunctionReference, ImageOverrides, InvokeMode, LayerContent, LayerUse,
    PackageType, UrlChange,
};
use tokio::task::JoinHandle;

use super::{functions::Source, printer::Printer, stamp::stamp, watch::Watch};
use crate::{
    declarations::{Declaration, Declarations, DeclaredUrl},
    failure::Failure,
};

/// docker-lambda's words.
pub(super) const CHANGED: &str = "Handler/layer file changed, restarting bootstrap...";

/// Keeps the catalogue's declared functions as they are declared.
pub(super) struct Declarer {
    source: Source,
    catalog: Catalog,
    printer: Arc<Printer>,
    aliases: Vec<(String, String)>,
}

/// Ends the watch when it is dropped.
pub(super) struct Watching(Option<JoinHandle<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl Declarer {
    pub(super) fn new(source: Source, catalog: Catalog, printer: Arc<Printer>) -> Self {
        Self { source, catalog, printer, aliases: Vec::new() }
    }

    /// Declares the functions, and goes on to do so with each change if that is wanted.
    pub(super) fn begin(
        mut self,
        declarations: Declarations,
        watch: bool,
    ) -> Result<Watching, Failure> {
        for note in &declarations.notes {
            self.printer.tell(&format!("note: {note}"));
        }
        let functions = declared(&declarations.functions).map_err(Failure::from)?;
        self.declare(&functions, &declarations.functions);
        if !watch {
            return Ok(Watching(None));
        }
        Ok(Watching(Some(tokio::spawn(self.follow(declarations, functions)))))
    }

    fn declare(&mut self, functions: &[DeclaredFunction], declarations: &[Declaration]) {
        self.catalog.declare(functions.to_vec());
        for declaration in declarations {
            if let Err(error) = self.complete(declaration) {
                self.printer.tell(&format!("note: the function {}: {error}", declaration.name));
            }
        }
    }

    /// What a declared function has besides its code and its configuration.
    fn complete(&mut self, declaration: &Declaration) -> Result<(), String> {
        let reference = FunctionReference::of_name(&*declaration.name);
        let told = |error: costrel_catalog::CatalogError| error.to_string();
        if let Some(events) = &declaration.events {
            let change = EventInvokeChange {
                maximum_retry_attempts: events.retries.map(Into::into),
                maximum_event_age: events.max_age.map(Into::into),
                on_success: events.on_success.clone(),
                on_failure: events.on_failure.clone(),
            };
            self.catalog.put_event_invoke(&reference, change).map_err(told)?;
        }
        if let Some(alias) = &declaration.alias {
            let known = (declaration.name.clone(), alias.clone());
            if !self.aliases.contains(&known) {
                let change = AliasChange {
                    function_version: Some("$LATEST".to_owned()),
                    ..AliasChange::default()
                };
                self.catalog.create_alias(&reference, alias, change).map_err(told)?;
                self.aliases.push(known);
            }
        }
        if declaration.provisioned_concurrency.is_some() {
            return Err("provisioned concurrency needs a published version, and a declared \
                        function has only $LATEST"
                .to_owned());
        }
        Ok(())
    }

    async fn follow(mut self, mut declarations: Declarations, mut known: Vec<DeclaredFunction>) {
        let mut watch = Watch::new(&paths(&self.source, &declarations));
        let mut told = None;
        loop {
            if let Some(obstacle) = watch.obstacle.take() {
                self.printer.tell(&format!(
                    "note: the kernel does not tell of changes ({obstacle}); they are looked for \
                     every 2 seconds"
                ));
            }
            watch.changed().await;
            // Files, and maybe many.
            let source = self.source.clone();
            let read = tokio::task::spawn_blocking(move || {
                let declarations = source.read()?;
                let functions = declared(&declarations.functions)?;
                Ok::<_, Failure>((declarations, functions))
            });
            let Ok(read) = read.await else { return };
            match read {
                Ok((fresh, functions)) => {
                    told = None;
                    let changed = !same(&known, &functions);
                    watch.renew(&paths(&self.source, &fresh));
                    if changed {
                        self.printer.tell(CHANGED);
                        for note in
                            fresh.notes.iter().filter(|note| !declarations.notes.contains(note))
                        {
                            self.printer.tell(&format!("note: {note}"));
                        }
                        self.declare(&functions, &fresh.functions);
                        known = functions;
                    }
                    declarations = fresh;
                }
                // A build may be in its midst, or an editor between two lines.
                Err(failure) => {
                    let message = failure.message();
                    if told.as_ref() != Some(&message) {
                        self.printer.tell(&format!("note: {message}; functions stay as they were"));
                        told = Some(message);
                    }
                    watch.renew(&paths(&self.source, &declarations));
                }
            }
        }
    }
}

/// All that functions are declared by and made of.
fn paths(source: &Source, declarations: &Declarations) -> Vec<PathBuf> {
    let functions = declarations.functions.iter();
    let made_of = functions.flat_map(|function| function.code.iter().chain(&function.layers));
    let mut paths: Vec<PathBuf> =
        made_of.cloned().chain(source.file().map(Path::to_owned)).collect();
    paths.sort();
    paths.dedup();
    paths
}

fn same(known: &[DeclaredFunction], fresh: &[DeclaredFunction]) -> bool {
    known.len() == fresh.len()
        && known.iter().zip(fresh).all(|(one, other)| {
            one.name == other.name
                && one.configuration == other.configuration
                && one.code == other.code
                && one.url == other.url
                && one.reserved_concurrency == other.reserved_concurrency
        })
}

/// What the catalogue is told. The declarations were checked.
fn declared(functions: &[Declaration]) -> io::Result<Vec<DeclaredFunction>> {
    functions.iter().map(one).collect()
}

fn one(function: &Declaration) -> io::Result<DeclaredFunction> {
    let number = |value: Option<u64>, default: u32| {
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    };
    let aws = Configuration::default();
    // With the layers': all of it is one disk.
    let parts = function.code.iter().chain(&function.layers);
    let code = match &function.code {
        Some(path) => {
            let (stamp, image) = (stamp(parts)?, function.image.clone());
            let path = path.canonicalize()?;
            if path.is_dir() {
                DeclaredCode::Directory { path, stamp, image }
            } else {
                DeclaredCode::Zip { path, stamp, image }
            }
        }
        None => DeclaredCode::Image { uri: function.image.clone().unwrap_or_default() },
    };
    let layers = function.layers.iter().map(|path| {
        let path = path.canonicalize()?;
        Ok(LayerUse {
            arn: format!("file://{}", path.display()),
            content: LayerContent::Path(path),
            code_size: 0,
            unzipped_size: 0,
        })
    });
    let is_image = function.runtime.is_none();
    Ok(DeclaredFunction {
        name: function.name.clone(),
        configuration: Configuration {
            description: function.description.clone(),
            runtime: function.runtime.clone(),
            handler: function.handler.clone(),
            timeout: number(function.timeout, aws.timeout),
            memory_size: number(function.memory, aws.memory_size),
            ephemeral_storage: number(function.tmp_size, aws.ephemeral_storage),
            environment: function.environment.clone(),
            layers: layers.collect::<io::Result<_>>()?,
            package_type: if is_image { PackageType::Image } else { PackageType::Zip },
            image: ImageOverrides {
                entry_point: function.entrypoint.clone(),
                command: function.command.clone(),
                working_directory: function.working_directory.clone(),
            },
            snap_start: if function.snap_start {
                ApplyOn::PublishedVersions
            } else {
                ApplyOn::None
            },
            ..aws
        },
        code,
        reserved_concurrency: function.reserved_concurrency,
        tags: BTreeMap::new(),
        url: function.url.as_ref().map(url),
    })
}

fn url(url: &DeclaredUrl) -> UrlChange {
    let some = |words: &Vec<String>| Some(words.clone()).filter(|words| !words.is_empty());
    UrlChange {
        auth_type: Some(if url.iam { AuthType::AwsIam } else { AuthType::None }),
        cors: Some(url.cors.as_ref().map_or_else(Cors::default, |cors| Cors {
            allow_credentials: Some(cors.allow_credentials),
            allow_headers: some(&cors.allow_headers),
            allow_methods: some(&cors.allow_methods),
            allow_origins: some(&cors.allow_origins),
            expose_headers: some(&cors.expose_headers),
            max_age: cors.max_age.map(Into::into),
        })),
        invoke_mode: Some(if url.streams {
            InvokeMode::ResponseStream
        } else {
            InvokeMode::Buffered
        }),
    }
}
