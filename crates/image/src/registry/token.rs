//! Authorization: the challenge of a 401 and the header that answers it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{RegistryError, answer, credentials::Credentials, error::transport};

const LARGEST_TOKEN_ANSWER: usize = 1 << 20;

/// What a registry wants to see.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Challenge {
    /// The challenge of a 401 that can be met: a token goes before a password.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let challenges = http_auth::parse_challenges(value.to_str().ok()?).ok()?;
            for challenge in challenges {
                let parameter = |name: &str| {
                    let mut all = challenge.params.iter();
                    let found = all.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    Some(found.1.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let (service, scope) = (parameter("service"), parameter("scope"));
                    return Some(Self::Bearer { realm: parameter("realm")?, service, scope });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }

    /// The `Authorization` header that meets the challenge, or none if that takes credentials
    /// and there are none.
    pub(super) async fn meet(
        &self,
        http: &Client,
        registry: &Url,
        repository: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Option<String>, RegistryError> {
        if let Some(Credentials::AccessToken(token)) = credentials {
            return Ok(Some(format!("Bearer {token}")));
        }
        match (self, credentials) {
            (Self::Basic, Some(Credentials::Password { user, password })) => {
                Ok(Some(basic(user, password)))
            }
            (Self::Basic, _) => Ok(None),
            (Self::Bearer { realm, service, scope }, _) => {
                let url = realm_url(realm, registry)?;
                let default_scope = format!("repository:{repository}:pull");
                let scope = scope.as_deref().unwrap_or(&default_scope);
                let token =
                    request_token(http, url, service.as_deref(), scope, credentials).await?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A registry over HTTPS must not send passwords elsewhere in the clear.
fn realm_url(realm: &str, registry: &Url) -> Result<Url, RegistryError> {
    let wrong = || RegistryError::Realm { realm: realm.to_owned() };
    let url = Url::parse(realm).map_err(|_| wrong())?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if registry.scheme() == "http" => Ok(url),
        _ => Err(wrong()),
    }
}

async fn request_token(
    http: &Client,
    mut url: Url,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<String, RegistryError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let scopes = scope.split_ascii_whitespace();
    let request = match credentials {
        Some(Credentials::RefreshToken(token)) => {
            let mut form =
                Url::parse("form:").map_err(|_| RegistryError::Realm { realm: url.to_string() })?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "costrel")
                .append_pair("refresh_token", token)
                .append_pair("scope", scope)
                .extend_pairs(service.map(|service| ("service", service)));
            let body = form.query().unwrap_or_default().to_owned();
            http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        }
        _ => {
            url.query_pairs_mut()
                .extend_pairs(service.map(|service| ("service", service)))
                .extend_pairs(scopes.map(|scope| ("scope", scope)));
            let request = http.get(url);
            match credentials {
                Some(Credentials::Password { user, password }) => {
                    request.header(AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        }
    };
    let mut response = request.send().await.map_err(|error| transport(&host, error))?;
    if !response.status().is_success() {
        return Err(RegistryError::Token { host, answer: answer::explain(response).await });
    }
    parse_token(&mut response).await.ok_or_else(|| RegistryError::Token {
        host,
        answer: "an answer without a token".to_owned(),
    })
}

async fn parse_token(response: &mut Response) -> Option<String> {
    let body = answer::read_start(response, LARGEST_TOKEN_ANSWER).await;
    let answer: TokenAnswer = serde_json::from_slice(&body).ok()?;
    // The header is made of it.
    [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::read(&headers)
    }

    #[test]
    fn reads_challenges() {
        let bearer = Some(Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("registry.example".into()),
            scope: Some("repository:a/b:pull".into()),
        });
        let text = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull""#;
        assert_eq!(read(&[text]), bearer);
        assert_eq!(read(&[r#"Basic realm="x""#, text]), bearer);
        assert_eq!(read(&[&format!(r#"basic realm="x", {text}"#)]), bearer);
        assert_eq!(read(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(read(&["Negotiate"]), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["Bearer service=x"]), None);
    }

    #[test]
    fn a_password_stays_encrypted() {
        let registry = |scheme: &str| Url::parse(&format!("{scheme}://a.example/")).unwrap();
        assert!(realm_url("https://b.example/t", &registry("https")).is_ok());
        assert!(realm_url("http://b.example/t", &registry("https")).is_err());
        assert!(realm_url("http://b.example/t", &registry("http")).is_ok());
        assert!(realm_url("file:///etc/passwd", &registry("http")).is_err());
    }
}
