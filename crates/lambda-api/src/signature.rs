//! AWS's signature, version 4: what a request says of itself, and whether a secret has made it.
//!
//! The specification is AWS's "Signature Version 4 signing process". The access key's id is not
//! looked at, since there is one secret only.

mod canonical;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, header, request::Parts};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use canonical::{CanonicalRequest, PathForm, pairs};

/// How far the clocks of a caller and of this host may be apart.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_mins(15);
/// The longest that a presigned request may be good for.
const LONGEST_EXPIRY: u64 = 7 * 24 * 60 * 60;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

type HmacSha256 = Hmac<Sha256>;

/// Why a request's signature is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SignatureError {
    #[error("the request's signature lacks {0}")]
    Incomplete(&'static str),
    #[error("the request's signature has a malformed {0}")]
    Malformed(&'static str),
    #[error("the header {0} must be signed")]
    Unsigned(String),
    #[error("payloads that are signed chunk by chunk are not supported")]
    Chunked,
    #[error("Signature expired: its time is not within {} minutes of this host's", CLOCK_SKEW.as_secs() / 60)]
    Skewed,
    #[error("Signature expired")]
    Expired,
    #[error("The request signature we calculated does not match the signature you provided.")]
    Wrong,
    #[error("the payload is not the one that was signed")]
    OtherPayload,
}

/// What a request says of the hash of its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
enum PayloadHash {
    /// Nothing: it has to be calculated.
    Calculate,
    /// The payload is not signed.
    Unsigned,
    /// This.
    Given(String),
}

/// A request's signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Signature {
    /// `date/region/service/aws4_request`.
    scope: String,
    at: Timestamp,
    /// As it was written.
    at_text: String,
    signed_headers: Vec<String>,
    signature: Vec<u8>,
    payload: PayloadHash,
    place: Place,
}

/// Where a signature stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Header,
    /// In the query, good for so long.
    Query(Duration),
}

/// Whether a request claims to be signed, however well.
pub(crate) fn is_signed(request: &Parts) -> bool {
    let authorization = request.headers.get(header::AUTHORIZATION);
    authorization.is_some_and(|value| value.as_bytes().starts_with(ALGORITHM.as_bytes()))
        || request.uri.query().is_some_and(|query| query.contains("X-Amz-Signature="))
}

impl Signature {
    /// Reads a request's signature; [`None`] if there is none. Nothing of it is checked but its form
    /// and its time.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub(crate) fn read(request: &Parts, now: Timestamp) -> Result<Option<Self>, SignatureError> {
        let authorization = request.headers.get(header::AUTHORIZATION);
        let signature = match authorization.and_then(|value| value.to_str().ok()) {
            Some(value) if value.starts_with(ALGORITHM) => {
                Self::from_header(&request.headers, &value[ALGORITHM.len()..])?
            }
            _ if is_signed(request) => {
                Self::from_query(request.uri.query().unwrap_or_default(), &request.headers)?
            }
            _ => return Ok(None),
        };
        signature.check_time(now)?;
        signature.check_headers(&request.headers)?;
        Ok(Some(signature))
    }

    fn from_header(headers: &HeaderMap, fields: &str) -> Result<Self, SignatureError> {
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            match field.trim().split_once('=') {
                Some(("Credential", value)) => credential = Some(value),
                Some(("SignedHeaders", value)) => signed_headers = Some(value),
                Some(("Signature", value)) => signature = Some(value),
                _ => return Err(SignatureError::Malformed("Authorization header")),
            }
        }
        let at =
            header_text(headers, "x-amz-date").ok_or(SignatureError::Incomplete("X-Amz-Date"))?;
        Self::from_fields(
            credential.ok_or(SignatureError::Incomplete("Credential"))?,
            signed_headers.ok_or(SignatureError::Incomplete("SignedHeaders"))?,
            signature.ok_or(SignatureError::Incomplete("Signature"))?,
            at,
            payload_hash(headers)?,
            Place::Header,
        )
    }

    fn from_query(query: &str, headers: &HeaderMap) -> Result<Self, SignatureError> {
        let pairs = pairs(query);
        let field = |name: &'static str| {
            let pair = pairs.iter().find(|(key, _)| key == name);
            pair.map(|(_, value)| value.as_str()).ok_or(SignatureError::Incomplete(name))
        };
        if field("X-Amz-Algorithm")? != ALGORITHM {
            return Err(SignatureError::Malformed("X-Amz-Algorithm"));
        }
        let expiry: u64 = field("X-Amz-Expires")?
            .parse()
            .ok()
            .filter(|seconds| (1..=LONGEST_EXPIRY).contains(seconds))
            .ok_or(SignatureError::Malformed("X-Amz-Expires"))?;
        Self::from_fields(
            field("X-Amz-Credential")?,
            field("X-Amz-SignedHeaders")?,
            field("X-Amz-Signature")?,
            field("X-Amz-Date")?,
            payload_hash(headers)?,
            Place::Query(Duration::from_secs(expiry)),
        )
    }

    fn from_fields(
        credential: &str,
        signed_headers: &str,
        signature: &str,
        at: &str,
        payload: PayloadHash,
        place: Place,
    ) -> Result<Self, SignatureError> {
        let (_, scope) =
            credential.split_once('/').ok_or(SignatureError::Malformed("Credential"))?;
        let scope_fields: Vec<_> = scope.split('/').collect();
        let [date, _, _, "aws4_request"] = scope_fields[..] else {
            return Err(SignatureError::Malformed("Credential"));
        };
        if !at.starts_with(date) || date.len() != 8 {
            return Err(SignatureError::Malformed("X-Amz-Date"));
        }
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", at)
            .ok()
            .and_then(|time| jiff::tz::TimeZone::UTC.to_timestamp(time).ok())
            .ok_or(SignatureError::Malformed("X-Amz-Date"))?;
        Ok(Self {
            scope: scope.to_owned(),
            at: time,
            at_text: at.to_owned(),
            signed_headers: signed_headers.split(';').map(str::to_owned).collect(),
            signature: hex_decode(signature).ok_or(SignatureError::Malformed("Signature"))?,
            payload,
            place,
        })
    }

    fn check_time(&self, now: Timestamp) -> Result<(), SignatureError> {
        let age = now.duration_since(self.at);
        let skew = SignedDuration::try_from(CLOCK_SKEW).unwrap_or(SignedDuration::ZERO);
        if age < -skew {
            return Err(SignatureError::Skewed);
        }
        match self.place {
            Place::Header if age > skew => Err(SignatureError::Skewed),
            Place::Query(expiry)
                if age > SignedDuration::try_from(expiry).unwrap_or(SignedDuration::ZERO) =>
            {
                Err(SignatureError::Expired)
            }
            _ => Ok(()),
        }
    }

    /// What an unsigned header could change the meaning of must be signed.
    fn check_headers(&self, headers: &HeaderMap) -> Result<(), SignatureError> {
        let must = headers.keys().map(http::HeaderName::as_str).filter(|name| {
            name.starts_with("x-amz-")
                // What it says is part of what is signed in any case.
                && *name != "x-amz-content-sha256"
        });
        for name in must.chain(["host"]) {
            if !self.signed_headers.iter().any(|signed| signed == name) {
                return Err(SignatureError::Unsigned(name.to_owned()));
            }
        }
        Ok(())
    }

    /// Whether [`Signature::verify`] needs the payload to tell anything at all.
    pub(crate) fn needs_payload(&self) -> bool {
        matches!(self.payload, PayloadHash::Calculate)
    }

    /// Whether `secret` has made this signature, for this request; the payload's hash is taken from
    /// what the request says of it, if it does, and else from `payload`.
    ///
    /// # Errors
    /// [`SignatureError::Wrong`].
    pub(crate) fn verify(
        &self,
        request: &Parts,
        payload: &[u8],
        secret: &str,
    ) -> Result<(), SignatureError> {
        let payload_hash = match &self.payload {
            PayloadHash::Given(hash) => hash.clone(),
            PayloadHash::Unsigned => UNSIGNED_PAYLOAD.to_owned(),
            PayloadHash::Calculate => hex(&Sha256::digest(payload)),
        };
        let key = self
            .scope
            .split('/')
            .fold(format!("AWS4{secret}").into_bytes(), |key, field| hmac(&key, field.as_bytes()));
        let is_right = |path| {
            let canonical = CanonicalRequest {
                request,
                signed_headers: &self.signed_headers,
                payload_hash: &payload_hash,
                path,
            };
            let to_sign = format!(
                "{ALGORITHM}\n{}\n{}\n{}",
                self.at_text,
                self.scope,
                hex(&Sha256::digest(canonical.to_string()))
            );
            // In constant time.
            mac(&key, to_sign.as_bytes()).verify_slice(&self.signature).is_ok()
        };
        if is_right(PathForm::EncodedAgain) || is_right(PathForm::AsSent) {
            Ok(())
        } else {
            Err(SignatureError::Wrong)
        }
    }

    /// Whether `payload` is the one that was signed. To be asked after [`Signature::verify`], where
    /// that did without it.
    ///
    /// # Errors
    /// [`SignatureError::OtherPayload`].
    pub(crate) fn verify_payload(&self, payload: &[u8]) -> Result<(), SignatureError> {
        match &self.payload {
            PayloadHash::Given(hash) if *hash != hex(&Sha256::digest(payload)) => {
                Err(SignatureError::OtherPayload)
            }
            _ => Ok(()),
        }
    }
}

/// Whether two secrets are the same, in a time that does not tell where they differ.
pub(crate) fn is_same_secret(one: &str, other: &str) -> bool {
    let tag = mac(b"comparison", one.as_bytes()).finalize();
    mac(b"comparison", other.as_bytes()).verify(&tag.into_bytes()).is_ok()
}

fn payload_hash(headers: &HeaderMap) -> Result<PayloadHash, SignatureError> {
    match header_text(headers, "x-amz-content-sha256") {
        None => Ok(PayloadHash::Calculate),
        Some(UNSIGNED_PAYLOAD) => Ok(PayloadHash::Unsigned),
        // Lambda has no operation whose body comes in signed chunks.
        Some(hash) if hash.starts_with("STREAMING-") => Err(SignatureError::Chunked),
        Some(hash) if hash.len() == 64 => Ok(PayloadHash::Given(hash.to_owned())),
        Some(_) => Err(SignatureError::Malformed("X-Amz-Content-Sha256")),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn mac(key: &[u8], data: &[u8]) -> HmacSha256 {
    let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    mac(key, data).finalize().into_bytes().to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hex_decode(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
