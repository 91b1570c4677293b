//! Metrics of pools.

use std::fmt;

use super::{Writer, flag};
use crate::decide::close::CloseReason;
use crate::state::{Counter, HealthIgnored, Pool, PoolShard, Snapshot, Standing};

type Pick = fn(&PoolShard) -> &Counter;

/// Writes the families of pools.
pub fn pools(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all = &snapshot.pools;
    let active = |pool: &Pool| -> f64 { pool.backends.iter().map(|backend| f64::from(backend.active.count())).sum() };
    let rows = all.iter().map(|pool| (label(pool), active(pool)));
    out.gauges("pool_connections_active", "Connections that backends of the pool have now", rows)?;
    let rows = all.iter().filter_map(|pool| Some((label(pool), f64::from(pool.config.max_connections?))));
    out.gauges("pool_max_connections", "Connections that the pool may have at once", rows)?;
    let rows = all.iter().flat_map(|pool| {
        Standing::ALL.iter().map(move |standing| {
            let count = pool.backends.iter().filter(|backend| backend.standing() == *standing).count();
            ([name(pool), ("state", standing.name())], count as f64)
        })
    });
    out.gauges("pool_backends", "Backends in each state", rows)?;
    let rows = all.iter().flat_map(|pool| {
        CloseReason::ALL.iter().filter_map(move |reason| {
            let count = sum(pool, |shard| &shard.closed[reason.index()]);
            let is_shown = count > 0 || *reason == CloseReason::Done;
            is_shown.then_some(([name(pool), ("end", reason.name())], count))
        })
    });
    out.counters("sessions_closed", "Ended sessions of the pool, by reason", rows)?;
    let families: [(&str, &str, Pick); 7] = [
        ("pool_connections", "Connections that a backend took", |shard| &shard.total),
        ("pool_unavailable", "Connections that found no backend", |shard| &shard.unavailable),
        ("pool_full", "Connections that found every place taken, or waited for one in vain", |shard| &shard.full),
        ("pool_queued", "Connections that waited for a place", |shard| &shard.queued),
        ("pool_keyless", "Connections with nothing to hash, sent by least connections", |shard| &shard.keyless),
        ("pool_health_ignored_connections", "Connections sent while health was ignored", |shard| &shard.panicked),
        ("pool_resumption_offers", "Hellos that offered to resume a session", |shard| &shard.resumptions),
    ];
    for (name, help, counter) in families {
        out.counters(name, help, all.iter().map(|pool| (label(pool), sum(pool, counter))))?;
    }
    let rows = all.iter().map(|pool| (label(pool), f64::from(pool.state.places.waiting())));
    out.gauges("pool_waiting", "Connections that wait for a place", rows)?;
    let ignored = |pool: &Pool| flag(pool.state.places.health_ignored() == HealthIgnored::Yes);
    let rows = all.iter().map(|pool| (label(pool), ignored(pool)));
    out.gauges("pool_health_ignored", "Whether so little is healthy that health is ignored", rows)?;
    let rows = all.iter().filter_map(|pool| Some(([name(pool), ("digest", pool.balancer.digest()?)], 1.0)));
    out.gauges("pool_table", "1; the digest of a hashed pool's table, the same in every instance that agrees", rows)
}

fn name(pool: &Pool) -> (&'static str, &str) {
    ("pool", &pool.config.name)
}

fn label(pool: &Pool) -> [(&'static str, &str); 1] {
    [name(pool)]
}

fn sum(pool: &Pool, counter: impl Fn(&PoolShard) -> &Counter) -> u64 {
    pool.state.shards.iter().map(|shard| counter(shard).get()).sum()
}
