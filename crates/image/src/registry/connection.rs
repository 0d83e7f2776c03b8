//! The way to a registry: plain HTTP or TLS, trust, proxies, redirects.

use std::{fs, net::IpAddr, time::Duration};

use reqwest::{Certificate, Client, NoProxy, Proxy, StatusCode, Url, redirect};

use super::{RegistryError, answer};
use crate::RegistryConfig;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest silence within an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A registry on loopback may all the same speak TLS only. To plain HTTP Go's and nginx's
/// servers then answer 400 and say why; others break the connection.
pub(super) async fn speaks_tls(http: &Client, plain: Url, secure: Url) -> bool {
    match http.get(plain).send().await {
        Ok(response) if response.status() == StatusCode::BAD_REQUEST => {
            answer::explain(response).await.contains("HTTPS")
        }
        Ok(_) => false,
        Err(error) if error.is_connect() => false,
        Err(_) => http.get(secure).send().await.is_ok(),
    }
}

pub(super) fn http_client(
    config: &RegistryConfig,
    host: &str,
    plain: bool,
) -> Result<Client, RegistryError> {
    let setup = |source| RegistryError::Setup { host: host.to_owned(), source };
    // For the whole process; whoever installed another one keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut certificates = Vec::new();
    for path in &config.root_certificates {
        let pem = fs::read(path)
            .map_err(|source| RegistryError::CertificateFile { path: path.clone(), source })?;
        certificates.extend(Certificate::from_pem_bundle(&pem).map_err(setup)?);
    }
    let client = || {
        let mut builder = Client::builder()
            .user_agent(concat!("costrel/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(redirect::Policy::custom(follow))
            // Proxies are the caller's word, not the environment's.
            .no_proxy();
        let exceptions = match &config.proxies.exceptions {
            Some(list) => format!("{list},localhost,127.0.0.0/8,::1"),
            None => "localhost,127.0.0.0/8,::1".to_owned(),
        };
        if let Some(url) = &config.proxies.https {
            let proxy = Proxy::https(url).map_err(setup)?;
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&exceptions)));
        }
        if let Some(url) = &config.proxies.http {
            let proxy = Proxy::http(url).map_err(setup)?;
            builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&exceptions)));
        }
        Ok::<_, RegistryError>(builder)
    };
    match client()?.tls_certs_merge(certificates.clone()).build() {
        // No root certificates on this system: plain HTTP works all the same.
        Err(_) if plain => client()?.tls_certs_only(certificates).build().map_err(setup),
        result => result.map_err(setup),
    }
}

/// Registries send blobs from elsewhere, but never from HTTPS to plain HTTP.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() != "https" {
        return attempt.error("a redirect from HTTPS to plain HTTP");
    }
    if attempt.previous().len() > 10 {
        return attempt.error("more than 10 redirects");
    }
    attempt.follow()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_by_address() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "[::2]", "127.0.0.1.example", "10.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
