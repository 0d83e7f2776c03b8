//! What is saved of an entropy device.

use serde::{Deserialize, Serialize};

/// Nothing: whatever came before, the next bytes are new.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EntropyState {}
