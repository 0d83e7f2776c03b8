//! A repository of a registry: requests with authorization, tried again where that may help.

use std::time::Duration;

use costrel_store::Digest;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE},
};
use tokio::sync::Mutex;

use super::{
    RegistryError, answer,
    connection::{http_client, is_loopback, speaks_tls},
    credentials::Credentials,
    error::transport,
    token::Challenge,
};
use crate::{
    Reference, RegistryConfig, Retry,
    manifest::{LARGEST_MANIFEST, MANIFEST_TYPES},
    progress::Reporter,
    pull::blocking,
};

/// One repository of one registry, for the time of one pull.
pub(crate) struct Registry {
    http: Client,
    base: Url,
    host: String,
    repository: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<String>>,
    pub(super) retry: Retry,
    pub(super) reporter: Reporter,
}

pub(crate) struct FetchedManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: Option<String>,
}

impl Registry {
    /// Looks up credentials and finds out how the registry of `reference` is spoken to.
    pub(crate) async fn connect(
        config: &RegistryConfig,
        reference: &Reference,
        reporter: &Reporter,
    ) -> Result<Self, RegistryError> {
        let host = reference.api_host().to_owned();
        let plain = is_loopback(&host) || config.plain_http.contains(&host);
        let setup = {
            let (config, reference) = (config.clone(), reference.clone());
            let (reporter, host) = (reporter.clone(), host.clone());
            // Reads files and runs credential helpers.
            blocking(move || {
                let note = |text: String| reporter.note(text);
                let credentials = config.auth.find(&reference, &note)?;
                Ok::<_, RegistryError>((http_client(&config, &host, plain)?, credentials))
            })
        };
        let (http, credentials) = setup.await?;
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/"))
                .map_err(|_| RegistryError::Host { host: host.clone() })
        };
        let (insecure, secure) = (url("http")?, url("https")?);
        let is_plain = plain && !speaks_tls(&http, insecure.clone(), secure.clone()).await;
        let base = if is_plain { insecure } else { secure };
        Ok(Self {
            http,
            base,
            host,
            repository: reference.repository().to_owned(),
            credentials,
            authorization: Mutex::new(None),
            retry: config.retry,
            reporter: reporter.clone(),
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The digest of what `version`, a tag, stands for, if the registry tells.
    pub(crate) async fn manifest_digest(
        &self,
        version: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{version}");
        let response = self.request(Method::HEAD, &path, &MANIFEST_TYPES, 0).await?;
        Ok(digest_header(&response))
    }

    /// The manifest or index that `version`, a tag or a digest, stands for. It has the digest
    /// `wanted`, or the one that the registry says it has.
    pub(crate) async fn manifest(
        &self,
        version: &str,
        wanted: Option<Digest>,
    ) -> Result<FetchedManifest, RegistryError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.manifest_once(version, wanted).await {
                Err(error @ RegistryError::ManifestDigest { .. }) if attempt == 1 => {
                    self.reporter.note(format!("{error}: once more"));
                }
                Err(error) if error.broke_off() && attempt < self.retry.attempts => {
                    self.pause(attempt, &error.to_string()).await;
                }
                result => return result,
            }
        }
    }

    async fn manifest_once(
        &self,
        version: &str,
        wanted: Option<Digest>,
    ) -> Result<FetchedManifest, RegistryError> {
        let path = format!("manifests/{version}");
        let mut response = self.request(Method::GET, &path, &MANIFEST_TYPES, 0).await?;
        let wanted = wanted.or_else(|| digest_header(&response));
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| {
            let text = value.to_str().ok()?;
            Some(text.split(';').next().unwrap_or(text).trim().to_owned())
        });
        let mut bytes = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| transport(&self.host, error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > LARGEST_MANIFEST {
                return Err(RegistryError::ManifestSize { host: self.host.clone() });
            }
        }
        let digest = Digest::of(&bytes);
        match wanted {
            Some(wanted) if wanted != digest => Err(RegistryError::ManifestDigest {
                host: self.host.clone(),
                wanted,
                found: digest,
            }),
            _ => Ok(FetchedManifest { bytes, digest, media_type }),
        }
    }

    /// The blob from the byte `start` on, or, where the registry cannot do that, from 0.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        start: u64,
    ) -> Result<Response, RegistryError> {
        self.request(Method::GET, &format!("blobs/{digest}"), &["*/*"], start).await
    }

    /// Asks until there is a good answer, with authorization once the registry wants it.
    async fn request(
        &self,
        method: Method,
        path: &str,
        accept: &[&str],
        start: u64,
    ) -> Result<Response, RegistryError> {
        let url = self
            .base
            .join(&format!("{}/{path}", self.repository))
            .map_err(|_| RegistryError::Host { host: self.host.clone() })?;
        let mut authorization = self.authorization.lock().await.clone();
        let mut refused = 0;
        let mut attempt = 0;
        loop {
            let mut request = self.http.request(method.clone(), url.clone());
            request = request.header(ACCEPT, accept.join(", "));
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            attempt += 1;
            let response = match request.send().await {
                Ok(response) => response,
                // Whom nobody answers will not answer soon either.
                Err(error) if !error.is_connect() && attempt < self.retry.attempts => {
                    self.pause(attempt, &transport(&self.host, error).to_string()).await;
                    continue;
                }
                Err(error) => return Err(transport(&self.host, error)),
            };
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if refused < 2 => {
                    refused += 1;
                    authorization = Some(self.authorize(response, authorization).await?);
                }
                status if passes(status) && attempt < self.retry.attempts => {
                    let delay = answer::retry_after(&response);
                    if delay.is_some_and(|delay| delay > self.retry.longest_delay) {
                        return Err(self.refusal(response).await);
                    }
                    let why = answer::explain(response).await;
                    let text = format!("{} answers {why}", self.host);
                    match delay {
                        Some(delay) => self.wait(delay, &text).await,
                        None => self.pause(attempt, &text).await,
                    }
                }
                // Nothing behind the start: the blob is taken from 0.
                StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => return Ok(response),
                _ => return Err(self.refusal(response).await),
            }
        }
    }

    /// A new authorization after `refused` was not enough. Parallel requests share it.
    async fn authorize(
        &self,
        response: Response,
        refused: Option<String>,
    ) -> Result<String, RegistryError> {
        let mut current = self.authorization.lock().await;
        if let Some(newer) = current.as_ref().filter(|current| Some(*current) != refused.as_ref()) {
            return Ok(newer.clone());
        }
        let credentials = self.credentials.as_ref();
        let met = match Challenge::read(response.headers()) {
            Some(challenge) => {
                challenge.meet(&self.http, &self.base, &self.repository, credentials).await?
            }
            None => None,
        };
        match met {
            // The same again would be refused again.
            Some(authorization) if Some(&authorization) != refused.as_ref() => {
                *current = Some(authorization.clone());
                Ok(authorization)
            }
            _ => Err(self.refusal(response).await),
        }
    }

    async fn refusal(&self, response: Response) -> RegistryError {
        let status = response.status();
        let host = self.host.clone();
        let answer = answer::explain(response).await;
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, answer },
            StatusCode::UNAUTHORIZED if self.credentials.is_none() => {
                RegistryError::NoCredentials { host, answer }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { host, answer }
            }
            _ => RegistryError::Status { host, answer },
        }
    }

    /// Waits before the attempt after `attempt`, longer each time.
    pub(super) async fn pause(&self, attempt: u32, why: &str) {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let delay = self.retry.first_delay.saturating_mul(factor).min(self.retry.longest_delay);
        self.wait(delay, why).await;
    }

    async fn wait(&self, delay: Duration, why: &str) {
        self.reporter.note(format!("{why}: again in {:.1} s", delay.as_secs_f32()));
        tokio::time::sleep(delay).await;
    }
}

fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

fn digest_header(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
