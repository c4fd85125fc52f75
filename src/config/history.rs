//! The `history` block: what becomes of a history that does not fit together.

use serde::{Deserialize, Serialize};

use crate::translate::settings::HistoryRepair;

/// The `history` block.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the history settings")]
pub struct History {
    /// Whether calls without output, and outputs without call, are a 400 (`strict`) or mended (`repair`).
    /// Default: strict.
    pub repair: HistoryRepair,
}
