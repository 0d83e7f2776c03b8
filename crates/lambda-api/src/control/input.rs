//! What requests bring: names in their paths, parameters in their queries, JSON in their bodies.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use costrel_catalog::{FunctionReference, PageRequest, Violations};
use http::{Request, request::Parts};
use serde::de::DeserializeOwned;

use crate::{
    ApiError, ErrorKind,
    body::{BodyError, collect},
};

/// The largest body that AWS takes for a function: 50 MiB of zip file in base64, and 256 KiB.
const BODY_LIMIT: usize = 70_167_211;

/// A JSON body, whatever its content type says: AWS's clients send none. An empty one is `{}`.
pub(super) struct Input<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _state: &S) -> Result<Self, ApiError> {
        let body = collect(request.into_body(), BODY_LIMIT).await.map_err(|error| match error {
            BodyError::TooLarge { .. } => {
                let message = format!("Request must be smaller than {BODY_LIMIT} bytes");
                ApiError::new(ErrorKind::RequestEntityTooLarge, message)
            }
            BodyError::Broken(_) => {
                ApiError::new(ErrorKind::InvalidRequestContent, "The request's body ended early.")
            }
        })?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text).map(Self).map_err(|error| {
            if error.is_data() {
                ApiError::new(ErrorKind::Serialization, error.to_string())
            } else {
                let message = format!("Could not parse request body into json: {error}");
                ApiError::new(ErrorKind::InvalidRequestContent, message)
            }
        })
    }
}

/// The query's parameters, decoded.
pub(super) struct Parameters(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Parameters {
    /// The first of this name that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// The function that the path names, with the query's `Qualifier`.
    pub(super) fn reference(&self, name: &str) -> Result<FunctionReference, ApiError> {
        Ok(name.parse::<FunctionReference>()?.qualified(self.get("Qualifier"))?)
    }

    /// `Marker` and `MaxItems`.
    pub(super) fn page(&self) -> Result<PageRequest, ApiError> {
        let max_items = match self.get("MaxItems") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::new(ErrorKind::Serialization, format!("{text:?} is not an integer"))
            })?),
        };
        Ok(PageRequest { marker: self.owned("Marker"), max_items })
    }
}

/// A version's number in a path.
pub(super) fn number(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_| {
        let constraint = "have value greater than or equal to 1";
        Violations::one("versionNumber", text, constraint).into()
    })
}

/// The host that the caller knows this server by, with its port.
pub(super) struct Host(pub(super) String);

impl<S: Sync> FromRequestParts<S> for Host {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let named = host.or(parts.uri.authority().map(http::uri::Authority::as_str));
        Ok(Self(named.unwrap_or("localhost").to_owned()))
    }
}

/// A zip file in base64.
pub(super) fn zip_file(text: &str) -> Result<Vec<u8>, ApiError> {
    BASE64_STANDARD.decode(text).map_err(|error| {
        ApiError::new(ErrorKind::Serialization, format!("The ZipFile is not base64: {error}"))
    })
}

/// A value of several, noted as a violation if it is none of them.
pub(super) fn choose<T: Copy>(
    violations: &mut Violations,
    member: &str,
    value: Option<&str>,
    values: &[(&str, T)],
) -> Option<T> {
    let value = value?;
    let found = values.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning);
    if found.is_none() {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        violations.one_of(member, value, &names);
    }
    found
}
