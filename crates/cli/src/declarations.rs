//! Functions that are declared in files, or on the command line, instead of being made over the API.

mod manifest;
mod template;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// The names that a directory's declarations may have, in the order in which they are looked for.
const FILES: [&str; 4] = ["costrel.toml", "template.yaml", "template.yml", "template.json"];

/// A function as its owner declares it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) runtime: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) working_directory: Option<String>,
    /// A directory or a zip file.
    pub(crate) code: Option<PathBuf>,
    pub(crate) handler: Option<String>,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) memory: Option<u64>,
    pub(crate) timeout: Option<u64>,
    pub(crate) tmp_size: Option<u64>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) url: Option<DeclaredUrl>,
    pub(crate) snap_start: bool,
    /// An alias of a version that is published of what is declared.
    pub(crate) alias: Option<String>,
    pub(crate) reserved_concurrency: Option<u32>,
    pub(crate) provisioned_concurrency: Option<u32>,
    pub(crate) events: Option<DeclaredEvents>,
}

/// A function URL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DeclaredUrl {
    /// Whether its callers must sign.
    pub(crate) iam: bool,
    /// Whether responses go out piece by piece.
    pub(crate) streams: bool,
    pub(crate) cors: Option<DeclaredCors>,
}

/// Which web pages may call a function URL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DeclaredCors {
    pub(crate) allow_credentials: bool,
    pub(crate) allow_headers: Vec<String>,
    pub(crate) allow_methods: Vec<String>,
    pub(crate) allow_origins: Vec<String>,
    pub(crate) expose_headers: Vec<String>,
    pub(crate) max_age: Option<u32>,
}

/// What becomes of a function's asynchronous invocations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DeclaredEvents {
    pub(crate) retries: Option<u32>,
    pub(crate) max_age: Option<u32>,
    pub(crate) on_success: Option<String>,
    pub(crate) on_failure: Option<String>,
}

/// What a file declares.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Declarations {
    pub(crate) functions: Vec<Declaration>,
    /// What of it is not supported, or stands for something else here: for people.
    pub(crate) notes: Vec<String>,
}

/// What templates are computed with.
#[derive(Clone, Debug)]
pub(crate) struct TemplateSettings {
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) account_id: String,
    pub(crate) region: String,
}

/// The file that declares the functions of that path: itself, or one of the known names in it.
pub(crate) fn find(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        let extension = path.extension()?.to_str()?;
        return ["toml", "yaml", "yml", "json", "template"]
            .contains(&extension)
            .then(|| path.to_owned());
    }
    FILES.iter().map(|name| path.join(name)).find(|file| file.is_file())
}

/// Reads the functions that a file declares.
pub(crate) fn read(file: &Path, settings: &TemplateSettings) -> Result<Declarations, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    let directory = match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let mut declarations = if file.extension().is_some_and(|extension| extension == "toml") {
        if let Some(name) = settings.parameters.keys().next() {
            return Err(Failure::usage(format!(
                "--parameter {name}: {} has no parameters, templates have",
                file.display()
            )));
        }
        manifest::read(&text, directory)
            .map_err(|message| Failure::usage(format!("{}: {message}", file.display())))?
    } else {
        let found = template::read(&text, directory, settings).map_err(|error| {
            Failure::usage(format!("{}:{}: {}", file.display(), error.line, error.message))
        })?;
        let note =
            |note: &template::Note| format!("{}:{}: {}", file.display(), note.line, note.text);
        Declarations { notes: found.notes.iter().map(note).collect(), functions: found.functions }
    };
    if let Some(twice) = duplicate(&declarations.functions) {
        return Err(Failure::usage(format!(
            "{}: two functions have the name {twice}",
            file.display()
        )));
    }
    declarations.functions.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(declarations)
}

fn duplicate(functions: &[Declaration]) -> Option<&str> {
    let mut names: Vec<&str> = functions.iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}
