//! `costrel image`: the image store.

mod import;
mod inspect;
mod ls;
mod prune;
mod pull;
mod rm;

use clap::Subcommand;

use crate::{environment::Environment, failure::Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch an image from a registry
    Pull(pull::Arguments),
    /// Take images from an OCI layout or an archive
    Import(import::Arguments),
    /// List the images that are here
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Tell all about images, as JSON
    Inspect(inspect::Arguments),
    /// Forget images
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    /// Remove blobs that no image needs, and the disks of images that have no name any more
    Prune(prune::Arguments),
}

impl Command {
    pub(crate) async fn run(self, environment: &Environment) -> Outcome {
        match self {
            Self::Pull(arguments) => pull::run(&arguments, environment).await,
            Self::Import(arguments) => import::run(&arguments, environment).await,
            Self::Ls(arguments) => ls::run(&arguments, environment),
            Self::Inspect(arguments) => inspect::run(&arguments, environment),
            Self::Prune(arguments) => prune::run(&arguments, environment),
            Self::Rm(arguments) => rm::run(&arguments, environment),
        }
    }
}
