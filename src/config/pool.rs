//! Reads `[pool.NAME]` and its health check; its backends are read in `backends`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use toml::de::DeTable;

use super::backends::{Address, read_backends};
use super::keys::{HEALTH, POOL};
use super::nearest::{NAME_HINT, is_name};
use super::section::{At, Section};
use super::{Backend, Code, FastOpen, HealthCheck, OnDown, Place, Pool, Problems, RelayPath};
use crate::decide::balance::{Balancer, Member, Method};
use crate::decide::health::Thresholds;
use crate::decide::hello::proxy::Version;

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
    let method = match section.word("balance", problems).map(|word| word.value) {
        _ if !section.has("balance") => default_method,
        Some("round-robin") => Method::RoundRobin,
        Some("random-two") => Method::RandomTwo,
        Some("consistent-hash") => Method::ConsistentHash,
        _ => Method::LeastConnections,
    };
    let backends = read_backends(&section, problems);
    if backends.is_empty() && is_intentionally_empty(&section) {
        let message = format!("{title} has no backends");
        problems.add(Code::EmptyPool, place.clone(), message).hint("add backends = [\"ADDRESS:PORT\"]");
    }
    let members: Vec<Member> = backends
        .iter()
        .map(|backend| Member { name: (*backend.name).into(), weight: backend.weight, backup: backend.backup })
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
    let source_addresses = read_sources(&section, &backends, problems);
    let connect_timeout = section.duration("connect-timeout", problems).and_then(|time| time.value);
    let connect_tries = section.integer("connect-tries", problems);
    Pool {
        name: Arc::from(name),
        method,
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
        on_down,
        health: read_health(&section, problems),
    }
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

fn read_health(pool: &Section<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    let warn = |place: Place, problems: &mut Problems| {
        let message = format!("{} has no health check: live traffic alone decides", pool.title);
        let hint = if pool.has("health") {
            "set check = \"tcp\"".to_owned()
        } else {
            format!("add [{}.health] with check = \"tcp\"", pool.title.trim_matches(['[', ']']))
        };
        problems.add(Code::NoHealthCheck, place, message).hint(hint);
    };
    if !pool.has("health") {
        warn(pool.place.clone(), problems);
        return None;
    }
    let table = pool.table("health", problems)?;
    let title = format!("[{}.health]", pool.title.trim_matches(['[', ']']));
    let section = Section::open(&HEALTH, &title, &table.place, table.value, problems);
    let check = section.word("check", problems);
    let interval = section.duration("interval", problems).and_then(|time| time.value);
    let timeout = section.duration("timeout", problems).and_then(|time| time.value);
    let rise = section.integer("rise", problems);
    let fall = section.integer("fall", problems);
    let address = section.address("address", problems).map(|address| address.value);
    let port = section.integer("port", problems).map(|port| port.value as u16);
    if check?.value == "off" {
        warn(table.place.clone(), problems);
        return None;
    }
    let thresholds = Thresholds { rise: rise?.value as u32, fall: fall?.value as u32 };
    Some(HealthCheck { interval: interval?, timeout: timeout?, thresholds, address, port })
}
