//! What happened to backends and pools.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Counts up from 1 as long as the process runs.
    pub id: u64,
    /// When.
    pub time: jiff::Timestamp,
    /// The pool.
    pub pool: String,
    /// The backend; `null` when the pool as a whole is meant.
    pub backend: Option<String>,
    /// The state before.
    pub from: String,
    /// The state from now on.
    pub to: String,
    /// What brought it about.
    pub by: Cause,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub detail: String,
    /// What was sent, what came back and how long it took, where a check was the cause.
    pub evidence: Vec<Evidence>,
}

/// What brings a change about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A health check.
    Check,
    /// Live traffic.
    Live,
    /// An operator.
    Operator,
    /// A time that is over: of an ejection, or of an operator's word.
    Clock,
    /// A health check that spoke for the backend: an agent.
    Agent,
}

impl Cause {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Live => "live",
            Self::Operator => "operator",
            Self::Clock => "clock",
            Self::Agent => "agent",
        }
    }
}

/// One phase of a check.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The phase.
    pub phase: Cow<'static, str>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// What was seen.
    pub seen: String,
}
