//! One module a command.

mod doctor;
mod image;
mod invoke;

use clap::Subcommand;

use crate::{environment::Environment, failure::Outcome};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a Lambda function once, in a virtual machine of its own
    Invoke(Box<invoke::Arguments>),
    /// Manage OCI images
    #[command(subcommand)]
    Image(image::Command),
    /// Tell what this machine can do, and what Costrel uses of it
    Doctor(doctor::Arguments),
}

impl Command {
    pub(crate) async fn run(self, environment: &Environment) -> Outcome {
        match self {
            Self::Invoke(arguments) => invoke::run(*arguments, environment).await,
            Self::Image(command) => command.run(environment).await,
            Self::Doctor(arguments) => doctor::run(&arguments, environment),
        }
    }
}
