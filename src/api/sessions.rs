//! Open sessions, refused first bytes, and the busiest server names.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One open session.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SessionReport {
    /// Its id, 16 hexadecimal digits, as in the record.
    pub session: String,
    /// The listener.
    pub listener: String,
    /// The client.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub destination: SocketAddr,
    /// Server name.
    pub sni: Option<String>,
    /// Offered application protocols.
    pub alpn: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// The backend.
    pub backend: Option<String>,
    /// Since accept.
    pub age_ms: u64,
    /// Since the last byte either way, or since accept.
    pub idle_ms: u64,
    /// Bytes delivered to the backend.
    pub bytes_up: u64,
    /// Bytes delivered to the client.
    pub bytes_down: u64,
    /// The proxy in front of us whose PROXY header was believed.
    pub via: Option<SocketAddr>,
}

/// First bytes that were refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusedReport {
    /// When.
    pub time: String,
    /// The session.
    pub session: String,
    /// The listener.
    pub listener: String,
    /// The client.
    pub client: SocketAddr,
    /// `end` of the record.
    pub end: String,
    /// Why, in words.
    pub detail: String,
    /// The alert that the client was told.
    pub alert: Option<u8>,
    /// How many came.
    pub bytes: u64,
    /// In so many segments.
    pub segments: u32,
    /// Bytes of each, of the first ones.
    pub segment_bytes: Vec<u32>,
    /// TLS records, as far as they are some.
    pub records: Vec<RefusedRecord>,
    /// The first bytes, hexadecimal; none of a server name.
    pub first_bytes: String,
}

/// The head of a TLS record.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RefusedRecord {
    /// Content type.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Version, hexadecimal.
    pub version: String,
    /// Length.
    pub length: u16,
}

/// Answer to `names`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NamesReport {
    /// Hellos that were counted, with or without a name.
    pub total: u64,
    /// Hellos without a name.
    pub without: u64,
    /// The busiest names, the busiest first.
    pub names: Vec<NameCount>,
    /// Hellos with a name that are not surely of one of these.
    pub other: u64,
}

/// How often a server name was asked for.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NameCount {
    /// The name.
    pub sni: String,
    /// At most so often.
    pub count: u64,
    /// At least `count - error` times.
    pub error: u64,
}
