//! Cross-origin requests to function URLs, as their owner allows them.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

use crate::UrlCors;

/// Whether a web page of this origin may use the function URL.
pub(crate) fn allows(cors: &UrlCors, origin: &str) -> bool {
    cors.allow_origins
        .iter()
        .any(|allowed| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
}

/// Whether a browser asks if a request would be allowed.
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight; [`apply`] adds for whom it is. The function is not asked.
pub(super) fn preflight(cors: &UrlCors, request: &Request<Body>) -> Response {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let mut headers = HeaderMap::new();
    if origin.is_some_and(|origin| allows(cors, origin)) {
        list(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
        list(&mut headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
        if let Some(age) = cors.max_age_seconds {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, age.into());
        }
    }
    (StatusCode::OK, headers).into_response()
}

/// Says in a response who may read it, whatever the function says of that itself.
pub(super) fn apply(cors: &UrlCors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.remove(name);
    }
    let any = cors.allow_origins.iter().any(|allowed| allowed == "*");
    if !any || cors.allow_credentials {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = origin else { return };
    if !origin.to_str().is_ok_and(|origin| allows(cors, origin)) {
        return;
    }
    // Browsers take no `*` where credentials are sent.
    let allowed =
        if any && !cors.allow_credentials { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.allow_credentials {
        let value = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
    }
    list(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose_headers);
}

fn list(headers: &mut HeaderMap, name: http::HeaderName, values: &[String]) {
    if let Ok(value) = HeaderValue::try_from(values.join(","))
        && !values.is_empty()
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> UrlCors {
        UrlCors {
            allow_origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
            allow_methods: vec!["GET".to_owned(), "POST".to_owned()],
            allow_headers: vec!["x-a".to_owned()],
            expose_headers: vec!["x-b".to_owned()],
            max_age_seconds: Some(60),
            allow_credentials: false,
        }
    }

    fn applied(cors: &UrlCors, origin: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("access-control-allow-origin", HeaderValue::from_static("function's own"));
        apply(cors, Some(&HeaderValue::from_static(origin)), &mut headers);
        headers
    }

    #[test]
    fn allowed_origins_are_told_so() {
        let headers = applied(&cors(&["https://a.example"]), "https://a.example");
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-expose-headers"], "x-b");
        assert_eq!(headers["vary"], "Origin");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        let headers = applied(&cors(&["https://a.example"]), "https://b.example");
        assert!(!headers.contains_key("access-control-allow-origin"));
    }

    #[test]
    fn any_origin_is_a_star_unless_credentials_are_sent() {
        let mut any = cors(&["*"]);
        assert_eq!(applied(&any, "https://a.example")["access-control-allow-origin"], "*");
        any.allow_credentials = true;
        let headers = applied(&any, "https://a.example");
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-credentials"], "true");
    }

    #[test]
    fn preflights_are_answered_with_what_is_allowed() {
        let request = |origin: &str| {
            Request::options("/")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .body(Body::empty())
                .unwrap()
        };
        let cors = cors(&["https://a.example"]);
        let response = preflight(&cors, &request("https://a.example"));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["access-control-allow-methods"], "GET,POST");
        assert_eq!(response.headers()["access-control-allow-headers"], "x-a");
        assert_eq!(response.headers()["access-control-max-age"], "60");
        assert!(preflight(&cors, &request("https://b.example")).headers().is_empty());
        assert!(is_preflight(&request("https://a.example")));
    }
}
