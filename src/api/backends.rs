//! Backends: state, why, load, times, and what an operator said of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One backend.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendReport {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that leads there.
    pub resolved_from: Option<String>,
    /// Since when that name was not answered as it should be.
    pub stale_since: Option<jiff::Timestamp>,
    /// What health, live traffic and operators come to.
    #[schemars(extend("enum" = ["up", "down", "draining", "disabled", "ejected", "unchecked"]))]
    pub state: String,
    /// Since when.
    pub since: jiff::Timestamp,
    /// As configured.
    pub weight: u32,
    /// What counts now: an operator's word, the agent's and slow start considered; 0 takes no new connections.
    pub effective_weight: u32,
    /// Used only when others cannot take the connection.
    pub backup: bool,
    /// When it is used, from 0: once no backend of a lower tier can take the connection. Priorities of a service have
    /// one each, in their order; 64 is `backup = true`.
    #[serde(default)]
    pub tier: usize,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// Who added it while the process ran; `null`: it is in the configuration.
    pub added: Option<AddedReport>,
    /// What its agent asked for.
    pub agent: Option<AgentReport>,
    /// Connections, from the pick on.
    pub active: u32,
    /// Established connections.
    pub total: u64,
    /// Failed attempts to connect.
    pub connect_errors: u64,
    /// Bytes from clients.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
    /// Per second, at present.
    pub rates: Rates,
    /// The health check; `null` without one.
    pub check: Option<CheckState>,
    /// The ejection in force.
    pub ejection: Option<EjectionState>,
    /// Ejections so far.
    pub ejections: u64,
    /// What came first after a ClientHello, by kind.
    pub first_answers: BTreeMap<String, u64>,
    /// What an operator said.
    #[serde(rename = "override")]
    pub said: Option<OverrideReport>,
    /// How its sessions are being ended.
    pub drain: Option<DrainReport>,
    /// Time to an established connection.
    pub connect_ms: Option<Quantiles>,
    /// Time from accept to the end.
    pub session_ms: Option<Quantiles>,
    /// Time from the hello's departure to the first byte.
    pub first_byte_ms: Option<Quantiles>,
}

/// Who added a backend at run time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AddedReport {
    /// The user.
    pub by_uid: u32,
    /// When.
    pub at: jiff::Timestamp,
}

/// What an agent asked for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AgentReport {
    /// Share of the weight, in percent.
    pub weight_percent: Option<u32>,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// `drain`, `maint` or `ready`.
    pub operation: Option<String>,
}

/// Per second, over the last second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// New connections.
    pub connections: f64,
    /// Bytes from clients.
    pub bytes_up: f64,
    /// Bytes to clients.
    pub bytes_down: f64,
}

/// The health check and its last result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckState {
    /// Its kind.
    pub kind: String,
    /// `null` before the first result.
    #[schemars(extend("enum" = ["ok", "failed", null]))]
    pub last: Option<String>,
    /// Why it failed, in a word.
    pub reason: String,
    /// What happened, in a sentence.
    pub detail: String,
    /// How long it took.
    pub took_ms: f64,
    /// When it ended.
    pub at: Option<jiff::Timestamp>,
    /// When the next begins.
    pub next_at: Option<jiff::Timestamp>,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
    /// When the certificate expires that was last shown.
    pub certificate_expires: Option<jiff::Timestamp>,
}

/// An ejection.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EjectionState {
    /// When it ends.
    pub until: jiff::Timestamp,
    /// The how many in a row it is.
    pub in_a_row: u32,
    /// What the last sign was.
    pub detail: String,
}

/// What operators said of a backend: the last word, and all that are in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverrideReport {
    /// `drain`, `disable`, or `ready` where that is for a while only.
    pub state: Option<String>,
    /// Instead of the configured weight.
    pub weight: Option<u32>,
    /// Who said the last word.
    pub by_uid: u32,
    /// When.
    pub since: jiff::Timestamp,
    /// When it undoes itself.
    pub until: Option<jiff::Timestamp>,
    /// Each word that is in force.
    pub words: Vec<WordReport>,
}

/// One word of an operator.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WordReport {
    /// `state` or `weight`.
    pub about: String,
    /// What was said.
    pub said: String,
    /// By which user.
    pub by_uid: u32,
    /// When.
    pub since: jiff::Timestamp,
    /// When it undoes itself.
    pub until: Option<jiff::Timestamp>,
}

/// How sessions of a backend are ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrainReport {
    /// When those that are left are ended.
    pub kill_at: jiff::Timestamp,
    /// So many a second; `null`: at once.
    pub rate: Option<f64>,
}

/// Times in milliseconds, exact to two digits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// Half took no longer.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Answer to `history`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HistoryReport {
    /// Each backend that was asked for.
    pub backends: Vec<History>,
}

/// The last hour of a backend.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// When the last minute began.
    pub last_minute: jiff::Timestamp,
    /// The worst state of each minute, the oldest first, at most 60; `null`: it was not there.
    pub minutes: Vec<Option<String>>,
}
