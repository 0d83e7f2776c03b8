//! `costrel image rm`.

use clap::Args;

use super::pull::parse_reference;
use crate::{config::Config, environment::Environment, failure::Outcome, host, tables};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The images
    #[arg(required = true)]
    references: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let references = arguments
        .references
        .iter()
        .map(|text| parse_reference(text))
        .collect::<Result<Vec<_>, _>>()?;
    let images = host::images(environment, &Config::read(environment)?)?;
    let stager = host::stager(environment)?;
    for reference in references {
        let named = images.named(&reference)?;
        let digests: Vec<_> = named.iter().map(|(record, _)| record.manifest_digest).collect();
        drop(named);
        if digests.is_empty() {
            return Err(anyhow::anyhow!("there is no image {reference} here").into());
        }
        let removed = images.remove(&reference)?;
        // The disk goes with the last name of its image.
        let left: Vec<_> = images.list()?.into_iter().map(|image| image.manifest_digest).collect();
        for digest in digests.iter().filter(|digest| !left.contains(digest)) {
            stager.remove_image(digest)?;
        }
        println!("removed {reference} ({})", tables::bytes(removed.bytes));
    }
    Ok(())
}
