//! What every request meets first: its host, its origin and its token are looked at, and it is
//! handed on to the API or to the function URL that it names.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, Request, header};
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::{
    ApiError, FunctionUrl, Metrics, control,
    data_plane::DataPlane,
    guard::{Guard, Purpose},
    invoke::REQUEST_ID,
    recorder::Arrival,
    url::{self, UrlRequest},
};

/// The connection that a request came by. Whoever accepts connections puts it into the request's
/// extensions; where it is missing, the port in the request's `Host` is not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// Who has sent it.
    pub peer: SocketAddr,
    /// Where it came in.
    pub local: SocketAddr,
}

/// What all requests pass.
pub(crate) struct Front {
    pub(crate) guard: Guard,
    pub(crate) metrics: Metrics,
    /// What answers.
    pub(crate) api: Router,
    /// What the API is for.
    pub(crate) purpose: Purpose<'static>,
    /// What function URLs are served with; without, there are none.
    pub(crate) urls: Option<DataPlane>,
}

impl Front {
    pub(crate) fn into_router(self) -> Router {
        Router::new().fallback(pass).with_state(Arc::new(self))
    }
}

async fn pass(State(front): State<Arc<Front>>, mut request: Request<Body>) -> Response {
    request.extensions_mut().insert(Arrival::now());
    let counted = front.metrics.request(operation(request.uri().path()));
    let mut response = match front.serve(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a request was refused");
            error.into_response()
        }
    };
    if let header::Entry::Vacant(vacant) = response.headers_mut().entry(REQUEST_ID)
        && let Ok(id) = HeaderValue::try_from(Uuid::new_v4().to_string())
    {
        vacant.insert(id);
    }
    counted.answered(response.status());
    response
}

impl Front {
    async fn serve(&self, request: Request<Body>) -> Result<Response, ApiError> {
        let connection = request.extensions().get::<Connection>().copied();
        let (parts, body) = request.into_parts();
        let port = connection.map(|connection| connection.local.port());
        let host = self.guard.host(&parts, port)?;
        let named =
            self.urls.as_ref().and_then(|urls| Some((urls, named_url(&host, parts.uri.path())?)));
        let Some((data_plane, (id, path, by_path))) = named else {
            self.guard.check_origin(&parts, &host, self.purpose)?;
            let mut request = Request::from_parts(parts, body);
            if !control::is_presigned(request.uri().path()) {
                request = self.guard.check_token(request).await?;
            }
            return Ok(self.api.clone().oneshot(request).await.into_response());
        };
        let path = path.to_owned();
        let Some(url) = data_plane.invoker.function_url(id) else {
            return Ok(url::unknown());
        };
        self.guard.check_origin(&parts, &host, Purpose::Url(&url))?;
        let peer = connection.map(|connection| connection.peer);
        let mut request = Request::from_parts(parts, body);
        if !is_open_preflight(&url, &request) {
            request = self.guard.check_token(request).await?;
        }
        let named = UrlRequest { url, path, by_path, peer };
        Ok(url::serve(data_plane, named, request).await)
    }
}

/// The id of the function URL that is named by the host or by the path, and the path below it.
fn named_url<'a>(host: &'a str, path: &'a str) -> Option<(&'a str, &'a str, bool)> {
    match url::id_in_host(host) {
        Some(id) => Some((id, path, false)),
        None => url::id_in_path(path).map(|(id, path)| (id, path, true)),
    }
}

/// Browsers send no token along when they ask whether they may send it.
fn is_open_preflight(url: &FunctionUrl, request: &Request<Body>) -> bool {
    url.cors.is_some() && url::is_preflight(request)
}

/// What a path is for, to count by.
fn operation(path: &str) -> &'static str {
    if path.ends_with("/invocations") {
        "invoke"
    } else if path.ends_with("/response-streaming-invocations") {
        "invoke_with_response_stream"
    } else if path.ends_with("/invoke-async") || path.ends_with("/invoke-async/") {
        "invoke_async"
    } else if path.starts_with(url::PATH_PREFIX) {
        "function_url"
    } else if path == "/metrics" {
        "metrics"
    } else if path.starts_with("/_costrel") {
        "status"
    } else if path.starts_with("/20") {
        "control"
    } else {
        "other"
    }
}
