//! Writes the effective configuration as TOML: every key of this version, defaults filled in. What it writes
//! passes the check and gives the same configuration.

use std::net::SocketAddr;
use std::time::Duration;

use toml::{Table, Value};

use super::value::format_size;

use super::{
    Access, Address, Config, FastOpen, HealthCheck, Listener, LogFormat, LogSessions, OnDown, Pool, Protocol, Reject,
    Route, RouteTarget, format_duration,
};
use crate::decide::balance::{Hashing, Method};
use crate::decide::hello::proxy::Version;
use crate::decide::names::Target;
use crate::decide::prefix::PrefixMap;

/// The configuration as TOML.
pub fn dump(config: &Config) -> String {
    toml::to_string(&table(config)).unwrap_or_default()
}

/// The same before it is written.
pub fn table(config: &Config) -> Table {
    let mut root = Table::new();
    root.insert("global".into(), global(config).into());
    root.insert("log".into(), log(config).into());
    let listeners = config.listeners.iter().map(|item| Value::from(listener(item, config)));
    root.insert("listener".into(), Value::Array(listeners.collect()));
    let pools = config.pools.iter().map(|item| (item.name.to_string(), Value::from(pool(item))));
    root.insert("pool".into(), Value::Table(pools.collect()));
    root
}

fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn time_or_off(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "off".to_owned(), format_duration)
}

fn addresses(list: &[SocketAddr]) -> Value {
    Value::Array(list.iter().map(|address| address.to_string().into()).collect())
}

fn texts(list: &[String]) -> Value {
    Value::Array(list.iter().map(|text| text.as_str().into()).collect())
}

fn global(config: &Config) -> Table {
    let global = &config.global;
    let mut table = Table::new();
    match global.workers {
        Some(count) => set(&mut table, "workers", count as i64),
        None => set(&mut table, "workers", "auto"),
    }
    set(&mut table, "status-socket", global.status_socket.display().to_string());
    if let Some(metrics) = global.metrics {
        set(&mut table, "metrics", metrics.to_string());
    }
    set(&mut table, "max-connections", i64::from(global.max_connections));
    set(&mut table, "shutdown-grace", time_or_off(global.shutdown_grace));
    set(&mut table, "ready-delay", format_duration(global.ready_delay));
    set(&mut table, "removed-sessions", global.removed_sessions.name());
    if let Some(path) = &global.state_file {
        set(&mut table, "state-file", path.display().to_string());
    }
    set(&mut table, "resolvers", addresses(&global.resolvers));
    let mut relay = Table::new();
    set(&mut relay, "full-reads", i64::from(global.relay.full_reads));
    set(&mut relay, "small-fills", i64::from(global.relay.small_fills));
    for (key, bytes) in
        [("small-fill", global.relay.small_fill), ("pipe-size", global.relay.pipe_size), ("turn", global.relay.turn)]
    {
        set(&mut relay, key, format_size(u64::from(bytes)));
    }
    set(&mut table, "relay", relay);
    table
}

fn log(config: &Config) -> Table {
    let mut table = Table::new();
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
        LogFormat::TcpLog => "tcplog",
    };
    set(&mut table, "format", format);
    let sessions = match config.log.sessions {
        LogSessions::End => "end",
        LogSessions::Both => "both",
        LogSessions::Off => "off",
    };
    set(&mut table, "sessions", sessions);
    set(&mut table, "sample", config.log.sample);
    set(&mut table, "target", config.log.target.to_string());
    table
}

fn reject_word(reject: Reject) -> &'static str {
    match reject {
        Reject::Alert => "alert",
        Reject::Close => "close",
        Reject::Reset => "reset",
    }
}

fn listener(listener: &Listener, config: &Config) -> Table {
    let mut table = Table::new();
    set(&mut table, "name", &*listener.name);
    set(&mut table, "bind", addresses(&listener.bind));
    set(&mut table, "protocol", listener.protocol.name());
    if let Some(pool) = listener.pool {
        set(&mut table, "pool", &*config.pools[pool].name);
    }
    if listener.protocol != Protocol::Tcp {
        set(&mut table, "hello-timeout", format_duration(listener.hello_timeout));
        set(&mut table, "max-hello", format_size(listener.max_hello as u64));
    }
    set(&mut table, "reject", reject_word(listener.reject));
    let trusted = listener.accept_proxy.iter().flat_map(PrefixMap::iter);
    set(&mut table, "accept-proxy", Value::Array(trusted.map(|(prefix, ())| prefix.to_string().into()).collect()));
    for (key, access) in [("allow", Access::Allow), ("deny", Access::Deny)] {
        let prefixes = listener.access.iter().filter(|(_, value)| *value == access);
        set(&mut table, key, Value::Array(prefixes.map(|(prefix, _)| prefix.to_string().into()).collect()));
    }
    if let Some(most) = listener.max_connections {
        set(&mut table, "max-connections", i64::from(most));
    }
    set(&mut table, "idle-timeout", time_or_off(listener.idle_timeout));
    set(&mut table, "half-close-timeout", time_or_off(listener.half_close_timeout));
    for (key, time) in [("user-timeout", listener.user_timeout), ("keepalive", listener.keepalive)] {
        if let Some(time) = time {
            set(&mut table, key, time_or_off(time.time()));
        }
    }
    if !listener.routes.is_empty() {
        let routes = listener.routes.iter().map(|item| Value::from(route(item, config)));
        set(&mut table, "route", Value::Array(routes.collect()));
    }
    table
}

fn route(route: &Route, config: &Config) -> Table {
    let mut table = Table::new();
    let written = &route.written;
    let lists = [
        ("sni", &written.sni),
        ("alpn", &written.alpn),
        ("from", &written.from),
        ("first-bytes", &written.first_bytes),
    ];
    for (key, list) in lists {
        if !list.is_empty() {
            set(&mut table, key, texts(list));
        }
    }
    if let Some(version) = &written.tls_min {
        set(&mut table, "tls-min", version.as_str());
    }
    match route.target {
        RouteTarget::Pool(pool) => set(&mut table, "pool", &*config.pools[pool].name),
        RouteTarget::Reject(reject) => set(&mut table, "reject", reject_word(reject)),
    }
    table
}

fn pool(pool: &Pool) -> Table {
    let mut table = Table::new();
    set(&mut table, "balance", pool.method.name());
    set(&mut table, "connect-timeout", format_duration(pool.connect_timeout));
    set(&mut table, "connect-tries", i64::from(pool.connect_tries));
    set(&mut table, "send-proxy", pool.send_proxy.map_or("off", Version::name));
    match &pool.source_addresses[..] {
        [] => set(&mut table, "source-address", "off"),
        list => {
            let list = list.iter().map(|address| address.to_string().into()).collect();
            set(&mut table, "source-address", Value::Array(list));
        }
    }
    set(&mut table, "relay", pool.relay.name());
    set(&mut table, "tcp-fast-open", pool.fast_open == FastOpen::On);
    set(&mut table, "preconnect", i64::from(pool.preconnect));
    if pool.preconnect > 0 {
        set(&mut table, "preconnect-idle", format_duration(pool.preconnect_idle));
    }
    set(&mut table, "user-timeout", time_or_off(pool.user_timeout));
    set(&mut table, "keepalive", time_or_off(pool.keepalive));
    set(&mut table, "slow-start", time_or_off(pool.slow_start));
    set(&mut table, "panic-threshold", pool.panic_threshold);
    set(&mut table, "queue-timeout", time_or_off(pool.queue_timeout));
    if let Some(most) = pool.max_connections {
        set(&mut table, "max-connections", i64::from(most));
    }
    set(&mut table, "first-byte-timeout", time_or_off(pool.first_byte_timeout));
    set(&mut table, "on-down", if pool.on_down == OnDown::Close { "close" } else { "keep" });
    let backends = pool.backends.iter().map(|backend| {
        let mut table = Table::new();
        let address = backend.address.to_string();
        // The default, when a name is too long or odd for a name in metrics and commands.
        if backend.address.target().is_none() || *backend.name != *address {
            set(&mut table, "name", &*backend.name);
        }
        set(&mut table, "address", address);
        // The records of a service have their own.
        if !matches!(backend.address, Address::Name(Target::Service(_))) {
            set(&mut table, "weight", i64::from(backend.weight));
            set(&mut table, "backup", backend.tier.is_backup());
        }
        if let Some(most) = backend.max_connections {
            set(&mut table, "max-connections", i64::from(most));
        }
        Value::from(table)
    });
    set(&mut table, "backend", Value::Array(backends.collect()));
    set(&mut table, "health", health(pool.health.as_ref()));
    set(&mut table, "passive", passive(pool));
    if let Method::ConsistentHash(how) = pool.method {
        set(&mut table, "hash", hash(pool, how));
    }
    table
}

fn hash(pool: &Pool, how: Hashing) -> Table {
    let mut table = Table::new();
    let key = pool.hash_key.iter().map(|part| part.name().into()).collect();
    set(&mut table, "key", Value::Array(key));
    set(&mut table, "table", how.table.name());
    match how.bounded_load {
        Some(factor) => set(&mut table, "bounded-load", factor.as_f64()),
        None => set(&mut table, "bounded-load", "off"),
    }
    if !pool.hash_seed.is_empty() {
        set(&mut table, "seed", &*pool.hash_seed);
    }
    table
}

fn passive(pool: &Pool) -> Table {
    let mut table = Table::new();
    set(&mut table, "failures", i64::from(pool.patience.failures));
    set(&mut table, "eject", format_duration(Duration::from_millis(pool.patience.eject_ms)));
    set(&mut table, "max-ejected", pool.max_ejected);
    table
}

fn health(check: Option<&HealthCheck>) -> Table {
    let off = || [("check".to_owned(), "off".into())].into_iter().collect();
    check.map_or_else(off, HealthCheck::dump)
}
