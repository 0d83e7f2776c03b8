//! What the caller decides about registries: where they are, whom they trust, how to get there.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::AuthFiles;

/// How an [`crate::ImageStore`] works.
#[derive(Clone, Debug, Default)]
pub struct StoreSettings {
    /// How it talks to registries.
    pub registry: RegistryConfig,
}

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Registries, as `host` or `host:port`, that are spoken to over plain HTTP. Those on
    /// loopback addresses are anyway.
    pub plain_http: Vec<String>,
    /// PEM files with certificates that are trusted beside the system's.
    pub root_certificates: Vec<PathBuf>,
    /// Where credentials are found.
    pub auth: AuthFiles,
    /// The proxies in between.
    pub proxies: Proxies,
    /// How many blobs are transferred at a time, at least 1.
    pub parallel_downloads: usize,
    /// How often and when a failed request is tried again.
    pub retry: Retry,
}

/// HTTP proxies, as URLs. Loopback addresses are never reached through one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxies {
    /// For registries over HTTPS.
    pub https: Option<String>,
    /// For registries over plain HTTP.
    pub http: Option<String>,
    /// Hosts that are reached without, in the notation of `NO_PROXY`.
    pub exceptions: Option<String>,
}

/// When a request is tried again that failed for a reason that may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// How often a request is made in all while nothing at all arrives.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles each time.
    pub first_delay: Duration,
    /// The longest pause, also where a registry asks for more: then its answer is an error.
    pub longest_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            root_certificates: Vec::new(),
            auth: AuthFiles::default(),
            proxies: Proxies::default(),
            parallel_downloads: 4,
            retry: Retry::default(),
        }
    }
}

impl RegistryConfig {
    /// The configuration that environment variables give: those of [`AuthFiles::from_variables`]
    /// and of [`Proxies::from_variables`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            auth: AuthFiles::from_variables(&variable),
            proxies: Proxies::from_variables(&variable),
            ..Self::default()
        }
    }
}

impl Proxies {
    /// The proxies that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` give, in lower
    /// case before upper case.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| {
            [name.to_owned(), name.to_ascii_uppercase()]
                .iter()
                .filter_map(|name| variable(name)?.into_string().ok())
                .find(|value| !value.is_empty())
        };
        let all = get("all_proxy");
        Self {
            https: get("https_proxy").or_else(|| all.clone()),
            http: get("http_proxy").or(all),
            exceptions: get("no_proxy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_from_variables() {
        let from = |pairs: &[(&str, &str)]| {
            Proxies::from_variables(|name| {
                let pair = pairs.iter().find(|(key, _)| *key == name)?;
                Some(pair.1.into())
            })
        };
        assert_eq!(from(&[]), Proxies::default());
        let proxies = from(&[("HTTPS_PROXY", "http://a"), ("https_proxy", "http://b")]);
        assert_eq!((proxies.https.as_deref(), proxies.http), (Some("http://b"), None));
        let proxies = from(&[("ALL_PROXY", "socks5://a"), ("HTTP_PROXY", ""), ("NO_PROXY", "x")]);
        assert_eq!(proxies.http.as_deref(), Some("socks5://a"));
        assert_eq!(proxies.exceptions.as_deref(), Some("x"));
    }
}
