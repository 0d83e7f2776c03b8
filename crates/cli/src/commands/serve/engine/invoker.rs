//! Functions as the API asks for them.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use costrel_catalog::{AuthType, FunctionReference, InvokeMode};
use costrel_events::Event;
use costrel_fleet::{FleetVersion, InvokeError, Invoked};
use costrel_functions::{Invocation, ResponsePart};
use costrel_lambda_api::{
    ApiError, Callable, ErrorKind, FunctionUrl, Invoker, UrlAuth, UrlCors, UrlMode,
};
use tokio::sync::mpsc;

use super::Engine;

/// A version that was found for an invocation.
pub(super) struct Found {
    pub(super) engine: Engine,
    pub(super) version: Arc<FleetVersion>,
    pub(super) arn: String,
    pub(super) qualifier: Option<String>,
}

impl Invoker for Engine {
    fn resolve(
        &self,
        function: &str,
        qualifier: Option<&str>,
    ) -> Result<Arc<dyn Callable>, ApiError> {
        let reference: FunctionReference = function.parse()?;
        let reference = reference.qualified(qualifier)?;
        let resolved = self.0.catalog.resolve(&reference)?;
        let version = self.fleet_version(&resolved.version)?;
        Ok(Arc::new(Found {
            engine: self.clone(),
            version,
            arn: resolved.invoked_arn,
            qualifier: reference.qualifier,
        }))
    }

    fn function_url(&self, id: &str) -> Option<Arc<FunctionUrl>> {
        let (reference, url) = self.0.catalog.function_url(id)?;
        Some(Arc::new(FunctionUrl {
            id: url.id,
            function: reference.name,
            qualifier: reference.qualifier,
            auth: match url.auth_type {
                AuthType::None => UrlAuth::None,
                AuthType::AwsIam => UrlAuth::Iam,
            },
            mode: match url.invoke_mode {
                InvokeMode::Buffered => UrlMode::Buffered,
                InvokeMode::ResponseStream => UrlMode::ResponseStream,
            },
            cors: url.cors.map(|cors| UrlCors {
                allow_credentials: cors.allow_credentials.unwrap_or_default(),
                allow_headers: cors.allow_headers.unwrap_or_default(),
                allow_methods: cors.allow_methods.unwrap_or_default(),
                allow_origins: cors.allow_origins.unwrap_or_default(),
                expose_headers: cors.expose_headers.unwrap_or_default(),
                max_age_seconds: cors.max_age.and_then(|seconds| u32::try_from(seconds).ok()),
            }),
        }))
    }
}

#[async_trait]
impl Callable for Found {
    fn function(&self) -> &str {
        &self.version.key.function
    }

    fn version(&self) -> &str {
        &self.version.key.version
    }

    fn arn(&self) -> &str {
        &self.arn
    }

    async fn invoke(
        &self,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        self.engine.0.fleet.invoke(&self.version, invocation, response).await
    }

    async fn enqueue(&self, invocation: Invocation) -> Result<(), ApiError> {
        let Some(events) = self.engine.0.events.get() else {
            return Err(ApiError::new(ErrorKind::Service, "The server is starting."));
        };
        let event = Event {
            request_id: invocation.request_id,
            function: self.version.key.function.clone(),
            qualifier: self.qualifier.clone(),
            function_arn: self.arn.clone(),
            payload: invocation.payload,
            trace_id: invocation.trace_id,
            client_context: invocation.client_context,
            accepted: SystemTime::now(),
        };
        Ok(events.enqueue(event).await?)
    }
}
