//! Resource policies of functions.

use axum::{
    Router,
    extract::{Path, State},
    routing::{delete, get},
};
use costrel_catalog::{FunctionReference, Permission, PolicyDocument, Violations};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters},
    reply::{Reply, created, no_content, ok},
};
use crate::ApiError;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/2015-03-31/functions/{name}/policy", get(read).post(add))
        .route("/2015-03-31/functions/{name}/policy/{statement}", delete(remove))
        .route(
            "/2026-07-09/resource-policy/{arn}",
            get(read_whole).put(replace).delete(delete_whole),
        )
}

/// `AddPermission`, and, with less, `AddLayerVersionPermission`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PermissionInput {
    statement_id: Option<String>,
    action: Option<String>,
    principal: Option<String>,
    source_arn: Option<String>,
    source_account: Option<String>,
    event_source_token: Option<String>,
    #[serde(rename = "PrincipalOrgID")]
    principal_org_id: Option<String>,
    organization_id: Option<String>,
    function_url_auth_type: Option<String>,
    invoked_via_function_url: Option<bool>,
    revision_id: Option<String>,
}

impl PermissionInput {
    pub(super) fn into_permission(self) -> Result<Permission, ApiError> {
        let mut violations = Violations::new();
        violations.required("statementId", self.statement_id.as_ref());
        violations.required("action", self.action.as_ref());
        violations.required("principal", self.principal.as_ref());
        violations.check()?;
        Ok(Permission {
            statement_id: self.statement_id.unwrap_or_default(),
            action: self.action.unwrap_or_default(),
            principal: self.principal.unwrap_or_default(),
            source_arn: self.source_arn,
            source_account: self.source_account,
            event_source_token: self.event_source_token,
            principal_org_id: self.principal_org_id.or(self.organization_id),
            function_url_auth_type: self.function_url_auth_type,
            invoked_via_function_url: self.invoked_via_function_url,
            revision_id: self.revision_id,
        })
    }
}

/// A policy as JSON within JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyOutput {
    policy: String,
    revision_id: String,
}

impl From<PolicyDocument> for PolicyOutput {
    fn from(policy: PolicyDocument) -> Self {
        Self { policy: policy.document, revision_id: policy.revision_id }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatementOutput {
    statement: String,
}

async fn add(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Input(input): Input<PermissionInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let permission = input.into_permission()?;
    let statement =
        control.run(move |catalog| catalog.add_permission(&reference, &permission)).await?;
    created(&StatementOutput { statement })
}

async fn read(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    ok(&PolicyOutput::from(control.catalog.policy(&reference)?))
}

async fn remove(
    State(control): State<Shared>,
    Path((name, statement)): Path<(String, String)>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let revision_id = parameters.owned("RevisionId");
    control
        .run(move |catalog| {
            catalog.remove_permission(&reference, &statement, revision_id.as_deref())
        })
        .await?;
    no_content()
}

async fn read_whole(State(control): State<Shared>, Path(arn): Path<String>) -> Reply {
    let reference: FunctionReference = arn.parse()?;
    ok(&PolicyOutput::from(control.catalog.policy(&reference)?))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReplaceInput {
    policy: Option<String>,
    revision_id: Option<String>,
}

async fn replace(
    State(control): State<Shared>,
    Path(arn): Path<String>,
    Input(input): Input<ReplaceInput>,
) -> Reply {
    let reference: FunctionReference = arn.parse()?;
    let mut violations = Violations::new();
    violations.required("policy", input.policy.as_ref());
    violations.check()?;
    let policy = control.run(move |catalog| {
        let document = input.policy.unwrap_or_default();
        catalog.replace_policy(&reference, &document, input.revision_id.as_deref())
    });
    ok(&PolicyOutput::from(policy.await?))
}

async fn delete_whole(
    State(control): State<Shared>,
    Path(arn): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference: FunctionReference = arn.parse()?;
    let revision_id = parameters.owned("RevisionId");
    control.run(move |catalog| catalog.delete_policy(&reference, revision_id.as_deref())).await?;
    no_content()
}
