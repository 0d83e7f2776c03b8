//! What the API's parts work with.

use std::sync::Arc;

use crate::{ApiSettings, History, StatusSource};

/// What the API's parts work with. A clone is another handle to the same.
#[derive(Clone)]
pub struct Services {
    /// How the API is set up.
    pub settings: Arc<ApiSettings>,
    /// The invocations of late.
    pub history: History,
    /// What the status page shows beside them.
    pub status: Arc<dyn StatusSource>,
}
