//! What functions there are: versions, aliases, layers and their settings, on disk.
//!
//! A [`Catalog`] is all that the control plane of Lambda knows of one account in one region. What
//! was uploaded is on disk, a small file a function ([`Catalog::open`]); what was declared from a
//! directory is in memory only ([`Catalog::declare`]). Both are listed and resolved alike.
//!
//! ```text
//! DIRECTORY/format                           which layout this is
//! DIRECTORY/lock                             held by the one process that uses it
//! DIRECTORY/ACCOUNT.REGION/functions/NAME    a function: $LATEST, versions, aliases, settings
//! DIRECTORY/ACCOUNT.REGION/layers/NAME       a layer's versions
//! DIRECTORY/ACCOUNT.REGION/signing/ID        a code signing configuration
//! DIRECTORY/ACCOUNT.REGION/code/DIGEST       a zip file, once, whoever uses it
//! ```
//! Each of these files appears by a rename, complete and synced, and a change is one such rename: a
//! process that is killed leaves what was before it or what comes after. Code is written before what
//! names it, and removed after it, so that what is named is there.
//!
//! Reading is cheap and never waits for the disk. What changes the catalog waits for the disk:
//! asynchronous callers run it where they may block. Errors are told in AWS's words
//! ([`CatalogError`]).

mod account;
mod alias;
mod catalog;
mod code;
mod configuration;
mod create;
mod declare;
mod delete;
mod disk;
mod error;
mod event_invoke;
mod home;
mod hooks;
mod layer;
mod list;
mod management;
mod page;
mod policy;
mod prepare;
mod provisioned;
mod publish;
mod record;
mod reference;
mod reserved;
mod resolve;
mod signing;
mod spec;
mod tags;
mod update;
mod url;
mod validate;
mod version;
mod violations;

pub use account::AccountUsage;
pub use alias::{Alias, AliasChange, AliasDescription};
pub use catalog::{Catalog, CatalogSettings, Change, OpenError};
pub use code::{CodeFile, UPLOAD_LIMIT, UploadedCode};
pub use configuration::{
    ApplyOn, Configuration, FileSystem, ImageOverrides, LayerContent, LayerUse, LogFormat, Logging,
    PackageType, TracingMode, Vpc,
};
pub use create::CreateFunction;
pub use declare::{DeclaredCode, DeclaredFunction};
pub use disk::DiskError;
pub use error::{CatalogError, Conflict, Invalid, Missing};
pub use event_invoke::{EventInvoke, EventInvokeChange, EventInvokeDescription};
pub use home::{Home, LayerArn};
pub use hooks::{
    Preparation, PreparationFailure, PreparationTicket, ProvisionedState, ProvisionedStatus,
    Provisioning,
};
pub use layer::{LayerDescription, LayerFilter, LayerSummary, PublishLayer};
pub use list::FunctionListing;
pub use management::{RecursiveLoop, RuntimeManagement, UpdateRuntimeOn};
pub use page::{Page, PageRequest};
pub use policy::{Permission, PolicyDocument};
pub use provisioned::ProvisionedDescription;
pub use publish::PublishVersion;
pub use reference::{FunctionReference, ReferenceError};
pub use resolve::{ResolveError, Resolved};
pub use signing::{CodeSigning, CodeSigningChange, CodeSigningPolicy};
pub use spec::SpecError;
pub use update::{ConfigurationChange, NewCode, UpdateCode};
pub use url::{AuthType, Cors, InvokeMode, UrlChange, UrlConfig, UrlDescription};
pub use version::{Code, FunctionVersion, State, Version, VersionContent};
pub use violations::{Violation, Violations};
