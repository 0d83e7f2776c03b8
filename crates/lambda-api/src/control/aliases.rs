//! Aliases.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{AliasChange, AliasDescription, FunctionReference, Violations};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters},
    reply::{Reply, created, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/2015-03-31/functions/{name}/aliases", get(list).post(create))
        .route("/2015-03-31/functions/{name}/aliases/{alias}", get(read).put(update).delete(delete))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AliasInput {
    name: Option<String>,
    function_version: Option<String>,
    description: Option<String>,
    routing_config: Option<RoutingConfig>,
    revision_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoutingConfig {
    additional_version_weights: Option<BTreeMap<String, f64>>,
}

impl AliasInput {
    fn into_change(self) -> AliasChange {
        AliasChange {
            function_version: self.function_version,
            description: self.description,
            weights: self
                .routing_config
                .map(|routing| routing.additional_version_weights.unwrap_or_default()),
            revision_id: self.revision_id,
        }
    }
}

/// `AliasConfiguration`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AliasOutput {
    alias_arn: String,
    name: String,
    function_version: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_config: Option<RoutingConfig>,
    revision_id: String,
}

impl From<AliasDescription> for AliasOutput {
    fn from(description: AliasDescription) -> Self {
        let AliasDescription { arn, name, alias } = description;
        let weights = Some(alias.weights).filter(|weights| !weights.is_empty());
        Self {
            alias_arn: arn,
            name,
            function_version: alias.function_version,
            description: alias.description,
            routing_config: weights
                .map(|weights| RoutingConfig { additional_version_weights: Some(weights) }),
            revision_id: alias.revision_id,
        }
    }
}

async fn create(
    State(control): State<Shared>,
    Path(function): Path<String>,
    Input(mut input): Input<AliasInput>,
) -> Reply {
    let reference: FunctionReference = function.parse()?;
    let mut violations = Violations::new();
    violations.required("name", input.name.as_ref());
    violations.required("functionVersion", input.function_version.as_ref());
    violations.check()?;
    let name = input.name.take().unwrap_or_default();
    let change = input.into_change();
    let alias = control.run(move |catalog| catalog.create_alias(&reference, &name, change)).await?;
    created(&AliasOutput::from(alias))
}

async fn update(
    State(control): State<Shared>,
    Path((function, name)): Path<(String, String)>,
    Input(input): Input<AliasInput>,
) -> Reply {
    let reference: FunctionReference = function.parse()?;
    let change = input.into_change();
    let alias = control.run(move |catalog| catalog.update_alias(&reference, &name, change)).await?;
    ok(&AliasOutput::from(alias))
}

async fn read(
    State(control): State<Shared>,
    Path((function, name)): Path<(String, String)>,
) -> Reply {
    let reference: FunctionReference = function.parse()?;
    ok(&AliasOutput::from(control.catalog.get_alias(&reference, &name)?))
}

async fn delete(
    State(control): State<Shared>,
    Path((function, name)): Path<(String, String)>,
) -> Reply {
    let reference: FunctionReference = function.parse()?;
    control.run(move |catalog| catalog.delete_alias(&reference, &name)).await?;
    no_content()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    aliases: Vec<AliasOutput>,
    next_marker: Option<String>,
}

async fn list(
    State(control): State<Shared>,
    Path(function): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&function)?;
    let version = parameters.get("FunctionVersion");
    let page = control.catalog.list_aliases(&reference, version, &parameters.page()?)?;
    let page = page.map(AliasOutput::from);
    ok(&ListOutput { aliases: page.items, next_marker: page.next_marker })
}
