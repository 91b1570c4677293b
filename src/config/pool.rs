//! Reads `[pool.NAME]`; its backends, its choice among them and its health check have files of their own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::backends::{Address, read_backends};
use super::choice::{read_hash, read_passive};
use super::health::read_health;
use super::keys::POOL;
use super::nearest::{NAME_HINT, is_name};
use super::section::{At, Section};
use super::{Backend, Code, HealthCheck, Place, Problems, RelayPath, WrittenRoute};
use crate::decide::balance::{Balancer, Hashing, KeyPart, Member, Method};
use crate::decide::health::Patience;
use crate::decide::hello::proxy::Version;

/// `[pool.NAME]`.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Name, unique.
    pub name: Arc<str>,
    /// How backends are chosen.
    pub method: Method,
    /// What consistent-hash hashes, in this order.
    pub hash_key: Vec<KeyPart>,
    /// What the seed of its hash is made from.
    pub hash_seed: Arc<str>,
    /// Backends, short form first.
    pub backends: Vec<Backend>,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// Different backends that are tried for one client.
    pub connect_tries: u8,
    /// PROXY header for the backends.
    pub send_proxy: Option<Version>,
    /// Addresses to connect from; empty: the kernel's choice.
    pub source_addresses: Vec<std::net::IpAddr>,
    /// Which way bytes take.
    pub relay: RelayPath,
    /// Whether the first bytes go in the SYN.
    pub fast_open: FastOpen,
    /// Ready connections of each worker to each backend.
    pub preconnect: u16,
    /// When a ready connection is renewed.
    pub preconnect_idle: Duration,
    /// Unacknowledged data ends a session after this time; `None`: when the kernel gives up.
    pub user_timeout: Option<Duration>,
    /// First keepalive probe.
    pub keepalive: Option<Duration>,
    /// Until a backend that came back has all of its weight; `None`: at once.
    pub slow_start: Option<Duration>,
    /// Below this share of healthy weight health is ignored; 0: never.
    pub panic_threshold: f64,
    /// How long a session waits for a place; `None`: not at all.
    pub queue_timeout: Option<Duration>,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// Silence after a hello that counts as a failure; `None`: none does.
    pub first_byte_timeout: Option<Duration>,
    /// What happens to the sessions of a backend that goes down.
    pub on_down: OnDown,
    /// When live traffic ejects a backend.
    pub patience: Patience,
    /// Share of the backends that may be ejected at once.
    pub max_ejected: f64,
    /// The check; `None`: live traffic alone decides.
    pub health: Option<HealthCheck>,
}

impl Pool {
    /// What a route that leads here is called as a target.
    pub fn as_target(&self) -> String {
        format!("pool {}", self.name)
    }

    /// [`Route::identity`](super::Route::identity) of the own pool of a listener.
    pub fn own_route(&self) -> u64 {
        WrittenRoute::default().identity(&self.as_target())
    }
}

/// Whether a backend gets a client's first bytes in the SYN (RFC 7413).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastOpen {
    /// Once the connection is established.
    Off,
    /// In the SYN, where there is a cookie.
    On,
}

/// What happens to the sessions of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They run on.
    Keep,
    /// They are reset.
    Close,
}

/// Reads one pool. A pool with problems is returned all the same, so that references to it are not reported too.
/// `default_method` is for a pool that names none.
pub fn read_pool(
    name: &str,
    place: &Place,
    table: &DeTable<'_>,
    default_method: Method,
    problems: &mut Problems,
) -> Pool {
    let title = format!("[pool.{name}]");
    let section = Section::open(&POOL, &title, place, table, problems);
    if !is_name(name) {
        problems.add(Code::BadName, place.clone(), format!("`{name}` is not a name")).hint(NAME_HINT);
    }
    let (method, (hash_key, hash_seed)) = read_method(&section, default_method, problems);
    let backends = read_backends(&section, problems);
    if backends.is_empty() && is_intentionally_empty(&section) {
        let message = format!("{title} has no backends");
        problems.add(Code::EmptyPool, place.clone(), message).hint("add backends = [\"ADDRESS:PORT\"]");
    }
    let members: Vec<Member> = backends
        .iter()
        .map(|backend| Member { name: (*backend.name).into(), weight: backend.weight, tier: backend.tier })
        .collect();
    if let Err(too_large) = Balancer::new(method, &members) {
        problems.add(Code::TooLarge, place.clone(), format!("{title}: {too_large}"));
    }
    let on_down = match section.word("on-down", problems).map(|word| word.value) {
        Some("close") => OnDown::Close,
        _ => OnDown::Keep,
    };
    let send_proxy = match section.word("send-proxy", problems).map(|word| word.value) {
        Some("v1") => Some(Version::V1),
        Some("v2") => Some(Version::V2),
        _ => None,
    };
    let relay = match section.word("relay", problems).map(|word| word.value) {
        Some("copy") => RelayPath::Copy,
        Some("splice") => RelayPath::Splice,
        _ => RelayPath::Auto,
    };
    let fast_open = match section.flag("tcp-fast-open", problems) {
        Some(At { value: true, .. }) => FastOpen::On,
        _ => FastOpen::Off,
    };
    let preconnect = section.integer("preconnect", problems).map_or(0, |count| count.value as u16);
    if preconnect == 0 && section.has("preconnect-idle") {
        let message = format!("`preconnect-idle` of {title} has no effect: preconnect is 0");
        problems.add(Code::NoEffect, section.key_place("preconnect-idle"), message);
    }
    let preconnect_idle = section.duration("preconnect-idle", problems).and_then(|time| time.value);
    let user_timeout = section.duration("user-timeout", problems).and_then(|time| time.value);
    let keepalive = section.duration("keepalive", problems).and_then(|time| time.value);
    let slow_start = section.duration("slow-start", problems).and_then(|time| time.value);
    if slow_start.is_some() && matches!(method, Method::ConsistentHash(_)) {
        let message = format!("`slow-start` of {title} has no effect with consistent-hash: its keys would move");
        problems.add(Code::NoEffect, section.key_place("slow-start"), message);
    }
    let panic_threshold = section.share("panic-threshold", problems);
    let max_connections = section.integer("max-connections", problems);
    let queue_timeout = section.duration("queue-timeout", problems).and_then(|time| time.value);
    let is_limited = max_connections.is_some() || backends.iter().any(|backend| backend.max_connections.is_some());
    if queue_timeout.is_some() && !is_limited && !section.has("max-connections") {
        let message =
            format!("`queue-timeout` of {title} has no effect: neither the pool nor a backend has max-connections");
        problems.add(Code::NoEffect, section.key_place("queue-timeout"), message);
    }
    let first_byte_timeout = section.duration("first-byte-timeout", problems).and_then(|time| time.value);
    let (patience, max_ejected) = read_passive(&section, problems);
    let source_addresses = read_sources(&section, &backends, problems);
    let connect_timeout = section.duration("connect-timeout", problems).and_then(|time| time.value);
    let connect_tries = section.integer("connect-tries", problems);
    Pool {
        name: Arc::from(name),
        method,
        hash_key,
        hash_seed,
        backends,
        connect_timeout: connect_timeout.unwrap_or_default(),
        connect_tries: connect_tries.map_or(1, |tries| tries.value as u8),
        send_proxy,
        source_addresses,
        relay,
        fast_open,
        preconnect,
        preconnect_idle: preconnect_idle.unwrap_or_default(),
        user_timeout,
        keepalive,
        slow_start,
        panic_threshold: panic_threshold.map_or(0.0, |share| share.value),
        queue_timeout,
        max_connections: max_connections.map(|most| most.value as u32),
        first_byte_timeout,
        on_down,
        patience,
        max_ejected,
        health: read_health(&section, problems),
    }
}

/// Reads `balance` and how `consistent-hash` does it; `default` is for a pool that names none.
fn read_method(section: &Section<'_>, default: Method, problems: &mut Problems) -> (Method, (Vec<KeyPart>, Arc<str>)) {
    let hash = read_hash(section, problems);
    let method = match section.word("balance", problems).map(|word| word.value) {
        _ if !section.has("balance") => default,
        Some("round-robin") => Method::RoundRobin,
        Some("random-two") => Method::RandomTwo,
        Some("consistent-hash") => Method::ConsistentHash(Hashing::default()),
        _ => Method::LeastConnections,
    };
    let method = match method {
        // Without a word about it loads of a pool for PostgreSQL are not bounded: encrypted cancel requests must find
        // the server of the session.
        Method::ConsistentHash(_) if matches!(default, Method::ConsistentHash(_)) && !hash.says_bound => {
            Method::ConsistentHash(Hashing { bounded_load: None, ..hash.how })
        }
        Method::ConsistentHash(_) => Method::ConsistentHash(hash.how),
        other if section.has("hash") => {
            let message = format!("`hash` of {} has no effect: balance is {}", section.title, other.name());
            problems.add(Code::NoEffect, section.key_place("hash"), message);
            other
        }
        other => other,
    };
    (method, (hash.key, hash.seed))
}

/// Reads `source-address`: each backend needs one of its family.
fn read_sources(section: &Section<'_>, backends: &[Backend], problems: &mut Problems) -> Vec<IpAddr> {
    let Some(sources) = section.sources("source-address", problems) else { return Vec::new() };
    // Addresses that a name leads to are left out when they are of a family without a source.
    let sockets = backends.iter().filter_map(|backend| match backend.address {
        Address::Socket(socket) => Some(socket),
        Address::Name(_) => None,
    });
    let has_source = |socket: &SocketAddr| sources.value.iter().any(|source| source.is_ipv4() == socket.is_ipv4());
    if let Some(socket) = sockets.filter(|_| !sources.value.is_empty()).find(|socket| !has_source(socket)) {
        let family = if socket.is_ipv4() { "IPv4" } else { "IPv6" };
        let message = format!("`source-address` of {} has no {family} address for {socket}", section.title);
        problems.add(Code::Conflict, sources.place, message);
    }
    sources.value
}

/// Whether no backend is even written; written ones with problems are reported already.
fn is_intentionally_empty(section: &Section<'_>) -> bool {
    let empty = |key: &str| !section.has(key) || section.is_empty_list(key);
    empty("backends") && empty("backend")
}
