//! The process as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backends::Rates;

/// Answer to `status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusReport {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `starting`, `running`, `leaving` or `draining`.
    pub phase: String,
    /// When it started.
    pub started: jiff::Timestamp,
    /// 1 at start, one more with every reload and upgrade.
    pub generation: u64,
    /// How the last reload went.
    pub last_reload: Option<ReloadReport>,
    /// Open connections.
    pub connections: u32,
    /// As many at once.
    pub max_connections: u32,
    /// Workers, in their order.
    pub workers: Vec<WorkerReport>,
    /// Lines that the log had no room for, or that were left out of a flood.
    pub log_dropped: u64,
    /// Listeners, in the order of the configuration.
    pub listeners: Vec<ListenerReport>,
    /// Pools, in the order of the configuration.
    pub pools: Vec<PoolReport>,
    /// Named backends.
    pub names: Vec<NameReport>,
}

/// One worker thread.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReport {
    /// Open connections.
    pub connections: i64,
    /// Processor time that it has used, in seconds; a second late at most.
    pub cpu_seconds: f64,
    /// Bytes that it has moved, by way and direction.
    #[serde(default)]
    pub moved: MovedReport,
    /// Whether it has done nothing for five seconds or more.
    #[serde(default)]
    pub stuck: bool,
    /// Whether a reload has made workers fewer: it accepts nothing any more, and finishes its sessions.
    #[serde(default)]
    pub rests: bool,
}

/// Bytes by the way that they took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct MovedReport {
    /// Copied from clients.
    pub copied_up: u64,
    /// Copied to clients.
    pub copied_down: u64,
    /// Spliced from clients.
    pub spliced_up: u64,
    /// Spliced to clients.
    pub spliced_down: u64,
}

/// One reload.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReloadReport {
    /// Whether it took effect.
    pub ok: bool,
    /// When.
    pub at: jiff::Timestamp,
    /// What it did, or why it changed nothing.
    pub message: String,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ListenerReport {
    /// Its name.
    pub listener: String,
    /// Its addresses.
    pub bind: Vec<SocketAddr>,
    /// `tls`, `postgres` or `tcp`.
    pub protocol: String,
    /// Open connections.
    pub active: i64,
    /// Accepted connections.
    pub total: u64,
    /// Refused ones.
    pub rejected: u64,
    /// Per second, at present.
    pub rates: Rates,
}

/// One pool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PoolReport {
    /// Its name.
    pub pool: String,
    /// How it chooses.
    pub balance: String,
    /// Backends in each state.
    pub backends: BTreeMap<String, u32>,
    /// Connections that are counted for its backends.
    pub active: u64,
    /// Established connections.
    pub total: u64,
    /// Connections that found no backend.
    pub unavailable: u64,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// Connections that wait for a place.
    pub waiting: u32,
    /// Connections that found every place taken.
    pub full: u64,
    /// Whether so little is healthy that health is ignored.
    pub health_ignored: bool,
    /// Digest of its table, where it has one: the same in every instance with the same members.
    pub table: Option<String>,
    /// Per second, at present.
    pub rates: Rates,
}

/// What people are told of a named backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct NameReport {
    /// As in the configuration.
    pub name: String,
    /// Its last good set.
    pub addresses: Vec<SocketAddr>,
    /// When all of it was last answered; `null`: never, it has no members.
    pub resolved_at: Option<jiff::Timestamp>,
    /// When it is asked for next.
    pub next_at: Option<jiff::Timestamp>,
    /// Since when the set, or a part of it, is older than it should be.
    pub stale_since: Option<jiff::Timestamp>,
    /// What was wrong with the last answer.
    pub error: Option<String>,
    /// Addresses beyond the limit, which are not used.
    pub left_out: usize,
    /// Answers so far, by what became of them.
    #[serde(default)]
    pub lookups: BTreeMap<String, u64>,
}

/// Answer to `config`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigReport {
    /// Which generation it is.
    pub generation: u64,
    /// What is in force, defaults filled in, as TOML.
    pub config: String,
    /// Keys that a reload leaves as they are, such as `global.status-socket`, and what brings another value into force.
    #[serde(default)]
    pub fixed: BTreeMap<String, String>,
}
