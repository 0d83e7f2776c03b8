//! Published versions.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{FunctionReference, PublishVersion};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    configuration::FunctionConfiguration,
    input::{Input, Parameters},
    reply::{Reply, created, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/2015-03-31/functions/{name}/versions", get(list).post(publish))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PublishInput {
    code_sha256: Option<String>,
    description: Option<String>,
    revision_id: Option<String>,
}

async fn publish(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(input): Input<PublishInput>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let request = PublishVersion {
        code_sha256: input.code_sha256.filter(|digest| !digest.is_empty()),
        description: input.description.filter(|description| !description.is_empty()),
        revision_id: input.revision_id,
    };
    let version = control.run(move |catalog| catalog.publish_version(&reference, request)).await?;
    created(&FunctionConfiguration::of(&version, version.arn()))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    versions: Vec<FunctionConfiguration>,
    next_marker: Option<String>,
}

async fn list(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let page = control.catalog.list_versions(&reference, &parameters.page()?)?;
    let page =
        page.map(|version| FunctionConfiguration::in_list(&version, version.qualified_arn()));
    ok(&ListOutput { versions: page.items, next_marker: page.next_marker })
}
