//! The event of a function URL: payload format 2.0.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, Version, header, request::Parts};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};

use super::UrlRequest;
use crate::UrlAuth;

/// What an event is made of.
pub(super) struct Source<'a> {
    pub(super) parts: &'a Parts,
    pub(super) request: &'a UrlRequest,
    pub(super) body: &'a [u8],
    pub(super) request_id: &'a str,
    pub(super) trace_id: &'a str,
    /// The function's.
    pub(super) arn: &'a str,
    pub(super) at: Timestamp,
}

impl Source<'_> {
    pub(super) fn to_json(&self) -> String {
        let query = self.parts.uri.query().unwrap_or_default();
        let mut event = Map::new();
        let mut put = |key: &str, value: Value| event.insert(key.to_owned(), value);
        put("version", "2.0".into());
        put("routeKey", "$default".into());
        put("rawPath", self.request.path.as_str().into());
        put("rawQueryString", query.into());
        let cookies = cookies(&self.parts.headers);
        if !cookies.is_empty() {
            put("cookies", cookies.into());
        }
        put("headers", self.headers());
        let parameters = query_parameters(query);
        if !parameters.is_empty() {
            put("queryStringParameters", parameters.into());
        }
        put("requestContext", self.request_context());
        let (body, is_base64) = self.body();
        if let Some(body) = body {
            put("body", body.into());
        }
        put("isBase64Encoded", is_base64.into());
        Value::Object(event).to_string()
    }

    /// In lower case, several of a name joined, and with what AWS's front adds.
    fn headers(&self) -> Value {
        let mut headers = Map::new();
        for name in self.parts.headers.keys() {
            if *name == header::COOKIE {
                continue;
            }
            let values = self.parts.headers.get_all(name).iter();
            let values: Vec<_> =
                values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            headers.insert(name.as_str().to_owned(), values.join(",").into());
        }
        let source = self.source_ip();
        let forwarded = match headers.get("x-forwarded-for").and_then(Value::as_str) {
            Some(before) => format!("{before}, {source}"),
            None => source,
        };
        let host = self.host();
        let port = host.rsplit_once(':').map_or("80", |(_, port)| port).to_owned();
        for (name, value) in [
            ("x-forwarded-for", forwarded),
            ("x-forwarded-proto", "http".to_owned()),
            ("x-forwarded-port", port),
            ("x-amzn-trace-id", self.trace_id.to_owned()),
        ] {
            headers.insert(name.to_owned(), value.into());
        }
        headers.into()
    }

    fn host(&self) -> &str {
        let host = self.parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.unwrap_or_default()
    }

    fn source_ip(&self) -> String {
        self.request.peer.map_or_else(|| "127.0.0.1".to_owned(), |peer| peer.ip().to_string())
    }

    fn request_context(&self) -> Value {
        let id = &self.request.url.id;
        let account = self.arn.split(':').nth(4).unwrap_or_default();
        let domain = self.host();
        let domain = domain.rsplit_once(':').map_or(domain, |(domain, _)| domain);
        let agent = self.parts.headers.get(header::USER_AGENT);
        let mut context = json!({
            "accountId": "anonymous",
            "apiId": id,
            "domainName": domain,
            "domainPrefix": id,
            "http": {
                "method": self.parts.method.as_str(),
                "path": self.request.path,
                "protocol": if self.parts.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
                "sourceIp": self.source_ip(),
                "userAgent": agent.map(|agent| String::from_utf8_lossy(agent.as_bytes())),
            },
            "requestId": self.request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": self
                .at
                .to_zoned(TimeZone::UTC)
                .strftime("%d/%b/%Y:%H:%M:%S +0000")
                .to_string(),
            "timeEpoch": self.at.as_millisecond(),
        });
        if self.request.url.auth == UrlAuth::Iam {
            context["accountId"] = account.into();
            context["authorizer"] = json!({ "iam": {
                "accessKey": self.access_key(),
                "accountId": account,
                "callerId": self.access_key(),
                "cognitoIdentity": null,
                "principalOrgId": null,
                "userArn": format!("arn:aws:iam::{account}:root"),
                "userId": self.access_key(),
            }});
        }
        context
    }

    /// The id of the key that the request claims to be signed with.
    fn access_key(&self) -> String {
        let authorization = self.parts.headers.get(header::AUTHORIZATION);
        let key = authorization.and_then(|value| {
            let (_, credential) = value.to_str().ok()?.split_once("Credential=")?;
            Some(credential.split_once('/')?.0.to_owned())
        });
        let presigned = || {
            let query = self.parts.uri.query().unwrap_or_default();
            let credential = query_parameters(query).remove("X-Amz-Credential")?;
            Some(credential.as_str()?.split('/').next()?.to_owned())
        };
        key.or_else(presigned).unwrap_or_default()
    }

    /// The body as text, if it is of a type that AWS takes for text; otherwise in base64.
    fn body(&self) -> (Option<String>, bool) {
        if self.body.is_empty() {
            return (None, false);
        }
        let media_type = self.parts.headers.get(header::CONTENT_TYPE);
        let is_text =
            media_type.is_none_or(|media_type| is_text(media_type.to_str().unwrap_or_default()));
        match std::str::from_utf8(self.body) {
            Ok(text) if is_text => (Some(text.to_owned()), false),
            _ => (Some(BASE64_STANDARD.encode(self.body)), true),
        }
    }
}

/// Forms are not among them: AWS encodes those.
fn is_text(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || ["application/json", "application/javascript", "application/xml"]
            .contains(&essence.as_str())
        || (essence.starts_with("application/")
            && (essence.ends_with("+json") || essence.ends_with("+xml")))
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let headers = headers.get_all(header::COOKIE).iter();
    headers
        .flat_map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            value.split(';').map(|cookie| cookie.trim().to_owned()).collect::<Vec<_>>()
        })
        .filter(|cookie| !cookie.is_empty())
        .collect()
}

/// Decoded, several of a name joined by commas.
fn query_parameters(query: &str) -> Map<String, Value> {
    let mut parameters: Map<String, Value> = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match parameters.get_mut(name.as_ref()) {
            Some(Value::String(values)) => {
                values.push(',');
                values.push_str(&value);
            }
            _ => {
                parameters.insert(name.into_owned(), value.into());
            }
        }
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_aws_takes_for_it() {
        for text in [
            "text/plain",
            "TEXT/HTML; charset=utf-8",
            "application/json",
            "application/xml",
            "application/javascript",
            "application/vnd.api+json",
            "application/atom+xml",
        ] {
            assert!(is_text(text), "{text}");
        }
        for binary in [
            "application/octet-stream",
            "image/png",
            "image/svg+xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "",
        ] {
            assert!(!is_text(binary), "{binary}");
        }
    }

    #[test]
    fn query_parameters_are_decoded_and_joined() {
        let parameters = query_parameters("a=1&b=%2B+x&a=2&c");
        assert_eq!(Value::from(parameters), json!({ "a": "1,2", "b": "+ x", "c": "" }));
        assert!(query_parameters("").is_empty());
    }
}
