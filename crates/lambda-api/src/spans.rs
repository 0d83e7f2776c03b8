//! Traces of invocations, exported by OTLP over HTTP.
//!
//! An invocation is a span of the trace that its `X-Amzn-Trace-Id` names, and each of its phases a
//! span below it. They are made when it is over: that is when all of them are known.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfig, BatchSpanProcessor, SpanData, SpanProcessor as _},
};
use uuid::Uuid;

use crate::{HistoryEntry, HistoryOutcome, trace};

/// How long the collector may take for a batch.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// Where spans are exported to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpanSettings {
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector's base URL, to which `/v1/traces` is added.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_HEADERS`: sent along with each request.
    pub headers: HashMap<String, String>,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: String,
}

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    /// The exporter takes the settings for wrong.
    #[error("spans cannot be exported to {endpoint}")]
    Exporter {
        /// Where they should have gone.
        endpoint: String,
        /// Why not.
        #[source]
        source: ExporterBuildError,
    },
    /// There is no HTTP client.
    #[error("spans cannot be exported over HTTP")]
    Client(#[source] reqwest::Error),
}

/// Exports spans, in batches, from a thread of its own. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Spans {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

impl Spans {
    /// Exports spans from now on. Requests run on the runtime that this is called in.
    ///
    /// # Errors
    /// [`SpansError`].
    pub fn new(settings: &SpanSettings, version: &'static str) -> Result<Self, SpansError> {
        // For the whole process; whoever installed another one keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().timeout(EXPORT_LIMIT).build().map_err(SpansError::Client)?;
        let client = Client { client, runtime: tokio::runtime::Handle::current() };
        let endpoint = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&endpoint)
            .with_headers(settings.headers.clone())
            .with_timeout(EXPORT_LIMIT)
            .build()
            .map_err(|source| SpansError::Exporter { endpoint, source })?;
        let mut processor = BatchSpanProcessor::new(exporter, BatchConfig::default());
        let resource = Resource::builder_empty().with_service_name(settings.service_name.clone());
        processor.set_resource(
            &resource.with_attribute(KeyValue::new("service.version", version)).build(),
        );
        let scope = InstrumentationScope::builder("costrel").with_version(version).build();
        Ok(Self { processor: Arc::new(processor), scope })
    }

    /// Hands an invocation's spans to the exporter, which drops them rather than have anyone wait.
    pub(crate) fn export(&self, entry: &HistoryEntry) {
        let Some(parent) = trace::context(&entry.trace_id).filter(SpanContext::is_sampled) else {
            return;
        };
        let arrived = SystemTime::from(entry.at);
        let status = match &entry.outcome {
            HistoryOutcome::Succeeded => Status::Ok,
            HistoryOutcome::FunctionError(kind) => Status::error(kind.clone()),
            HistoryOutcome::Refused(name) => Status::error(*name),
        };
        // Where the trace is our own, its `Parent` is this span: that is what the function sees.
        let is_own = entry.is_trace_own;
        let id = if is_own { parent.span_id() } else { new_span_id() };
        let attributes = vec![
            KeyValue::new("faas.invoked_name", entry.function.clone()),
            KeyValue::new("faas.version", entry.version.clone()),
            KeyValue::new("faas.invocation_id", entry.request_id.clone()),
            KeyValue::new("faas.coldstart", matches!(entry.start, Some("boot" | "restore"))),
            KeyValue::new("costrel.start", entry.start.unwrap_or("none")),
            KeyValue::new("costrel.mode", entry.mode.name()),
        ];
        let span =
            |id, parent_span_id, is_remote, name, start_time, took, attributes, status| SpanData {
                span_context: SpanContext::new(
                    parent.trace_id(),
                    id,
                    TraceFlags::SAMPLED,
                    false,
                    TraceState::NONE,
                ),
                parent_span_id,
                parent_span_is_remote: is_remote,
                span_kind: if is_remote { SpanKind::Server } else { SpanKind::Internal },
                name,
                start_time,
                end_time: start_time + took,
                attributes,
                dropped_attributes_count: 0,
                events: opentelemetry_sdk::trace::SpanEvents::default(),
                links: opentelemetry_sdk::trace::SpanLinks::default(),
                status,
                instrumentation_scope: self.scope.clone(),
            };
        for phase in &entry.phases {
            self.processor.on_end(span(
                new_span_id(),
                id,
                false,
                phase.name.into(),
                arrived + phase.began,
                phase.took,
                Vec::new(),
                Status::Unset,
            ));
        }
        let parent_span = if is_own { SpanId::INVALID } else { parent.span_id() };
        let name = format!("invoke {}", entry.function).into();
        self.processor.on_end(span(
            id,
            parent_span,
            true,
            name,
            arrived,
            entry.took,
            attributes,
            status,
        ));
    }

    /// Exports what is left. Blocks for as long as the collector takes, 10 s at most.
    pub fn shut_down(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(EXPORT_LIMIT) {
            tracing::warn!(error = &error as &dyn std::error::Error, "spans were lost");
        }
    }
}

fn new_span_id() -> SpanId {
    let random = Uuid::new_v4().into_bytes();
    SpanId::from_bytes(random[..8].try_into().unwrap_or([1; 8]))
}

/// Sends from the exporter's thread, which runs no runtime, on ours.
#[derive(Clone, Debug)]
struct Client {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let response = client.execute(request.try_into()?).await?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                headers.extend(response.headers().clone());
            }
            Ok::<_, reqwest::Error>((answer, response.bytes().await?))
        });
        let (answer, body) = sent.await??;
        Ok(answer.body(body)?)
    }
}

#[cfg(test)]
mod tests;
