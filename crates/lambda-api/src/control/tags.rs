//! Tags.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::Violations;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters},
    reply::{Reply, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/2017-03-31/tags/{resource}", get(list).post(tag).delete(untag))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TagsOutput {
    tags: BTreeMap<String, String>,
}

async fn list(State(control): State<Shared>, Path(resource): Path<String>) -> Reply {
    ok(&TagsOutput { tags: control.catalog.tags(&resource)? })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagInput {
    tags: Option<BTreeMap<String, String>>,
}

async fn tag(
    State(control): State<Shared>,
    Path(resource): Path<String>,
    Input(input): Input<TagInput>,
) -> Reply {
    let mut violations = Violations::new();
    violations.required("tags", input.tags.as_ref());
    violations.check()?;
    let tags = input.tags.unwrap_or_default();
    control.run(move |catalog| catalog.tag(&resource, tags)).await?;
    no_content()
}

async fn untag(
    State(control): State<Shared>,
    Path(resource): Path<String>,
    parameters: Parameters,
) -> Reply {
    let keys: Vec<String> = parameters.all("tagKeys").map(str::to_owned).collect();
    control.run(move |catalog| catalog.untag(&resource, &keys)).await?;
    no_content()
}
