//! Layers.

use axum::{
    Router,
    extract::{Path, State},
    routing::{delete, get},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use costrel_catalog::{Invalid, LayerDescription, LayerFilter, PublishLayer, Violations};
use serde::{Deserialize, Serialize};

use super::{
    Control, Shared,
    configuration::CodeInput,
    input::{Host, Input, Parameters, number, zip_file},
    policies::{PermissionInput, PolicyOutput},
    reply::{Reply, created, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/2018-10-31/layers", get(list_or_find))
        .route("/2018-10-31/layers/{layer}/versions", get(list_versions).post(publish))
        .route("/2018-10-31/layers/{layer}/versions/{version}", get(read).delete(remove))
        .route("/2018-10-31/layers/{layer}/versions/{version}/policy", get(policy).post(permit))
        .route("/2018-10-31/layers/{layer}/versions/{version}/policy/{statement}", delete(forbid))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishInput {
    content: Option<CodeInput>,
    description: Option<String>,
    license_info: Option<String>,
    compatible_runtimes: Option<Vec<String>>,
    compatible_architectures: Option<Vec<String>>,
}

/// `LayerVersionsListItem`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayerItem {
    layer_version_arn: String,
    version: u64,
    description: String,
    created_date: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compatible_runtimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    compatible_architectures: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_info: Option<String>,
}

/// `GetLayerVersion` and `PublishLayerVersion`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayerOutput {
    content: Content,
    layer_arn: String,
    #[serde(flatten)]
    item: LayerItem,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    location: String,
    code_sha256: String,
    code_size: u64,
}

impl From<LayerDescription> for LayerItem {
    fn from(layer: LayerDescription) -> Self {
        Self {
            layer_version_arn: layer.arn,
            version: layer.version,
            description: layer.description,
            created_date: layer.created,
            compatible_runtimes: layer.runtimes,
            compatible_architectures: layer.architectures,
            license_info: layer.license,
        }
    }
}

fn output(control: &Control, host: &str, layer: LayerDescription) -> LayerOutput {
    LayerOutput {
        content: Content {
            location: control.locate(host, &layer.digest.hex()),
            code_sha256: BASE64_STANDARD.encode(layer.digest.as_bytes()),
            code_size: layer.size,
        },
        layer_arn: layer.layer_arn.clone(),
        item: layer.into(),
    }
}

async fn publish(
    State(control): State<Shared>,
    Path(layer): Path<String>,
    Host(host): Host,
    Input(input): Input<PublishInput>,
) -> Reply {
    let mut violations = Violations::new();
    violations.required("content", input.content.as_ref());
    violations.check()?;
    let content = input.content.ok_or(Invalid::NoCode)?;
    if content.s3_bucket.is_some() || content.s3_key.is_some() {
        return Err(Invalid::S3.into());
    }
    let zip = zip_file(&content.zip_file.ok_or(Invalid::NoCode)?)?;
    let published = control.clone().run(move |catalog| {
        catalog.publish_layer(PublishLayer {
            layer,
            description: input.description.unwrap_or_default(),
            license: input.license_info,
            runtimes: input.compatible_runtimes.unwrap_or_default(),
            architectures: input.compatible_architectures.unwrap_or_default(),
            code: catalog.upload(&zip)?,
        })
    });
    let published = published.await?;
    created(&output(&control, &host, published))
}

async fn read(
    State(control): State<Shared>,
    Path((layer, version)): Path<(String, String)>,
    Host(host): Host,
) -> Reply {
    let found = control.catalog.get_layer(&layer, number(&version)?)?;
    ok(&output(&control, &host, found))
}

async fn remove(
    State(control): State<Shared>,
    Path((layer, version)): Path<(String, String)>,
) -> Reply {
    let version = number(&version)?;
    control.run(move |catalog| catalog.delete_layer(&layer, version)).await?;
    no_content()
}

fn filter(parameters: &Parameters) -> LayerFilter {
    LayerFilter {
        runtime: parameters.owned("CompatibleRuntime"),
        architecture: parameters.owned("CompatibleArchitecture"),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionsOutput {
    layer_versions: Vec<LayerItem>,
    next_marker: Option<String>,
}

async fn list_versions(
    State(control): State<Shared>,
    Path(layer): Path<String>,
    parameters: Parameters,
) -> Reply {
    let page = parameters.page()?;
    let page = control.catalog.list_layer_versions(&layer, &filter(&parameters), &page)?;
    let page = page.map(LayerItem::from);
    ok(&VersionsOutput { layer_versions: page.items, next_marker: page.next_marker })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayersOutput {
    layers: Vec<LayerSummary>,
    next_marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayerSummary {
    layer_name: String,
    layer_arn: String,
    latest_matching_version: LayerItem,
}

/// `ListLayers`, and, by `find=LayerVersion`, `GetLayerVersionByArn`.
async fn list_or_find(
    State(control): State<Shared>,
    parameters: Parameters,
    Host(host): Host,
) -> Reply {
    if parameters.get("find") == Some("LayerVersion") {
        let arn = parameters.get("Arn").unwrap_or_default();
        return ok(&output(&control, &host, control.catalog.get_layer_by_arn(arn)?));
    }
    let page = control.catalog.list_layers(&filter(&parameters), &parameters.page()?)?;
    let page = page.map(|layer| LayerSummary {
        layer_name: layer.name,
        layer_arn: layer.latest.layer_arn.clone(),
        latest_matching_version: layer.latest.into(),
    });
    ok(&LayersOutput { layers: page.items, next_marker: page.next_marker })
}

async fn policy(
    State(control): State<Shared>,
    Path((layer, version)): Path<(String, String)>,
) -> Reply {
    ok(&PolicyOutput::from(control.catalog.layer_policy(&layer, number(&version)?)?))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PermitOutput {
    statement: String,
    revision_id: String,
}

async fn permit(
    State(control): State<Shared>,
    Path((layer, version)): Path<(String, String)>,
    parameters: Parameters,
    Input(input): Input<PermissionInput>,
) -> Reply {
    let version = number(&version)?;
    let mut permission = input.into_permission()?;
    permission.revision_id = parameters.owned("RevisionId");
    let done = control
        .run(move |catalog| catalog.add_layer_permission(&layer, version, &permission))
        .await?;
    let (statement, revision_id) = done;
    created(&PermitOutput { statement, revision_id })
}

async fn forbid(
    State(control): State<Shared>,
    Path((layer, version, statement)): Path<(String, String, String)>,
    parameters: Parameters,
) -> Reply {
    let version = number(&version)?;
    let revision_id = parameters.owned("RevisionId");
    control
        .run(move |catalog| {
            catalog.remove_layer_permission(&layer, version, &statement, revision_id.as_deref())
        })
        .await?;
    no_content()
}
