//! `costrel image pull`.

use clap::Args;
use costrel_image::{Platform, PullPolicy, Reference};

use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
    progress::Progress,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image, such as debian:12 or 127.0.0.1:5000/app@sha256:…
    reference: String,
    /// The platform to choose where there are several, such as linux/arm64
    #[arg(long)]
    platform: Option<Platform>,
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let reference: Reference = parse_reference(&arguments.reference)?;
    let images = host::images(environment, &Config::read(environment)?)?;
    let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
    let image = images.pull(&reference, &platform, PullPolicy::Always, &Progress::new()).await?;
    println!("{}@{}", image.reference, image.manifest_digest);
    Ok(())
}

pub(super) fn parse_reference(text: &str) -> Result<Reference, Failure> {
    text.parse()
        .map_err(|error: costrel_image::ParseReferenceError| Failure::usage(error.to_string()))
}
