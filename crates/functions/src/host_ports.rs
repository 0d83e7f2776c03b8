//! Which ports of the host's loopback a function reaches: those that its environment names, and
//! those that its owner adds.
//!
//! A value names a port where a URL in it, or a `host:port`, is of `localhost`, `127.0.0.1`, `[::1]`
//! or `host.costrel.internal`. A URL without a port names its scheme's. What else stands in a value
//! (`host=localhost port=5432`) names none: its owner adds those. An image's own environment names
//! none either, since whoever made the image does not decide what is reached on this host.

use std::collections::BTreeMap;

use costrel_agent_client::HOST_ALIAS;
use costrel_sandbox::{HOST_PORT_LIMIT, HostNames, HostPort};

/// Where the Runtime API is at localhost, always.
const RUNTIME_API_PORT: u16 = 9001;

/// More ports of the host than a function can reach.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the function's environment and its owner name {0} ports of this host: at most {HOST_PORT_LIMIT} can be reached"
)]
pub struct TooManyHostPorts(usize);

/// The ports, in order, each once.
///
/// A port that is named by the alias only is left free at localhost, where the function may listen
/// itself. So is the Runtime API's: an environment that says `localhost:9001` means that one.
pub(crate) fn host_ports(
    environment: &[(String, String)],
    added: &[u16],
) -> Result<Vec<HostPort>, TooManyHostPorts> {
    let mut ports = BTreeMap::new();
    let named = environment.iter().flat_map(|(_, value)| named_ports(value));
    let named = named.filter(|named| *named != (RUNTIME_API_PORT, HostNames::AliasAndLocalhost));
    let added = added.iter().map(|port| match *port {
        RUNTIME_API_PORT => (RUNTIME_API_PORT, HostNames::Alias),
        port => (port, HostNames::AliasAndLocalhost),
    });
    for (port, names) in named.chain(added).filter(|(port, _)| *port > 0) {
        let known = ports.entry(port).or_insert(names);
        *known = names.max(*known);
    }
    if ports.len() > HOST_PORT_LIMIT {
        return Err(TooManyHostPorts(ports.len()));
    }
    Ok(ports.into_iter().map(|(port, names)| HostPort { port, names }).collect())
}

/// The ports that a variable's value names. URLs and addresses may stand in it among other things:
/// in JSON, in lists, in a data source's name.
fn named_ports(value: &str) -> Vec<(u16, HostNames)> {
    let around = |c: char| c.is_whitespace() || "\"'`()<>{};|\\".contains(c);
    value.split(around).flat_map(ports_in_word).collect()
}

/// A word is a list of addresses, separated by commas. One without a scheme has the one of its
/// predecessor, as in `mongodb://localhost,localhost:27018/db`.
fn ports_in_word(word: &str) -> Vec<(u16, HostNames)> {
    // A list may be in brackets, as an address of IPv6 is.
    let list = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let word = list.filter(|_| !word.starts_with("[::1]")).unwrap_or(word);
    let mut scheme = None;
    let mut ports = Vec::new();
    for piece in word.split(',') {
        let authority = |text| str::split(text, ['/', '?', '#']).next().unwrap_or_default();
        let authority = match piece.split_once("://") {
            Some((before, after)) => {
                scheme = before.rsplit(|c: char| !is_of_scheme(c)).next();
                authority(after)
            }
            None => authority(piece).rsplit('=').next().unwrap_or_default(),
        };
        let host_and_port = authority.rsplit('@').next().unwrap_or_default();
        ports.extend(local_port(host_and_port, scheme));
    }
    ports
}

fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-.".contains(c)
}

/// The port of an address of this host's.
fn local_port(host_and_port: &str, scheme: Option<&str>) -> Option<(u16, HostNames)> {
    let (names, after) = [
        ("localhost", HostNames::AliasAndLocalhost),
        ("127.0.0.1", HostNames::AliasAndLocalhost),
        ("[::1]", HostNames::AliasAndLocalhost),
        (HOST_ALIAS, HostNames::Alias),
    ]
    .into_iter()
    .find_map(|(host, names)| {
        let (start, after) = host_and_port.split_at_checked(host.len())?;
        start.eq_ignore_ascii_case(host).then_some((names, after))
    })?;
    let port = match after.strip_prefix(':') {
        // Without a sign, which numbers may have and ports may not.
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().ok()?
        }
        None if after.is_empty() => default_port(scheme?)?,
        Some(_) | None => return None,
    };
    (port > 0).then_some((port, names))
}

/// The port of a scheme. What is named after a `+` is a driver: `postgresql+psycopg`.
fn default_port(scheme: &str) -> Option<u16> {
    let scheme = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
    Some(match scheme.as_str() {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        "redis" | "rediss" | "valkey" | "valkeys" => 6379,
        "postgres" | "postgresql" => 5432,
        "mysql" | "mariadb" => 3306,
        "mongodb" => 27017,
        "amqp" => 5672,
        "amqps" => 5671,
        "nats" => 4222,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `port` at localhost, or `@port` by the alias only.
    fn named(value: &str) -> String {
        let environment = [("NAME".to_owned(), value.to_owned())];
        let ports = host_ports(&environment, &[]).unwrap();
        let text = ports.iter().map(|host_port| match host_port.names {
            HostNames::Alias => format!("@{}", host_port.port),
            HostNames::AliasAndLocalhost => host_port.port.to_string(),
        });
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn values_name_ports() {
        for (value, ports) in [
            ("http://localhost:4566", "4566"),
            ("http://localhost:4566/path?a=b#c", "4566"),
            ("HTTP://LocalHost:4566", "4566"),
            ("http://127.0.0.1:8000/", "8000"),
            ("http://[::1]:8000/", "8000"),
            ("http://host.costrel.internal:8080", "@8080"),
            ("http://host.costrel.internal:8080 http://localhost:8080", "8080"),
            ("localhost:9092", "9092"),
            ("[::1]:9092", "9092"),
            ("host.costrel.internal:9092", "@9092"),
            ("localhost:9092,localhost:9093,[::1]:9094,other:9095", "9092 9093 9094"),
            ("[localhost:9092,localhost:9093]", "9092 9093"),
            ("[[::1]:9092,localhost:9093]", "9092 9093"),
            ("[::1]:9092,http://[::1]", "80 9092"),
            ("nats://localhost:4222,nats://localhost:4223", "4222 4223"),
            ("localhost:11211/0", "11211"),
            ("--endpoint=localhost:7000", "7000"),
            ("user:secret@localhost:7000", "7000"),
            (r#"{"url":"http://localhost:3000","more":["127.0.0.1:3001"]}"#, "3000 3001"),
            ("user:secret@tcp(127.0.0.1:3307)/database?parseTime=true", "3307"),
            ("jdbc:postgresql://localhost:5433/db", "5433"),
            (
                "BlobEndpoint=http://127.0.0.1:10000/a;QueueEndpoint=http://127.0.0.1:10001/a",
                "10000 10001",
            ),
            ("postgres://user:p@ss@localhost/db", "5432"),
            ("postgresql+psycopg://localhost/db", "5432"),
            ("mongodb://user:secret@localhost,localhost:27018/db?replicaSet=r", "27017 27018"),
            ("http://localhost", "80"),
            ("https://localhost/", "443"),
            ("redis://:secret@127.0.0.1/1", "6379"),
            ("mysql://root@localhost/db", "3306"),
            ("amqp://localhost amqps://127.0.0.1/v", "5671 5672"),
            ("nats://[::1]", "4222"),
            ("ws://localhost wss://localhost", "80 443"),
            ("http://localhost:65535", "65535"),
        ] {
            assert_eq!(named(value), ports, "{value}");
        }
    }

    #[test]
    fn other_values_name_none() {
        for value in [
            "",
            "localhost",
            "127.0.0.1",
            "::1",
            "8080",
            ":8080",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:+80",
            "localhost:80x",
            "localhost:80:81",
            "localhost.example.com:80",
            "notlocalhost:80",
            "not.localhost:80",
            "http://127.0.0.10:80",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com:80",
            "http://localhost:80@example.com/",
            "http://example.com/localhost:80",
            "http://example.com/?to=http://localhost:80",
            "http://example.com:80/#localhost:80",
            "unknown://localhost",
            "file:///localhost:80",
            "host=localhost port=5432",
            "0.0.0.0:80",
            "10.0.0.1:80",
            "http://[::2]:80",
            "http://[::1:80",
            "http://localhost:９０",
            "日本語localhost:80",
        ] {
            assert_eq!(named(value), "", "{value}");
        }
    }

    #[test]
    fn the_runtime_api_keeps_its_port() {
        assert_eq!(named("http://localhost:9001"), "");
        assert_eq!(named("http://host.costrel.internal:9001"), "@9001");
        let ports = host_ports(&[], &[9001, 80]).unwrap();
        let port = |port, names| HostPort { port, names };
        let expected = [port(80, HostNames::AliasAndLocalhost), port(9001, HostNames::Alias)];
        assert_eq!(ports, expected);
    }

    #[test]
    fn no_more_than_the_limit() {
        let limit = u16::try_from(HOST_PORT_LIMIT).unwrap();
        let added: Vec<u16> = (1..=limit).collect();
        assert_eq!(host_ports(&[], &added).unwrap().len(), HOST_PORT_LIMIT);
        let one_more = [("URL".to_owned(), "http://localhost:20000".to_owned())];
        assert_eq!(host_ports(&one_more, &added), Err(TooManyHostPorts(HOST_PORT_LIMIT + 1)));
        let known = [("URL".to_owned(), "http://localhost:1".to_owned())];
        assert!(host_ports(&known, &added).is_ok());
    }
}
