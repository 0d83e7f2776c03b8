//! Code signing configurations.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{
    CodeSigning, CodeSigningChange, CodeSigningPolicy, FunctionReference, Violations,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    Control, Shared,
    input::{Input, Parameters, choose},
    reply::{Reply, created, json, no_content, ok},
};
use crate::ApiError;

pub(super) fn routes() -> Router<Shared> {
    let all = || get(list).post(create);
    Router::new()
        .route("/2020-04-22/code-signing-configs", all())
        .route("/2020-04-22/code-signing-configs/", all())
        .route("/2020-04-22/code-signing-configs/{arn}", get(read).put(update).delete(remove))
        .route("/2020-04-22/code-signing-configs/{arn}/functions", get(functions))
        .route(
            "/2020-06-30/functions/{name}/code-signing-config",
            get(read_of_function).put(put_of_function).delete(remove_of_function),
        )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SigningInput {
    description: Option<String>,
    allowed_publishers: Option<AllowedPublishers>,
    code_signing_policies: Option<PoliciesInput>,
    tags: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AllowedPublishers {
    signing_profile_version_arns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoliciesInput {
    untrusted_artifact_on_deployment: Option<String>,
}

impl SigningInput {
    fn into_change(self) -> Result<CodeSigningChange, ApiError> {
        let mut violations = Violations::new();
        let policy =
            self.code_signing_policies.and_then(|one| one.untrusted_artifact_on_deployment);
        let choices = [("Warn", CodeSigningPolicy::Warn), ("Enforce", CodeSigningPolicy::Enforce)];
        let member = "codeSigningPolicies.untrustedArtifactOnDeployment";
        let policy = choose(&mut violations, member, policy.as_deref(), &choices);
        violations.check()?;
        let publishers = self.allowed_publishers.map(|one| one.signing_profile_version_arns);
        Ok(CodeSigningChange { description: self.description, publishers, policy })
    }
}

/// `CodeSigningConfig`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SigningConfig {
    code_signing_config_id: String,
    code_signing_config_arn: String,
    description: String,
    allowed_publishers: AllowedPublishers,
    code_signing_policies: PoliciesOutput,
    last_modified: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PoliciesOutput {
    untrusted_artifact_on_deployment: CodeSigningPolicy,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SigningOutput {
    code_signing_config: SigningConfig,
}

fn config(control: &Control, signing: &CodeSigning) -> SigningConfig {
    SigningConfig {
        code_signing_config_id: signing.id.clone(),
        code_signing_config_arn: control.catalog.home().signing_arn(&signing.id),
        description: signing.description.clone(),
        allowed_publishers: AllowedPublishers {
            signing_profile_version_arns: signing.publishers.clone(),
        },
        code_signing_policies: PoliciesOutput { untrusted_artifact_on_deployment: signing.policy },
        last_modified: signing.last_modified_text(),
    }
}

async fn create(State(control): State<Shared>, Input(mut input): Input<SigningInput>) -> Reply {
    let mut violations = Violations::new();
    violations.required("allowedPublishers", input.allowed_publishers.as_ref());
    violations.check()?;
    let tags = input.tags.take().unwrap_or_default();
    let change = input.into_change()?;
    let signing = control.clone().run(move |catalog| catalog.create_signing(change, tags)).await?;
    created(&SigningOutput { code_signing_config: config(&control, &signing) })
}

async fn update(
    State(control): State<Shared>,
    Path(arn): Path<String>,
    Input(input): Input<SigningInput>,
) -> Reply {
    let change = input.into_change()?;
    let signing = control.clone().run(move |catalog| catalog.update_signing(&arn, change)).await?;
    ok(&SigningOutput { code_signing_config: config(&control, &signing) })
}

async fn read(State(control): State<Shared>, Path(arn): Path<String>) -> Reply {
    let signing = control.catalog.get_signing(&arn)?;
    ok(&SigningOutput { code_signing_config: config(&control, &signing) })
}

async fn remove(State(control): State<Shared>, Path(arn): Path<String>) -> Reply {
    control.run(move |catalog| catalog.delete_signing(&arn)).await?;
    json(StatusCode::NO_CONTENT, &serde_json::json!({}))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    code_signing_configs: Vec<SigningConfig>,
    next_marker: Option<String>,
}

async fn list(State(control): State<Shared>, parameters: Parameters) -> Reply {
    let page = control.catalog.list_signing(&parameters.page()?)?;
    let page = page.map(|signing| config(&control, &signing));
    ok(&ListOutput { code_signing_configs: page.items, next_marker: page.next_marker })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FunctionsOutput {
    function_arns: Vec<String>,
    next_marker: Option<String>,
}

async fn functions(
    State(control): State<Shared>,
    Path(arn): Path<String>,
    parameters: Parameters,
) -> Reply {
    let page = control.catalog.list_signed_functions(&arn, &parameters.page()?)?;
    ok(&FunctionsOutput { function_arns: page.items, next_marker: page.next_marker })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FunctionSigning {
    #[serde(skip_serializing_if = "Option::is_none")]
    code_signing_config_arn: Option<String>,
    function_name: Option<String>,
}

async fn read_of_function(State(control): State<Shared>, Path(name): Path<String>) -> Reply {
    let (arn, name) = control.catalog.function_signing(&name.parse()?)?;
    ok(&FunctionSigning { code_signing_config_arn: arn, function_name: Some(name) })
}

async fn put_of_function(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(input): Input<FunctionSigning>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let mut violations = Violations::new();
    violations.required("codeSigningConfigArn", input.code_signing_config_arn.as_ref());
    violations.check()?;
    let (arn, name) = (input.code_signing_config_arn, reference.name.clone());
    let kept = arn.clone();
    control.run(move |catalog| catalog.set_function_signing(&reference, arn)).await?;
    ok(&FunctionSigning { code_signing_config_arn: kept, function_name: Some(name) })
}

async fn remove_of_function(State(control): State<Shared>, Path(name): Path<String>) -> Reply {
    let reference: FunctionReference = name.parse()?;
    control.run(move |catalog| catalog.set_function_signing(&reference, None)).await?;
    no_content()
}
