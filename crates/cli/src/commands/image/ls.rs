//! `costrel image ls`.

use clap::Args;

use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print digests whole
    #[arg(long)]
    no_trunc: bool,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let images = host::images(environment, &Config::read(environment)?)?.list()?;
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            let digest = image.manifest_digest.to_string();
            let digest = if arguments.no_trunc {
                digest
            } else {
                digest["sha256:".len()..][..12].to_owned()
            };
            let platform = image.platform.to_string();
            vec![image.reference.to_string(), digest, platform, tables::bytes(image.size)]
        })
        .collect();
    tables::print(&["IMAGE", "DIGEST", "PLATFORM", "SIZE"], &rows);
    Ok(())
}
