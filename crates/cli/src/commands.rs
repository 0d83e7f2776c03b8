//! One module a command.

mod df;
mod doctor;
mod image;
mod inspect;
mod invoke;
mod snapshot;

use clap::Subcommand;

use crate::{environment::Environment, failure::Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a Lambda function once, in a virtual machine of its own
    Invoke(Box<invoke::Arguments>),
    /// Show the sandboxes that run, as JSON
    Inspect(inspect::Arguments),
    /// Manage OCI images
    #[command(subcommand)]
    Image(image::Command),
    /// Manage the snapshots of initialised functions
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Show what images, disks, snapshots and sandboxes occupy
    Df(df::Arguments),
    /// Tell what this machine can do, and what Costrel uses of it
    Doctor(doctor::Arguments),
}

impl Command {
    pub(crate) async fn run(self, environment: &Environment) -> Outcome {
        match self {
            Self::Invoke(arguments) => invoke::run(*arguments, environment).await,
            Self::Inspect(arguments) => inspect::run(&arguments, environment),
            Self::Image(command) => command.run(environment).await,
            Self::Snapshot(command) => command.run(environment),
            Self::Df(arguments) => df::run(&arguments, environment),
            Self::Doctor(arguments) => doctor::run(&arguments, environment),
        }
    }
}
