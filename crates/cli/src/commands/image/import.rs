//! `costrel image import`.

use std::path::PathBuf;

use clap::Args;
use costrel_image::Platform;

use super::pull::parse_reference;
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
    progress::Progress,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An OCI layout (a directory or a tar archive of one), or an archive made by `docker save`
    path: PathBuf,
    /// The name to keep the image under [default: the one that it has there]
    reference: Option<String>,
    /// The platform to choose where there are several, such as linux/arm64
    #[arg(long)]
    platform: Option<Platform>,
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let reference = arguments.reference.as_deref().map(parse_reference).transpose()?;
    if let Err(error) = arguments.path.metadata() {
        return Err(Failure::usage(format!("cannot read {}: {error}", arguments.path.display())));
    }
    let store = host::images(environment, &Config::read(environment)?)?;
    let platform = arguments.platform.clone().unwrap_or_else(Platform::host);
    for image in
        store.import(&arguments.path, reference.as_ref(), &platform, &Progress::new()).await?
    {
        println!("{}@{}", image.reference, image.manifest_digest);
    }
    Ok(())
}
