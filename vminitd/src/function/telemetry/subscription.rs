//! What a subscriber asks for.

use std::time::Duration;

use super::{Category, Record};
use crate::function::protocol;

/// Which of the two APIs, and in which version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Schema {
    Telemetry,
    /// `runtime_done`: whether `platform.runtimeDone` is part of it, as since 2021-03-18.
    Logs {
        runtime_done: bool,
    },
}

impl Schema {
    fn telemetry(version: Option<&str>) -> Option<Self> {
        matches!(version, Some("2022-07-01" | "2022-12-13")).then_some(Self::Telemetry)
    }

    fn logs(version: Option<&str>) -> Option<Self> {
        match version {
            None | Some("2020-08-15") => Some(Self::Logs { runtime_done: false }),
            Some("2021-03-18") => Some(Self::Logs { runtime_done: true }),
            Some(_) => None,
        }
    }

    pub(super) fn is_same_api(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Telemetry, Self::Telemetry) | (Self::Logs { .. }, Self::Logs { .. })
        )
    }

    /// Whether it has this type of platform event.
    fn knows(self, kind: &str) -> bool {
        match self {
            Self::Telemetry => {
                !matches!(kind, "platform.end" | "platform.fault" | "platform.logsSubscription")
            }
            Self::Logs { runtime_done: true } if kind == "platform.runtimeDone" => true,
            Self::Logs { .. } => matches!(
                kind,
                "platform.start"
                    | "platform.end"
                    | "platform.report"
                    | "platform.fault"
                    | "platform.extension"
                    | "platform.logsSubscription"
                    | "platform.logsDropped"
            ),
        }
    }
}

/// Where a subscriber listens, on the loopback interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Destination {
    Http { port: u16, authority: String, path: String },
    Tcp { port: u16 },
}

/// When a batch is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buffering {
    pub(super) max_items: usize,
    /// Of the records as JSON.
    pub(super) max_bytes: usize,
    /// Since its first record.
    pub(super) timeout: Duration,
}

/// A valid request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Subscription {
    pub(super) schema: Schema,
    pub(super) types: Vec<Category>,
    pub(super) buffering: Buffering,
    pub(super) destination: Destination,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    schema_version: Option<String>,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    buffering: RequestedBuffering,
    destination: Option<RequestedDestination>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RequestedBuffering {
    max_items: Option<u64>,
    max_bytes: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(serde::Deserialize)]
struct RequestedDestination {
    protocol: Option<String>,
    #[serde(rename = "URI", alias = "uri")]
    uri: Option<String>,
    port: Option<u16>,
}

impl Subscription {
    /// Reads a request for the Telemetry API, or else for the Logs API. What is wrong with it is
    /// all told at once.
    pub(super) fn read(body: &[u8], of_telemetry: bool) -> Result<Self, String> {
        let request: Request = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let mut wrong = Vec::new();
        let version = request.schema_version.as_deref();
        let schema = if of_telemetry { Schema::telemetry(version) } else { Schema::logs(version) };
        if schema.is_none() {
            wrong.push(format!("unsupported schemaVersion {}", version.unwrap_or("(none)")));
        }
        let mut types = Vec::new();
        for name in &request.types {
            match Category::of_name(name) {
                Some(category) if types.contains(&category) => {}
                Some(category) => types.push(category),
                None => wrong.push(format!("unsupported type {name}")),
            }
        }
        if request.types.is_empty() {
            wrong.push("types should not be empty".to_owned());
        }
        let buffering = request.buffering.read(&mut wrong);
        let destination = request.destination.ok_or("destination is not provided".to_owned());
        let destination = destination.and_then(RequestedDestination::read);
        match (schema, destination) {
            (Some(schema), Ok(destination)) if wrong.is_empty() => {
                Ok(Self { schema, types, buffering, destination })
            }
            (_, Err(error)) => {
                wrong.insert(0, error);
                Err(wrong.join("; "))
            }
            _ => Err(wrong.join("; ")),
        }
    }

    pub(super) fn wants(&self, record: &Record) -> bool {
        self.types.contains(&record.category)
            && (record.category != Category::Platform || self.schema.knows(&record.kind))
    }
}

impl RequestedBuffering {
    fn read(&self, wrong: &mut Vec<String>) -> Buffering {
        let mut bounded = |name: &str, value: Option<u64>, default: u64, least, most| {
            let value = value.unwrap_or(default);
            if !(least..=most).contains(&value) {
                wrong.push(format!("{name} should be between {least} and {most}"));
            }
            value
        };
        let max_items = bounded("maxItems", self.max_items, 10_000, 1_000, 10_000);
        let max_bytes = bounded("maxBytes", self.max_bytes, 262_144, 262_144, 1_048_576);
        let timeout = bounded("timeoutMs", self.timeout_ms, 1_000, 25, 30_000);
        let size = |value| usize::try_from(value).unwrap_or(usize::MAX);
        Buffering {
            max_items: size(max_items),
            max_bytes: size(max_bytes),
            timeout: Duration::from_millis(timeout),
        }
    }
}

impl RequestedDestination {
    fn read(self) -> Result<Destination, String> {
        let protocol = self.protocol.unwrap_or_default();
        let destination = match protocol.to_ascii_uppercase().as_str() {
            "HTTP" => {
                let uri: http::Uri = self
                    .uri
                    .ok_or("URI is not provided")?
                    .parse()
                    .map_err(|error| format!("URI is invalid: {error}"))?;
                if uri.scheme_str() != Some("http") {
                    return Err("URI scheme should be http".to_owned());
                }
                let host = uri.host().unwrap_or_default();
                if !["sandbox.localdomain", "sandbox", "localhost", "127.0.0.1"].contains(&host) {
                    return Err("URI host should be sandbox.localdomain".to_owned());
                }
                let port = uri.port_u16().ok_or("URI port is not provided")?;
                let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                Destination::Http { port, authority: format!("{host}:{port}"), path }
            }
            "TCP" => Destination::Tcp { port: self.port.ok_or("port is not provided")? },
            _ => return Err(format!("unsupported protocol {protocol}")),
        };
        let (Destination::Http { port, .. } | Destination::Tcp { port }) = destination;
        if port == 0 || port == protocol::PORT {
            return Err(format!("port {port} is reserved"));
        }
        Ok(destination)
    }
}
