//! What an account has and may have.

use crate::{Catalog, reserved::ACCOUNT_CONCURRENCY};

/// What an account has and may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccountUsage {
    /// All code of all versions and layers, in bytes; shared code counts each time, as on AWS.
    pub code_size: u64,
    /// Functions.
    pub functions: usize,
    /// Invocations that may run at once.
    pub concurrency: u32,
    /// Those that are reserved for no function.
    pub unreserved_concurrency: u32,
}

impl Catalog {
    /// What the account has and may have.
    #[must_use]
    pub fn account_usage(&self) -> AccountUsage {
        let reserved: u32 =
            self.all_reserved_concurrency().iter().map(|(_, reserved)| reserved).sum();
        let state = self.state();
        let all = state.all();
        let versions = all.values().flat_map(|record| record.all_versions());
        let functions_size: u64 = versions.map(|(_, content)| content.code.size()).sum();
        let layers = state.layers.values().flat_map(|layer| layer.versions.values());
        AccountUsage {
            code_size: functions_size + layers.map(|version| version.size).sum::<u64>(),
            functions: all.len(),
            concurrency: ACCOUNT_CONCURRENCY,
            unreserved_concurrency: ACCOUNT_CONCURRENCY.saturating_sub(reserved),
        }
    }
}
