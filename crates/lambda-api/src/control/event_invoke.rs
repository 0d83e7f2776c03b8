//! How asynchronous invocations are treated.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use costrel_catalog::{EventInvokeChange, EventInvokeDescription, FunctionReference};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    input::{Input, Parameters},
    reply::{Reply, no_content, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/2019-09-25/functions/{name}/event-invoke-config",
            get(read).put(replace).post(update).delete(remove),
        )
        .route("/2019-09-25/functions/{name}/event-invoke-config/list", get(list))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EventInvokeInput {
    maximum_retry_attempts: Option<i64>,
    maximum_event_age_in_seconds: Option<i64>,
    destination_config: Option<DestinationConfig>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DestinationConfig {
    on_success: Option<Destination>,
    on_failure: Option<Destination>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Destination {
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
}

impl EventInvokeInput {
    fn into_change(self) -> EventInvokeChange {
        let destinations = self.destination_config;
        let (on_success, on_failure) = match destinations {
            Some(config) => (config.on_success, config.on_failure),
            None => (None, None),
        };
        // One that names nothing takes away what was named.
        let name = |one: Option<Destination>| one.map(|one| one.destination.unwrap_or_default());
        EventInvokeChange {
            maximum_retry_attempts: self.maximum_retry_attempts,
            maximum_event_age: self.maximum_event_age_in_seconds,
            on_success: name(on_success),
            on_failure: name(on_failure),
        }
    }
}

/// `FunctionEventInvokeConfig`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventInvokeOutput {
    /// Seconds since the epoch.
    last_modified: f64,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_retry_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_event_age_in_seconds: Option<u32>,
    destination_config: DestinationConfig,
}

impl From<EventInvokeDescription> for EventInvokeOutput {
    fn from(description: EventInvokeDescription) -> Self {
        let config = description.config;
        let named = |destination| Some(Destination { destination });
        Self {
            last_modified: config.last_modified.as_duration().as_secs_f64(),
            function_arn: description.function_arn,
            maximum_retry_attempts: config.maximum_retry_attempts,
            maximum_event_age_in_seconds: config.maximum_event_age,
            destination_config: DestinationConfig {
                on_success: named(config.on_success),
                on_failure: named(config.on_failure),
            },
        }
    }
}

async fn replace(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Input(input): Input<EventInvokeInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let change = input.into_change();
    let config = control.run(move |catalog| catalog.put_event_invoke(&reference, change)).await?;
    ok(&EventInvokeOutput::from(config))
}

async fn update(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
    Input(input): Input<EventInvokeInput>,
) -> Reply {
    let reference = parameters.reference(&name)?;
    let change = input.into_change();
    let config =
        control.run(move |catalog| catalog.update_event_invoke(&reference, change)).await?;
    ok(&EventInvokeOutput::from(config))
}

async fn read(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let config = control.catalog.get_event_invoke(&parameters.reference(&name)?)?;
    ok(&EventInvokeOutput::from(config))
}

async fn remove(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference = parameters.reference(&name)?;
    control.run(move |catalog| catalog.delete_event_invoke(&reference)).await?;
    no_content()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListOutput {
    function_event_invoke_configs: Vec<EventInvokeOutput>,
    next_marker: Option<String>,
}

async fn list(
    State(control): State<Shared>,
    Path(name): Path<String>,
    parameters: Parameters,
) -> Reply {
    let reference: FunctionReference = name.parse()?;
    let page = control.catalog.list_event_invoke(&reference, &parameters.page()?)?;
    let page = page.map(EventInvokeOutput::from);
    ok(&ListOutput { function_event_invoke_configs: page.items, next_marker: page.next_marker })
}
