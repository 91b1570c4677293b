//! Answers to requests that change something.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backends::OverrideReport;

/// Answer to `drain`, `disable`, `enable`, `weight` and `reset`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// Its state now.
    pub state: String,
    /// Its weight now, slow start considered.
    pub effective_weight: u32,
    /// What operators said that is in force.
    #[serde(rename = "override")]
    pub said: Option<OverrideReport>,
    /// Connections that it has.
    pub active: u32,
    /// Whether the change is kept over a restart: `null` without a state file, `false` when it could not be written.
    pub kept: Option<bool>,
}

/// Answer to `kill`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// Sessions that were told to end, or will be at the given rate.
    pub sessions: u64,
    /// So many a second; `null`: at once.
    pub rate: Option<f64>,
}

/// Answer to `backend_add`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Added {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// Its state after its first check.
    pub state: String,
    /// As for [`Changed::kept`].
    pub kept: Option<bool>,
}

/// Answer to `backend_remove`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// Connections that it had; `removed-sessions` says what becomes of them.
    pub active: u32,
    /// As for [`Changed::kept`].
    pub kept: Option<bool>,
}

/// Answer to `upgrade`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Upgraded {
    /// The process that goes on.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Sessions that were handed over.
    pub sessions: u64,
    /// How long no byte moved, in milliseconds.
    pub pause_ms: f64,
    /// How long all of it took, in milliseconds.
    pub took_ms: f64,
}

/// Answer to `stop`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stopping {
    /// Always true.
    pub stopping: bool,
    /// Connections that are open.
    pub connections: u32,
}
