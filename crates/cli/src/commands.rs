//! One module a command.

mod df;
mod doctor;
mod image;
mod inspect;
mod invoke;
mod logs;
mod serve;
mod snapshot;

use clap::Subcommand;

use crate::{environment::Environment, failure::Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a Lambda function once, in a virtual machine of its own
    Invoke(Box<invoke::Arguments>),
    /// Serve Lambda's API on this machine
    Serve(Box<serve::Arguments>),
    /// Show what functions have logged under `costrel serve`
    Logs(logs::Arguments),
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
    /// Whether it is ended by signals in its own way.
    pub(crate) fn handles_signals(&self, environment: &Environment) -> bool {
        match self {
            Self::Serve(_) => true,
            Self::Invoke(_) => invoke::stays_open(environment),
            _ => false,
        }
    }

    pub(crate) async fn run(self, environment: &Environment) -> Outcome {
        match self {
            Self::Invoke(arguments) => invoke::run(*arguments, environment).await,
            Self::Serve(arguments) => serve::run(*arguments, environment).await,
            Self::Logs(arguments) => logs::run(arguments, environment).await,
            Self::Inspect(arguments) => inspect::run(&arguments, environment),
            Self::Image(command) => command.run(environment).await,
            Self::Snapshot(command) => command.run(environment),
            Self::Df(arguments) => df::run(&arguments, environment),
            Self::Doctor(arguments) => doctor::run(&arguments, environment),
        }
    }
}
