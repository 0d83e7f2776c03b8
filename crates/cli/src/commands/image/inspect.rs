//! `costrel image inspect`.

use std::collections::BTreeMap;

use clap::Args;
use costrel_image::{Compression, Image, ImageConfig, ImageRecord, Layer};
use serde::Serialize;

use super::pull::parse_reference;
use crate::{
    config::Config,
    environment::Environment,
    failure::{Failure, Outcome},
    host,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The images
    #[arg(required = true)]
    references: Vec<String>,
}

/// An image, as it is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    reference: String,
    /// Of the manifest.
    digest: String,
    /// What the name led to: the manifest, or the index that it was chosen from.
    target_digest: String,
    config_digest: String,
    platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    size: u64,
    config: Configuration,
    layers: Vec<LayerDescription>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerDescription {
    digest: String,
    diff_id: String,
    compression: Compression,
    size: u64,
}

/// As in the image's own document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exposed_ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> Outcome {
    let references = arguments
        .references
        .iter()
        .map(|text| parse_reference(text))
        .collect::<Result<Vec<_>, _>>()?;
    let images = host::images(environment, &Config::read(environment)?)?;
    let mut descriptions = Vec::new();
    for reference in references {
        let named = images.named(&reference)?;
        if named.is_empty() {
            return Err(anyhow::anyhow!("there is no image {reference} here").into());
        }
        for (record, image) in named {
            let image = image.ok_or_else(|| {
                Failure::from(anyhow::anyhow!("some blobs of {} are gone", record.reference))
                    .with_hint("`costrel image pull` fetches them again")
            })?;
            descriptions.push(describe(&record, &image));
        }
    }
    println!("{}", serde_json::to_string_pretty(&descriptions)?);
    Ok(())
}

fn describe(record: &ImageRecord, image: &Image) -> Description {
    Description {
        reference: record.reference.to_string(),
        digest: record.manifest_digest.to_string(),
        target_digest: record.target_digest.to_string(),
        config_digest: record.config_digest.to_string(),
        platform: record.platform.to_string(),
        created: record.created.clone(),
        size: record.size,
        config: configuration(&image.config),
        layers: image.layers.iter().map(layer).collect(),
    }
}

fn layer(layer: &Layer) -> LayerDescription {
    LayerDescription {
        digest: layer.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        compression: layer.compression,
        size: layer.size,
    }
}

fn configuration(config: &ImageConfig) -> Configuration {
    let pair = |(name, value): &(String, String)| format!("{name}={value}");
    Configuration {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.iter().map(pair).collect(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        volumes: config.volumes.clone(),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
    }
}
