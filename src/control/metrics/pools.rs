//! Metrics of pools.

use std::fmt;
use std::sync::Arc;

use super::Writer;
use crate::decide::close::CloseReason;
use crate::state::{Backend, Counter, HealthIgnored, Pool, PoolShard, Snapshot, Standing};

type Pick = fn(&PoolShard) -> &Counter;

/// Writes the families of pools.
pub fn pools(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all = &snapshot.pools;
    let label = |name: &str| vec![("pool", name.to_owned())];
    let sum = |shards: &[crate::state::Padded<PoolShard>], counter: &dyn Fn(&PoolShard) -> u64| -> u64 {
        shards.iter().map(|shard| counter(shard)).sum()
    };
    let active =
        |backends: &[Arc<Backend>]| -> f64 { backends.iter().map(|backend| f64::from(backend.active.count())).sum() };
    let rows = all.iter().map(|pool| (label(&pool.config.name), active(&pool.backends)));
    out.gauges("pool_connections_active", "Connections that backends of the pool have now", rows)?;
    let rows = all.iter().map(|pool| (label(&pool.config.name), sum(&pool.state.shards, &|shard| shard.total.get())));
    out.counters("pool_connections", "Connections that a backend took", rows)?;
    let rows = all.iter().flat_map(|pool| {
        Standing::ALL.iter().map(move |standing| {
            let labels = vec![("pool", pool.config.name.to_string()), ("state", standing.name().to_owned())];
            (labels, pool.backends.iter().filter(|backend| backend.standing() == *standing).count() as f64)
        })
    });
    out.gauges("pool_backends", "Backends in each state", rows)?;
    let rows =
        all.iter().map(|pool| (label(&pool.config.name), sum(&pool.state.shards, &|shard| shard.unavailable.get())));
    out.counters("pool_unavailable", "Connections that found no backend", rows)?;
    let rows = all.iter().flat_map(|pool| {
        CloseReason::ALL.iter().filter_map(move |reason| {
            let count = sum(&pool.state.shards, &|shard| shard.closed[reason.index()].get());
            let labels = vec![("pool", pool.config.name.to_string()), ("end", reason.name().to_owned())];
            (count > 0 || *reason == CloseReason::Done).then_some((labels, count))
        })
    });
    out.counters("sessions_closed", "Ended sessions of the pool, by reason", rows)?;
    let families: [(&str, &str, Pick); 5] = [
        ("pool_full", "Connections that found every place taken, or waited for one in vain", |shard| &shard.full),
        ("pool_queued", "Connections that waited for a place", |shard| &shard.queued),
        ("pool_keyless", "Connections with nothing to hash, sent by least connections", |shard| &shard.keyless),
        ("pool_health_ignored_connections", "Connections sent while health was ignored", |shard| &shard.panicked),
        ("pool_resumption_offers", "Hellos that offered to resume a session", |shard| &shard.resumptions),
    ];
    for (name, help, counter) in families {
        let count = |pool: &Pool| sum(&pool.state.shards, &|shard| counter(shard).get());
        out.counters(name, help, all.iter().map(|pool| (label(&pool.config.name), count(pool))))?;
    }
    let rows = all.iter().map(|pool| (label(&pool.config.name), f64::from(pool.state.places.waiting())));
    out.gauges("pool_waiting", "Connections that wait for a place", rows)?;
    let ignored = |pool: &Pool| f64::from(u8::from(pool.state.places.health_ignored() == HealthIgnored::Yes));
    let rows = all.iter().map(|pool| (label(&pool.config.name), ignored(pool)));
    out.gauges("pool_health_ignored", "Whether so little is healthy that health is ignored", rows)?;
    let rows = all.iter().filter_map(|pool| {
        let digest = pool.balancer.digest()?;
        Some((vec![("pool", pool.config.name.to_string()), ("digest", digest.to_owned())], 1.0))
    });
    out.gauges("pool_table", "1; the digest of a hashed pool's table, the same in every instance that agrees", rows)
}
