//! `costrel snapshot`: what is kept of initialised functions.

mod ls;
mod prune;
mod rm;

use clap::Subcommand;

use crate::{environment::Environment, failure::Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the snapshots that are here, the one that was used last first
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Remove snapshots: the functions are booted the next time
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    /// Remove the snapshots that were not used for longest, where they take too much room
    Prune(prune::Arguments),
}

impl Command {
    pub(crate) fn run(self, environment: &Environment) -> Outcome {
        match self {
            Self::Ls(arguments) => ls::run(&arguments, environment),
            Self::Rm(arguments) => rm::run(&arguments, environment),
            Self::Prune(arguments) => prune::run(&arguments, environment),
        }
    }
}
