//! Who may call: this host's own programs, or whoever has the token; and no web page by way of a
//! browser.
//!
//! Without a token every program on this host is trusted. A browser is one of them that does what
//! strangers' pages say: such a request bears a host name that is not this host's own (DNS
//! rebinding), or the origin of another page, and is refused.

use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Method, Request, header, request::Parts, uri::Authority};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::{
    ApiError, ErrorKind, FunctionUrl, Token,
    body::collect,
    signature::{Signature, is_same_secret},
    url,
};

/// The largest request that is verified: a zip file of 50 MB in base64, and what is around it.
const LARGEST_SIGNED: usize = 80 << 20;
/// So many bodies are read at a time before it is known whether their signature is right.
const UNVERIFIED_BODIES: usize = 8;
/// How long one of them may take: whoever has no token must not keep the others waiting.
const UNVERIFIED_LIMIT: Duration = Duration::from_secs(60);

/// Decides who may call.
pub(crate) struct Guard {
    token: Option<Token>,
    host_aliases: Vec<String>,
    unverified: Semaphore,
}

/// What is asked for, as far as it matters for who may ask.
#[derive(Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// An operation of the API. A page may be navigated to if nothing comes of a GET.
    Operation,
    /// Something that is invoked by any method.
    AnyMethod,
    /// Something that is invoked by any method, by this host's own pages as well.
    HostsPages,
    /// A function URL.
    Url(&'a FunctionUrl),
}

impl Purpose<'_> {
    fn is_any_method(self) -> bool {
        matches!(self, Self::AnyMethod | Self::HostsPages)
    }
}

impl Guard {
    /// A guard that lets in whoever has the token, or without one whoever is on this host and no
    /// web page. `host_aliases` are names of this host that its guests know it by.
    pub(crate) fn new(token: Option<Token>, host_aliases: Vec<String>) -> Self {
        Self { token, host_aliases, unverified: Semaphore::new(UNVERIFIED_BODIES) }
    }

    /// The request's host, with its port if that is named.
    ///
    /// # Errors
    /// There is none or more than one, or it is not a name of this host at this port. `port` is
    /// where the request came in, if that is known.
    pub(crate) fn host(&self, request: &Parts, port: Option<u16>) -> Result<String, ApiError> {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().ok(),
            _ => None,
        };
        let authority = host
            .and_then(|host| host.parse::<Authority>().ok())
            .filter(|authority| !authority.as_str().contains('@'))
            // A proxy's form of a request names the host twice.
            .filter(|host| request.uri.authority().is_none_or(|also| also == host))
            .ok_or_else(|| ApiError::invalid_parameter("The request must name one host."))?;
        if self.token.is_some() {
            return Ok(authority.to_string());
        }
        let is_here = port.is_none_or(|port| authority.port_u16().unwrap_or(80) == port);
        let name = authority.host();
        if is_here && (is_loopback(name) || self.is_alias(name)) {
            return Ok(authority.to_string());
        }
        Err(refused(&format!(
            "The host {authority} is not this server's. Without a token it answers to localhost, \
             to names below it and to loopback addresses, at the port it listens on."
        )))
    }

    fn is_alias(&self, host: &str) -> bool {
        self.host_aliases.iter().any(|alias| alias.eq_ignore_ascii_case(host))
    }

    /// Whether the request is of a browser on behalf of a page that has no business here. `host` is
    /// what [`Guard::host`] gave.
    ///
    /// # Errors
    /// It is.
    pub(crate) fn check_origin(
        &self,
        request: &Parts,
        host: &str,
        purpose: Purpose<'_>,
    ) -> Result<(), ApiError> {
        if self.token.is_some() {
            // A page does not know it, and a browser does not add it by itself.
            return Ok(());
        }
        let headers = &request.headers;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let origin = origin.to_str().unwrap_or("null");
            let allowed = origins.next().is_none() && is_allowed(origin, host, purpose);
            return if allowed && !self.is_alias(name_of(host)) {
                Ok(())
            } else {
                Err(refused(&format!("Web pages of the origin {origin} may not call this server.")))
            };
        }
        // Browsers send no origin with images, scripts, links and the like.
        let fetch = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let is_navigation = fetch("sec-fetch-mode") == Some("navigate")
            && fetch("sec-fetch-dest") == Some("document")
            && [Method::GET, Method::HEAD].contains(&request.method)
            && !purpose.is_any_method();
        match fetch("sec-fetch-site") {
            None | Some("none" | "same-origin") => Ok(()),
            Some(_) if is_navigation => Ok(()),
            Some("same-site") if !purpose.is_any_method() => Ok(()),
            Some(_) => Err(refused("Other web pages may not call this server.")),
        }
    }

    /// Whether the caller has the token, if there is one to have. What of the body had to be read
    /// for that is put back.
    ///
    /// # Errors
    /// The caller has not.
    pub(crate) async fn check_token(
        &self,
        request: Request<Body>,
    ) -> Result<Request<Body>, ApiError> {
        let Some(token) = &self.token else { return Ok(request) };
        let (parts, body) = request.into_parts();
        if let Some(presented) = bearer(&parts.headers) {
            return if is_same_secret(presented, token.secret()) {
                Ok(Request::from_parts(parts, body))
            } else {
                Err(ApiError::new(
                    ErrorKind::UnrecognizedClient,
                    "The security token included in the request is invalid.",
                ))
            };
        }
        let wrong = |error: crate::signature::SignatureError| {
            ApiError::new(ErrorKind::InvalidSignature, error.to_string())
        };
        let Some(signature) = Signature::read(&parts, Timestamp::now()).map_err(wrong)? else {
            return Err(ApiError::new(
                ErrorKind::MissingAuthenticationToken,
                "Missing Authentication Token",
            ));
        };
        if !signature.needs_payload() {
            signature.verify(&parts, &[], token.secret()).map_err(wrong)?;
        }
        let permit = self.unverified.acquire().await;
        let unread = |error: &dyn std::error::Error| {
            ApiError::new(ErrorKind::InvalidSignature, format!("The request body: {error}"))
        };
        let payload = tokio::time::timeout(UNVERIFIED_LIMIT, collect(body, LARGEST_SIGNED))
            .await
            .map_err(|late| unread(&late))?
            .map_err(|error| unread(&error))?;
        if signature.needs_payload() {
            signature.verify(&parts, &payload, token.secret()).map_err(wrong)?;
        } else {
            signature.verify_payload(&payload).map_err(wrong)?;
        }
        drop(permit);
        Ok(Request::from_parts(parts, Body::from(payload)))
    }
}

fn refused(why: &str) -> ApiError {
    ApiError::new(ErrorKind::AccessDenied, why)
}

/// The token that a request presents as it is.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

fn is_allowed(origin: &str, host: &str, purpose: Purpose<'_>) -> bool {
    let own = origin.strip_prefix("http://").is_some_and(|page| page.eq_ignore_ascii_case(host));
    match purpose {
        Purpose::Operation | Purpose::AnyMethod => own,
        Purpose::Url(FunctionUrl { cors: Some(cors), .. }) => own || url::allows(cors, origin),
        // Where the function is left to say who may use it, it is asked by pages of this host only:
        // those of whoever develops it.
        Purpose::Url(FunctionUrl { cors: None, .. }) | Purpose::HostsPages => {
            let page = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            own || page.is_some_and(|page| is_loopback(name_of(page)))
        }
    }
}

fn name_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

/// Whether nobody but this host can answer to the name.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UrlAuth, UrlCors, UrlMode};

    fn guard() -> Guard {
        Guard::new(None, vec!["host.costrel.internal".to_owned()])
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host(host: &str) -> Result<String, ApiError> {
        guard().host(&request("GET", "/", &[("host", host)]), Some(9000))
    }

    #[test]
    fn names_of_this_host_are_answered_to() {
        for name in [
            "localhost:9000",
            "LOCALHOST:9000",
            "127.0.0.1:9000",
            "127.9.9.9:9000",
            "[::1]:9000",
            "id.lambda-url.us-east-1.localhost:9000",
            "host.costrel.internal:9000",
        ] {
            assert_eq!(host(name).unwrap(), name);
        }
        assert!(guard().host(&request("GET", "/", &[("host", "localhost")]), Some(80)).is_ok());
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "evil.example:9000",
            "localhost",
            "localhost:9001",
            "localhost.evil.example:9000",
            "evillocalhost:9000",
            "10.0.0.1:9000",
            "0.0.0.0:9000",
            "127.0.0.1.nip.io:9000",
            "localhost@evil.example:9000",
            "[::2]:9000",
            "127.1:9000",
        ] {
            assert!(host(name).is_err(), "{name}");
        }
        let two = request("GET", "/", &[("host", "localhost:9000"), ("host", "localhost:9000")]);
        assert!(guard().host(&two, Some(9000)).is_err());
        assert!(guard().host(&request("GET", "/", &[]), Some(9000)).is_err());
        let proxied = request("GET", "http://evil.example/", &[("host", "localhost:9000")]);
        assert!(guard().host(&proxied, Some(9000)).is_err());
    }

    fn origin(headers: &[(&str, &str)], method: &str, purpose: Purpose<'_>) -> bool {
        let request = request(method, "/", headers);
        guard().check_origin(&request, "localhost:9000", purpose).is_ok()
    }

    #[test]
    fn other_pages_are_refused() {
        let of = |value, purpose| origin(&[("origin", value)], "POST", purpose);
        assert!(of("http://localhost:9000", Purpose::Operation));
        for page in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "https://localhost:9000",
            "http://127.0.0.1:9000",
            "http://localhost",
            "",
        ] {
            assert!(!of(page, Purpose::Operation), "{page}");
            assert!(!of(page, Purpose::AnyMethod), "{page}");
        }
        let twice = [("origin", "http://localhost:9000"), ("origin", "http://evil.example")];
        assert!(!origin(&twice, "POST", Purpose::Operation));
        assert!(origin(&[], "POST", Purpose::Operation));
    }

    #[test]
    fn a_guest_names_this_host_by_an_alias_and_a_page_may_not() {
        let request = request("POST", "/", &[("origin", "http://host.costrel.internal:9000")]);
        let host = "host.costrel.internal:9000";
        assert!(guard().check_origin(&request, host, Purpose::Operation).is_err());
    }

    #[test]
    fn requests_without_an_origin_tell_their_site() {
        let cross = |mode, dest, method, purpose| {
            let headers = [
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            origin(&headers, method, purpose)
        };
        assert!(cross("navigate", "document", "GET", Purpose::Operation));
        assert!(!cross("navigate", "document", "POST", Purpose::Operation));
        assert!(!cross("navigate", "document", "GET", Purpose::AnyMethod));
        assert!(!cross("navigate", "iframe", "GET", Purpose::Operation));
        assert!(!cross("no-cors", "image", "GET", Purpose::Operation));
        let same_site = [("sec-fetch-site", "same-site")];
        assert!(origin(&same_site, "GET", Purpose::Operation));
        assert!(!origin(&same_site, "GET", Purpose::AnyMethod));
        assert!(origin(&[("sec-fetch-site", "same-origin")], "GET", Purpose::AnyMethod));
    }

    #[test]
    fn a_function_url_is_for_the_pages_that_its_owner_names() {
        let mut url = FunctionUrl {
            id: "id".to_owned(),
            function: "f".to_owned(),
            qualifier: None,
            auth: UrlAuth::None,
            mode: UrlMode::Buffered,
            cors: Some(UrlCors {
                allow_origins: vec!["https://app.example".to_owned()],
                ..UrlCors::default()
            }),
        };
        let of = |url: &FunctionUrl, page| origin(&[("origin", page)], "POST", Purpose::Url(url));
        assert!(of(&url, "https://app.example") && of(&url, "http://localhost:9000"));
        assert!(!of(&url, "https://evil.example") && !of(&url, "http://localhost:3000"));
        url.cors = None;
        assert!(of(&url, "http://localhost:3000") && of(&url, "https://127.0.0.1:3000"));
        assert!(!of(&url, "https://app.example") && !of(&url, "null"));
    }

    async fn token(headers: &[(&str, &str)], body: &'static str) -> Result<(), ErrorKind> {
        let guard = Guard::new(Some(Token::new("the token".to_owned())), Vec::new());
        let parts = request("POST", "/", headers);
        let request = Request::from_parts(parts, Body::from(body));
        match guard.check_token(request).await {
            Ok(request) => {
                assert_eq!(collect(request.into_body(), 1 << 20).await.unwrap(), body);
                Ok(())
            }
            Err(error) => Err(error.kind()),
        }
    }

    #[tokio::test]
    async fn a_token_is_presented_or_signed_with() {
        assert_eq!(token(&[("authorization", "Bearer the token")], "{}").await, Ok(()));
        assert_eq!(token(&[("authorization", "bearer the token")], "{}").await, Ok(()));
        let wrong = token(&[("authorization", "Bearer the")], "{}").await;
        assert_eq!(wrong, Err(ErrorKind::UnrecognizedClient));
        assert_eq!(token(&[], "{}").await, Err(ErrorKind::MissingAuthenticationToken));
        let basic = token(&[("authorization", "Basic OnRoZSB0b2tlbg==")], "{}").await;
        assert_eq!(basic, Err(ErrorKind::MissingAuthenticationToken));
        let stale = token(
            &[
                ("host", "h"),
                ("x-amz-date", "20200101T000000Z"),
                (
                    "authorization",
                    "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/lambda/aws4_request, SignedHeaders=host;x-amz-date, Signature=0000000000000000000000000000000000000000000000000000000000000000",
                ),
            ],
            "{}",
        )
        .await;
        assert_eq!(stale, Err(ErrorKind::InvalidSignature));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_token_keeps_nobody_waiting_for_long() {
        let guard = Guard::new(Some(Token::new("the token".to_owned())), Vec::new());
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let claim = format!(
            "AWS4-HMAC-SHA256 Credential=a/{}/us-east-1/lambda/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
            &now[..8],
            "0".repeat(64)
        );
        let headers = [("host", "h"), ("x-amz-date", &*now), ("authorization", &*claim)];
        let stalled = || {
            let body = tokio_stream::pending::<Result<&'static [u8], std::convert::Infallible>>();
            Request::from_parts(request("POST", "/", &headers), Body::from_stream(body))
        };
        let mut waiting = tokio::task::JoinSet::new();
        let guard = std::sync::Arc::new(guard);
        for _ in 0..2 * UNVERIFIED_BODIES {
            let (guard, request) = (guard.clone(), stalled());
            waiting.spawn(async move { guard.check_token(request).await.map(drop) });
        }
        let began = tokio::time::Instant::now();
        for ended in waiting.join_all().await {
            assert_eq!(ended.unwrap_err().kind(), ErrorKind::InvalidSignature);
        }
        assert_eq!(began.elapsed().as_secs(), 2 * UNVERIFIED_LIMIT.as_secs());
    }
}
