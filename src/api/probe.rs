//! A check on demand.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer to `probe`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProbeReport {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// The address that was asked.
    pub address: SocketAddr,
    /// The kind of check.
    pub check: String,
    /// What came of it; `unknown`: it says nothing of the backend.
    #[schemars(extend("enum" = ["ok", "failed", "unknown"]))]
    pub result: String,
    /// Why it failed, in a word.
    pub reason: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// How long it took.
    pub took_ms: f64,
    /// Each phase.
    pub phases: Vec<ProbePhase>,
    /// The certificate that was shown.
    pub certificate: Option<CertificateReport>,
    /// What an agent said.
    pub agent: Option<AgentSaid>,
    /// The backend's state, which this check has not changed.
    pub state: String,
}

/// One phase of a check on demand.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProbePhase {
    /// What was done.
    pub phase: String,
    /// How long it took.
    pub took_ms: f64,
    /// What was sent and what came back.
    pub evidence: String,
}

/// A certificate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CertificateReport {
    /// Whom it names.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// When it expires.
    pub expires: jiff::Timestamp,
}

/// The words of an agent; `null` is what it did not mention.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentSaid {
    /// `up`, `down`, `fail` or `stopped`.
    pub health: Option<String>,
    /// `drain`, `maint` or `ready`.
    pub operation: Option<String>,
    /// Share of the weight, in percent.
    pub weight_percent: Option<u32>,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// For people.
    pub text: String,
    /// Words that mean nothing here.
    pub unknown: Vec<String>,
}
