//! Functions: made, read, changed, listed, deleted.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, put},
};
use costrel_catalog::{
    Catalog, CatalogError, CreateFunction, FunctionReference, Invalid, NewCode, UpdateCode,
    Violations,
};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    configuration::{
        CodeInput, CodeLocation, FunctionConfiguration, FunctionInput, check_architectures,
    },
    input::{Host, Input, Parameters, choose, zip_file},
    reply::{Reply, created, no_content, ok},
};
use crate::ApiError;

pub(super) fn routes() -> Router<Shared> {
    let all = || get(list).post(create);
    Router::new()
        .route("/2015-03-31/functions", all())
        .route("/2015-03-31/functions/", all())
        .route("/2015-03-31/functions/{name}", get(read).delete(delete))
        .route(
            "/2015-03-31/functions/{name}/configuration",
            get(read_configuration).put(update_configuration),
        )
        .route("/2015-03-31/functions/{name}/code", put(update_code))
}

/// Code as it came, decoded, and not yet in the catalog.
enum Source {
    Zip(Vec<u8>),
    Image(String),
}

impl Source {
    fn of(code: CodeInput) -> Result<Self, ApiError> {
        let from_s3 = code.s3_bucket.is_some() || code.s3_key.is_some();
        match (code.zip_file, code.image_uri, from_s3) {
            (Some(zip), None, false) => Ok(Self::Zip(zip_file(&zip)?)),
            (None, Some(uri), false) => Ok(Self::Image(uri)),
            (None, None, true) => Err(Invalid::S3.into()),
            (None, None, false) => Err(Invalid::NoCode.into()),
            _ => Err(Invalid::TwoCodes.into()),
        }
    }

    fn store(self, catalog: &Catalog) -> Result<NewCode, CatalogError> {
        Ok(match self {
            Self::Zip(zip) => NewCode::Zip(catalog.upload(&zip)?),
            Self::Image(uri) => NewCode::Image(uri),
        })
    }
}

async fn create(State(control): State<Shared>, Input(mut input): Input<FunctionInput>) -> Reply {
    let mut violations = Violations::new();
    violations.required("functionName", input.function_name.as_ref());
    violations.required("role", input.role.as_ref());
    violations.required("code", input.code.as_ref());
    violations.check()?;
    let package_type = input.package()?;
    check_architectures(input.architectures.as_deref())?;
    let name = input.function_name.take().unwrap_or_default();
    let reference: FunctionReference = name.parse()?;
    let source = Source::of(input.code.take().ok_or(Invalid::NoCode)?)?;
    let publish = input.publish.unwrap_or_default();
    let tags = input.tags.take().unwrap_or_default();
    let signing = input.code_signing_config_arn.take();
    let configuration = input.into_change()?;
    let version = control.run(move |catalog| {
        let code = source.store(catalog)?;
        catalog.create_function(CreateFunction {
            reference,
            configuration,
            package_type,
            code,
            publish,
            tags,
            signing,
        })
    });
    let version = version.await?;
    created(&FunctionConfiguration::of(&version, version.arn()))
}

/// `GetFunction`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FunctionOutput {
    configuration: FunctionConfiguration,
    code: CodeLocation,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<Concurrency>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Concurrency {
    reserved_concurrent_executions: u32,
}

async fn read(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Host(host): Host,
) -> Reply {
    let listing = control.catalog.get_function(&parameters.reference(&name)?)?;
    let code =
        CodeLocation::of(&listing.version.content.code, |digest| control.locate(&host, digest));
    ok(&FunctionOutput {
        configuration: FunctionConfiguration::of(&listing.version, listing.arn),
        code,
        tags: listing.tags,
        concurrency: listing
            .reserved_concurrency
            .map(|reserved_concurrent_executions| Concurrency { reserved_concurrent_executions }),
    })
}

async fn read_configuration(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let listing = control.catalog.get_function(&parameters.reference(&name)?)?;
    ok(&FunctionConfiguration::of(&listing.version, listing.arn))
}

async fn update_configuration(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(mut input): Input<FunctionInput>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let revision_id = input.revision_id.take();
    let change = input.into_change()?;
    let version = control
        .run(move |catalog| {
            catalog.update_configuration(&reference, revision_id.as_deref(), change)
        })
        .await?;
    ok(&FunctionConfiguration::of(&version, version.arn()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateCodeInput {
    zip_file: Option<String>,
    image_uri: Option<String>,
    #[serde(rename = "S3Bucket")]
    s3_bucket: Option<String>,
    #[serde(rename = "S3Key")]
    s3_key: Option<String>,
    publish: Option<bool>,
    dry_run: Option<bool>,
    revision_id: Option<String>,
    architectures: Option<Vec<String>>,
}

async fn update_code(
    State(control): State<Shared>,
    Path(name): Path<String>,
    Input(input): Input<UpdateCodeInput>,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    check_architectures(input.architectures.as_deref())?;
    let UpdateCodeInput { zip_file, image_uri, s3_bucket, s3_key, .. } = input;
    let source = Source::of(CodeInput { zip_file, image_uri, s3_bucket, s3_key })?;
    let (publish, dry_run) = (input.publish.unwrap_or_default(), input.dry_run.unwrap_or_default());
    let revision_id = input.revision_id;
    let version = control.run(move |catalog| {
        // Before anything is written for a function that is not there.
        catalog.get_function(&FunctionReference { qualifier: None, ..reference.clone() })?;
        let code = source.store(catalog)?;
        catalog.update_code(&reference, &UpdateCode { code, publish, dry_run, revision_id })
    });
    let version = version.await?;
    ok(&FunctionConfiguration::of(&version, version.arn()))
}

async fn delete(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    control.run(move |catalog| catalog.delete_function(&reference)).await?;
    no_content()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    functions: Vec<FunctionConfiguration>,
    // AWS's clients see null and nothing alike; Terraform's older ones look for the key.
    next_marker: Option<String>,
}

async fn list(State(control): State<Shared>, parameters: Parameters) -> Reply {
    let mut violations = Violations::new();
    let version = parameters.get("FunctionVersion");
    let all = choose(&mut violations, "functionVersion", version, &[("ALL", ())]).is_some();
    violations.check()?;
    let page = parameters.page()?;
    let page = match all {
        true => control.catalog.list_all_versions(&page)?,
        false => control.catalog.list_functions(&page)?,
    };
    let page = page.map(|version| {
        let arn = if all { version.qualified_arn() } else { version.arn() };
        FunctionConfiguration::in_list(&version, arn)
    });
    ok(&ListOutput { functions: page.items, next_marker: page.next_marker })
}
