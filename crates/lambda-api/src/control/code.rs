//! Zip files, downloaded from the addresses that `GetFunction` and `GetLayerVersion` tell.
//!
//! An address is valid for ten minutes and needs no token, as AWS's: who knows it has asked for it.

use std::{
    fs::File,
    io::{self, Read as _},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::IntoResponse as _,
    routing::get,
};
use costrel_store::{Digest, Hasher};
use http::header;
use jiff::Timestamp;
use tokio::sync::mpsc::Sender;

use super::{Control, Shared, input::Parameters, reply::Reply};
use crate::{ApiError, ErrorKind, signature::is_same_secret};

const PREFIX: &str = "/_costrel/code/";

/// For how long an address is valid, in seconds.
const VALID: i64 = 600;

/// What is read of a file at a time, in bytes.
const PIECE: usize = 64 << 10;

/// Whether an address proves by itself that it may be used.
pub(crate) fn is_presigned(path: &str) -> bool {
    path.starts_with(PREFIX)
}

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/_costrel/code/{digest}", get(download))
}

impl Control {
    /// An address of the zip file with this digest (in hex), on the host that the caller knows.
    pub(super) fn locate(&self, host: &str, digest: &str) -> String {
        let expires = Timestamp::now().as_second() + VALID;
        let signature = self.sign(digest, expires);
        format!("http://{host}{PREFIX}{digest}?Expires={expires}&Signature={signature}")
    }

    fn sign(&self, digest: &str, expires: i64) -> String {
        // Each field goes in with its length before it, so that none can be drawn out.
        let mut hasher = Hasher::new();
        hasher.field(&self.secret);
        hasher.field(digest.as_bytes());
        hasher.field(&expires.to_le_bytes());
        hasher.finish().hex()
    }
}

async fn download(
    State(control): State<Shared>,
    Path(digest): Path<String>,
    parameters: Parameters,
) -> Reply {
    let refused = || ApiError::new(ErrorKind::AccessDenied, "Request has expired");
    let expires: i64 =
        parameters.get("Expires").and_then(|text| text.parse().ok()).ok_or_else(refused)?;
    let signature = parameters.get("Signature").unwrap_or_default();
    if !is_same_secret(signature, &control.sign(&digest, expires))
        || expires < Timestamp::now().as_second()
    {
        return Err(refused());
    }
    let digest: Digest = format!("sha256:{digest}").parse().map_err(|_| refused())?;
    let opened = tokio::task::spawn_blocking(move || control.catalog.open_code(&digest)).await;
    let gone = || ApiError::new(ErrorKind::ResourceNotFound, "The code has been deleted.");
    let file = opened.ok().and_then(Result::ok).flatten().ok_or_else(gone)?;
    let length = file.size;
    let (sender, pieces) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_blocking(move || send(file.file, &sender));
    let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces);
    let headers = [
        (header::CONTENT_TYPE, "application/zip".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Reads a file until its end, or until nobody wants it any more.
fn send(mut file: File, pieces: &Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
        let failed = match read {
            Ok(0) => return,
            Ok(_) => false,
            Err(_) => true,
        };
        if pieces.blocking_send(read.map(|_| piece)).is_err() || failed {
            return;
        }
    }
}
