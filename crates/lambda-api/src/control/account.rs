//! What an account has and may have.

use axum::{Router, extract::State, routing::get};
use costrel_catalog::UPLOAD_LIMIT;
use serde::Serialize;

use super::{
    Shared,
    reply::{Reply, ok},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/2016-08-19/account-settings", get(read))
        .route("/2016-08-19/account-settings/", get(read))
}

/// What all code of an account may have, in bytes: AWS's 75 GiB. It is told, not enforced.
const TOTAL_CODE_SIZE: u64 = 75 << 30;

/// What code may unpack to, in bytes.
const CODE_SIZE_UNZIPPED: u64 = 250 << 20;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountOutput {
    account_limit: AccountLimit,
    account_usage: AccountUsage,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountLimit {
    total_code_size: u64,
    code_size_unzipped: u64,
    code_size_zipped: u64,
    concurrent_executions: u32,
    unreserved_concurrent_executions: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccountUsage {
    total_code_size: u64,
    function_count: usize,
}

async fn read(State(control): State<Shared>) -> Reply {
    let usage = control.catalog.account_usage();
    ok(&AccountOutput {
        account_limit: AccountLimit {
            total_code_size: TOTAL_CODE_SIZE,
            code_size_unzipped: CODE_SIZE_UNZIPPED,
            code_size_zipped: UPLOAD_LIMIT as u64,
            concurrent_executions: usage.concurrency,
            unreserved_concurrent_executions: usage.unreserved_concurrency,
        },
        account_usage: AccountUsage {
            total_code_size: usage.code_size,
            function_count: usage.functions,
        },
    })
}
