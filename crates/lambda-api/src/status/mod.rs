//! The status page, at `/_costrel`: functions, instances, and where the time of recent invocations
//! went.
//!
//! It is rendered here, works without scripts, and needs nothing from elsewhere. A script asks for
//! the page's content again while somebody looks at it. Names and logs come from guests and callers:
//! all text goes through [`html::Text`], and the policy that is sent along lets nothing run but this
//! page's own script.

mod assets;
mod html;
mod invocation;
mod overview;
mod source;
#[cfg(test)]
mod tests;
mod waterfall;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};

pub use self::source::{FunctionOrigin, FunctionRow, StatusSource};
use crate::History;

/// Nothing but what is served here, and no script or style within the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What the page shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) source: Arc<dyn StatusSource>,
    pub(crate) history: History,
}

/// The page's routes, all of them below `/_costrel`.
pub(crate) fn routes(source: Arc<dyn StatusSource>, history: History) -> Router {
    Router::new()
        .route("/_costrel", get(page))
        .route("/_costrel/", get(page))
        .route("/_costrel/api/overview", get(content))
        .route("/_costrel/invocations/{request_id}", get(one_invocation))
        .route("/_costrel/style.css", get(|| async { asset(assets::STYLE, "text/css") }))
        .route("/_costrel/script.js", get(|| async { asset(assets::SCRIPT, "text/javascript") }))
        .route("/_costrel/icon.svg", get(|| async { asset(assets::ICON, "image/svg+xml") }))
        .with_state(Shown { source, history })
}

async fn page(State(shown): State<Shown>) -> Response {
    let content = overview::content(&shown);
    document(StatusCode::OK, &html::page("Costrel", &content, html::Liveness::Live))
}

/// What the script puts into the page: nothing, if it is what the script has already.
async fn content(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let content = overview::content(&shown);
    let tag = html::entity_tag(&content);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == tag.as_bytes()) {
        return secured(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut response = document(StatusCode::OK, &content);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

async fn one_invocation(State(shown): State<Shown>, Path(request_id): Path<String>) -> Response {
    let Some(entry) = shown.history.find(&request_id) else {
        let content = invocation::unknown(&request_id);
        let page = html::page("Unknown invocation", &content, html::Liveness::Still);
        return document(StatusCode::NOT_FOUND, &page);
    };
    let source = Arc::clone(&shown.source);
    let asked = Arc::clone(&entry);
    // Logs are files.
    let log = tokio::task::spawn_blocking(move || source.log(&asked)).await;
    let log = log.unwrap_or_else(|_| Err("the log was not read".to_owned()));
    let content = invocation::content(&entry, &log);
    let title = format!("{} · Costrel", entry.function);
    document(StatusCode::OK, &html::page(&title, &content, html::Liveness::Still))
}

fn document(status: StatusCode, html: &str) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    secured((status, kind, html.to_owned()).into_response())
}

fn asset(content: &'static str, kind: &'static str) -> Response {
    secured(([(header::CONTENT_TYPE, kind)], content).into_response())
}

fn secured(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
