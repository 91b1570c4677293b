//! Parameters of requests. Fields that are not known are ignored.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of `backends`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BackendsParams {
    /// Only of this pool.
    pub pool: Option<String>,
}

/// Of `history`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HistoryParams {
    /// Only of this pool.
    pub pool: Option<String>,
}

/// Of `probe`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendParams {
    /// `POOL/BACKEND`.
    pub backend: String,
}

/// Of `refused`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListenerParams {
    /// Only of this listener.
    pub listener: Option<String>,
}

/// Of `names`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NamesParams {
    /// At most so many.
    pub limit: Option<usize>,
}

/// Of `events`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventsParams {
    /// Those with a higher number.
    pub after: u64,
    /// Only of this pool.
    pub pool: Option<String>,
    /// At most so many of the last ones.
    pub limit: Option<usize>,
    /// Go on: each further event is a line of its own, `{"id":…,"event":…}`.
    pub follow: bool,
}

/// Of `sessions`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionsParams {
    /// Only of this `POOL/BACKEND`, or of this pool.
    pub backend: Option<String>,
    /// Only with this server name.
    pub sni: Option<String>,
    /// Only from this address or prefix.
    pub source: Option<String>,
    /// Only those that are at least so old.
    pub age_ms: Option<u64>,
    /// Only those that were silent for at least so long.
    pub idle_ms: Option<u64>,
    /// In which order, the largest first.
    pub sort: SortBy,
    /// At most so many.
    pub limit: Option<usize>,
}

/// What sessions are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SortBy {
    /// Since accept.
    #[default]
    Age,
    /// Since the last byte.
    Idle,
    /// Both ways.
    Bytes,
}

/// Of `enable`, `disable` and `reset`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OrderParams {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// Undoes itself after this time; not for `reset`.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// Of `drain`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrainParams {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// Undoes itself after this time.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// Sessions that are left after this time are ended.
    #[serde(default)]
    pub kill_after_ms: Option<u64>,
    /// So many a second then; without it at once.
    #[serde(default)]
    pub rate: Option<f64>,
}

/// Of `weight`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WeightParams {
    /// `POOL/BACKEND`.
    pub backend: String,
    /// 0 to 1000.
    pub weight: u32,
    /// Undoes itself after this time.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// Of `kill`: one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KillParams {
    /// This session.
    pub session: Option<String>,
    /// Those of this `POOL/BACKEND`.
    pub backend: Option<String>,
    /// So many a second; without it at once.
    pub rate: Option<f64>,
}

/// Of `backend_add`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AddParams {
    /// The pool.
    pub pool: String,
    /// `IP:PORT`.
    pub address: String,
    /// Default: the address.
    #[serde(default)]
    pub name: Option<String>,
    /// 0 to 1000, default 100.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// Of `backend_remove`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RemoveParams {
    /// `POOL/BACKEND`.
    pub backend: String,
}

/// Of `stop`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StopParams {
    /// Instead of `shutdown-grace`.
    pub grace_ms: Option<u64>,
}

/// Of `route`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteParams {
    /// Name of the listener.
    pub listener: String,
    /// Server name.
    #[serde(default)]
    pub sni: Option<String>,
    /// Offered application protocols.
    #[serde(default)]
    pub alpn: Vec<String>,
    /// Address of the client; without it, this machine.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// Highest offered version of TLS, such as `1.3`.
    #[serde(default)]
    pub tls: Option<String>,
    /// Not TLS, but this protocol, as for `first-bytes`.
    #[serde(default)]
    pub first_bytes: Option<String>,
    /// Handshake bytes of the hello.
    #[serde(default)]
    pub hello_bytes: Option<usize>,
}
