//! What the status socket says, as data: the same for HTTP and JSON lines.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Control;
use crate::config;
use crate::decide::health::agent::Operation;
use crate::decide::hello::FirstAnswer;
use crate::state::{Admin, AgentOrders, Backend, ConnectError, HealthIgnored, Pool, RefusedHello, Share, Standing};
use crate::sys::clock::coarse_ms;

/// How long workers may take to list their sessions.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// `/v1/status`.
pub fn status(control: &Control) -> Value {
    let (shared, snapshot) = (&control.shared, control.snapshot());
    let listeners: Vec<Value> = snapshot
        .listeners
        .iter()
        .map(|listener| {
            let sum = |counter: &dyn Fn(&crate::state::ListenerShard) -> u64| -> u64 {
                listener.state.shards.iter().map(|shard| counter(shard)).sum()
            };
            json!({
                "listener": &*listener.config.name,
                "bind": listener.config.bind,
                "protocol": listener.config.protocol.name(),
                "active": listener.state.active(),
                "total": sum(&|shard| shard.total.get()),
                "rejected": sum(&|shard| shard.rejected.iter().map(crate::state::Counter::get).sum()),
            })
        })
        .collect();
    let pools: Vec<Value> = snapshot.pools.iter().map(|pool| pool_status(pool)).collect();
    let workers: Vec<i64> = shared.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "phase": shared.phase().name(),
        "started": shared.started,
        "generation": snapshot.generation,
        "last_reload": shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).last,
        "connections": shared.active.load(Ordering::Relaxed),
        "max_connections": snapshot.config.global.max_connections,
        "worker_connections": workers,
        "log_dropped": shared.log.dropped(),
        "listeners": listeners,
        "pools": pools,
        "names": shared.names.list(),
    })
}

fn pool_status(pool: &Pool) -> Value {
    let shards = &pool.state.shards;
    let in_state = |standing: Standing| pool.backends.iter().filter(|backend| backend.standing() == standing).count();
    let states: serde_json::Map<String, Value> =
        Standing::ALL.iter().map(|standing| (standing.name().to_owned(), in_state(*standing).into())).collect();
    json!({
        "pool": &*pool.config.name,
        "balance": pool.config.method.name(),
        "backends": states,
        "active": pool.backends.iter().map(|backend| u64::from(backend.active.count())).sum::<u64>(),
        "total": shards.iter().map(|shard| shard.total.get()).sum::<u64>(),
        "unavailable": shards.iter().map(|shard| shard.unavailable.get()).sum::<u64>(),
        "max_connections": pool.config.max_connections,
        "waiting": pool.state.places.waiting(),
        "full": shards.iter().map(|shard| shard.full.get()).sum::<u64>(),
        "health_ignored": pool.state.places.health_ignored() == HealthIgnored::Yes,
        "table": pool.balancer.digest(),
    })
}

/// `/v1/backends`, of all pools or one; `None` when that one does not exist.
pub fn backends(control: &Control, pool: Option<&str>) -> Option<Value> {
    let snapshot = control.snapshot();
    if let Some(name) = pool
        && !snapshot.pools.iter().any(|pool| *pool.config.name == *name)
    {
        return None;
    }
    let stale: HashMap<String, jiff::Timestamp> =
        control.shared.names.list().into_iter().filter_map(|name| Some((name.name, name.stale_since?))).collect();
    let chosen = snapshot.pools.iter().filter(|candidate| pool.is_none_or(|name| *candidate.config.name == *name));
    let list = chosen.flat_map(|pool| {
        pool.backends
            .iter()
            .zip(&pool.shares)
            .zip(&pool.config.backends)
            .map(|(backend, config)| backend_status(pool, backend, config, &stale))
    });
    Some(list.collect())
}

fn backend_status(
    pool: &Pool,
    (backend, share): (&Arc<Backend>, &Share),
    config: &config::Backend,
    stale: &HashMap<String, jiff::Timestamp>,
) -> Value {
    let resolved_from = config.address.target().map(ToString::to_string);
    let vitals = backend.vitals();
    let standing = backend.standing();
    let timings = backend.timings();
    let check = pool.config.health.as_ref().map(|check| {
        json!({
            "kind": check.kind.word(),
            "last": vitals.check.ok.map(|ok| if ok { "ok" } else { "failed" }),
            "reason": vitals.check.reason,
            "detail": vitals.check.detail,
            "took_ms": vitals.check.took.as_micros() as f64 / 1000.0,
            "at": vitals.check.at,
            "next_at": vitals.check.next_at,
            "rise": check.thresholds.rise,
            "fall": check.thresholds.fall,
            "certificate_expires": vitals.check.certificate.as_ref().map(|certificate| certificate.not_after),
        })
    });
    let said = vitals.override_.map(|said| {
        let state = if said.admin == Admin::Draining { "drain" } else { "disable" };
        json!({ "state": state, "by_uid": said.by_uid, "since": said.since, "until": null })
    });
    let orders = vitals.agent;
    let agent = (orders != AgentOrders::default()).then(|| {
        json!({
            "weight_percent": orders.weight,
            "max_connections": orders.max_connections,
            "operation": orders.operation.map(Operation::word),
        })
    });
    let ejection = vitals
        .ejection
        .map(|ejection| json!({ "until": ejection.until, "in_a_row": ejection.in_a_row, "detail": ejection.detail }));
    let answers: serde_json::Map<String, Value> = FirstAnswer::NAMES
        .iter()
        .enumerate()
        .map(|(place, name)| ((*name).to_owned(), backend.sum(|shard| shard.first_answers[place].get()).into()))
        .collect();
    json!({
        "pool": &*backend.pool,
        "backend": &*backend.name,
        "address": backend.address,
        "resolved_from": resolved_from,
        "stale_since": resolved_from.and_then(|name| stale.get(&name)),
        "state": standing.name(),
        "since": vitals.since,
        "weight": config.weight,
        "effective_weight": effective_weight(pool, backend, share.weight),
        "backup": config.backup,
        "max_connections": share.max_connections,
        "agent": agent,
        "active": backend.active.count(),
        "total": backend.sum(|shard| shard.total.get()),
        "connect_errors": ConnectError::ALL.iter().map(|reason| backend.connect_errors(*reason)).sum::<u64>(),
        "bytes_up": backend.sum(|shard| shard.bytes_up.get()),
        "bytes_down": backend.sum(|shard| shard.bytes_down.get()),
        "check": check,
        "ejection": ejection,
        "ejections": vitals.ejections,
        "first_answers": answers,
        "override": said,
        "connect_ms": quantiles(&timings.connect),
        "session_ms": quantiles(&timings.session),
        "first_byte_ms": quantiles(&timings.first_byte),
    })
}

/// The weight that counts now, slow start considered; a fresh backend has some of it from the beginning.
pub fn effective_weight(pool: &Pool, backend: &Backend, weight: u32) -> u32 {
    if !backend.takes(pool.state.places.health_ignored()) {
        return 0;
    }
    let share = pool.ramp(backend, coarse_ms).thousandths();
    (u64::from(weight) * share).div_ceil(1000) as u32
}

/// `/v1/events`: the last changes of backends and pools, the oldest first.
pub fn events(control: &Control, after: u64, pool: Option<&str>, most: usize) -> Value {
    json!(control.shared.events.since(after, pool, most))
}

/// Quantiles in milliseconds of a histogram of microseconds; `null` without values.
fn quantiles(histogram: &Histogram<u32>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": histogram.max() as f64 / 1000.0 })
}

/// `/v1/refused`: the last refused first bytes of all listeners or one, the oldest first; `None` when that one does not
/// exist. No server names.
pub fn refused(control: &Control, listener: Option<&str>) -> Option<Value> {
    let snapshot = control.snapshot();
    if listener.is_some_and(|name| snapshot.listener_named(name).is_none()) {
        return None;
    }
    let chosen = snapshot.listeners.iter().filter(|one| listener.is_none_or(|name| *one.config.name == *name));
    let mut list: Vec<(&str, Arc<RefusedHello>)> = chosen
        .flat_map(|one| one.state.refused.list().into_iter().map(move |refused| (&*one.config.name, refused)))
        .collect();
    list.sort_by_key(|(_, refused)| refused.at);
    Some(list.iter().map(|(listener, refused)| refused_status(listener, refused)).collect())
}

fn refused_status(listener: &str, refused: &RefusedHello) -> Value {
    let records: Vec<Value> = refused
        .records
        .iter()
        .map(|record| json!({ "type": record.kind, "version": format!("{:#06x}", record.version), "length": record.length }))
        .collect();
    let first = refused.first.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    json!({
        "time": format!("{:.3}", refused.at),
        "session": format!("{:016x}", refused.session),
        "listener": listener,
        "client": refused.client,
        "end": refused.end.name(),
        "detail": &*refused.detail,
        "alert": refused.alert,
        "bytes": refused.bytes,
        "segments": refused.reads,
        "segment_bytes": &*refused.read_sizes,
        "records": records,
        "first_bytes": first,
    })
}

/// Which sessions to list, and how many.
#[derive(Debug, Default)]
pub struct SessionFilter {
    /// Of this `POOL/BACKEND`.
    pub backend: Option<String>,
    /// With this server name.
    pub sni: Option<String>,
    /// At most so many, the oldest first.
    pub limit: Option<usize>,
}

/// `/v1/sessions`: the oldest first.
pub async fn sessions(control: &Control, filter: &SessionFilter) -> Value {
    let answers = control.plane.borrow().list_sessions();
    let mut list = Vec::new();
    for answer in answers {
        // A worker that is ending does not answer.
        if let Ok(Ok(sessions)) = tokio::time::timeout(LIST_LIMIT, answer).await {
            list.extend(sessions);
        }
    }
    list.retain(|session| {
        let path = || {
            let text = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text("pool"), text("backend"))
        };
        filter.backend.as_ref().is_none_or(|wanted| path() == *wanted)
            && filter.sni.as_ref().is_none_or(|wanted| session["sni"].as_str() == Some(wanted))
    });
    list.sort_by_key(|session| std::cmp::Reverse(session["age_ms"].as_u64()));
    list.truncate(filter.limit.unwrap_or(usize::MAX));
    list.into()
}
