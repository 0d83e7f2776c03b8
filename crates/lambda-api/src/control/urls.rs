//! Function URLs' settings. What is behind them is in [`crate`]'s other half.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{
    AuthType, Cors, FunctionReference, InvokeMode, UrlChange, UrlDescription, Violations,
};
use serde::{Deserialize, Serialize};

use super::{
    Control, Shared,
    input::{Host, Input, Parameters, choose},
    reply::{Reply, created, no_content, ok},
};
use crate::ApiError;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/2021-10-31/functions/{name}/url",
            get(read).post(create).put(update).delete(remove),
        )
        .route("/2021-10-31/functions/{name}/urls", get(list))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UrlInput {
    auth_type: Option<String>,
    cors: Option<CorsWire>,
    invoke_mode: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CorsWire {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_credentials: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expose_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
}

/// `FunctionUrlConfig`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UrlOutput {
    function_url: String,
    function_arn: String,
    auth_type: AuthType,
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<CorsWire>,
    creation_time: String,
    last_modified_time: String,
    invoke_mode: InvokeMode,
}

impl UrlInput {
    fn into_change(self) -> Result<UrlChange, ApiError> {
        let mut violations = Violations::new();
        let types = [("NONE", AuthType::None), ("AWS_IAM", AuthType::AwsIam)];
        let auth_type = choose(&mut violations, "authType", self.auth_type.as_deref(), &types);
        let modes =
            [("BUFFERED", InvokeMode::Buffered), ("RESPONSE_STREAM", InvokeMode::ResponseStream)];
        let invoke_mode =
            choose(&mut violations, "invokeMode", self.invoke_mode.as_deref(), &modes);
        violations.check()?;
        let cors = self.cors.map(|cors| Cors {
            allow_credentials: cors.allow_credentials,
            allow_headers: cors.allow_headers,
            allow_methods: cors.allow_methods,
            allow_origins: cors.allow_origins,
            expose_headers: cors.expose_headers,
            max_age: cors.max_age,
        });
        Ok(UrlChange { auth_type, cors, invoke_mode })
    }
}

fn output(control: &Control, host: &str, description: UrlDescription) -> UrlOutput {
    let UrlDescription { function_arn, url } = description;
    let (creation_time, last_modified_time) = (url.created_text(), url.last_modified_text());
    // Every name below localhost is this host; only the port is the caller's to know.
    let port = host.parse::<http::uri::Authority>().ok().and_then(|host| host.port_u16());
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let region = &control.catalog.home().region;
    UrlOutput {
        function_url: format!("http://{}.lambda-url.{region}.localhost{port}/", url.id),
        function_arn,
        auth_type: url.auth_type,
        cors: url.cors.map(|cors| CorsWire {
            allow_credentials: cors.allow_credentials,
            allow_headers: cors.allow_headers,
            allow_methods: cors.allow_methods,
            allow_origins: cors.allow_origins,
            expose_headers: cors.expose_headers,
            max_age: cors.max_age,
        }),
        creation_time,
        last_modified_time,
        invoke_mode: url.invoke_mode,
    }
}

async fn create(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Host(host): Host,
    Input(input): Input<UrlInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let mut violations = Violations::new();
    violations.required("authType", input.auth_type.as_ref());
    violations.check()?;
    let change = input.into_change()?;
    let url = control.clone().run(move |catalog| catalog.create_url(&reference, change)).await?;
    created(&output(&control, &host, url))
}

async fn update(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Host(host): Host,
    Input(input): Input<UrlInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let change = input.into_change()?;
    let url = control.clone().run(move |catalog| catalog.update_url(&reference, change)).await?;
    ok(&output(&control, &host, url))
}

async fn read(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Host(host): Host,
) -> Reply {
    let url = control.catalog.get_url(&parameters.reference(&name)?)?;
    ok(&output(&control, &host, url))
}

async fn remove(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    control.run(move |catalog| catalog.delete_url(&reference)).await?;
    no_content()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    function_url_configs: Vec<UrlOutput>,
    next_marker: Option<String>,
}

async fn list(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Host(host): Host,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let page = control.catalog.list_urls(&reference, &parameters.page()?)?;
    let page = page.map(|url| output(&control, &host, url));
    ok(&ListOutput { function_url_configs: page.items, next_marker: page.next_marker })
}
