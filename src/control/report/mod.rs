//! Fills in what the status socket says of the process, its listeners and its pools. Reads only.

mod backends;
mod names;
mod refused;
mod sessions;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{Control, moves};
use crate::api::{ConfigReport, Event, ListenerReport, MovedReport, PoolReport, StatusReport, WorkerReport};
use crate::config;
use crate::state::{Counter, HealthIgnored, Listener, ListenerShard, Padded, Pool, Standing, WorkerCounters};

pub use backends::{backend, backends, effective_weight, history};
pub use names::names;
pub use refused::refused;
pub use sessions::{ids, sessions};

/// The process as a whole.
pub fn status(control: &Control) -> StatusReport {
    let (shared, snapshot) = (&control.shared, control.snapshot());
    let worker = |(id, counters): (usize, &Padded<WorkerCounters>)| {
        let [copied_up, copied_down, spliced_up, spliced_down] = counters.relayed.each_ref().map(Counter::get);
        WorkerReport {
            connections: counters.connections.load(Ordering::Relaxed),
            cpu_seconds: counters.cpu_micros.load(Ordering::Relaxed) as f64 / 1e6,
            moved: MovedReport { copied_up, copied_down, spliced_up, spliced_down },
            stuck: counters.is_stuck.load(Ordering::Relaxed),
            rests: id >= snapshot.workers,
        }
    };
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        phase: shared.phase().name().to_owned(),
        started: shared.started,
        generation: snapshot.generation,
        last_reload: shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).last.clone(),
        connections: shared.active.load(Ordering::Relaxed),
        max_connections: snapshot.config.global.max_connections,
        workers: shared.workers.iter().enumerate().map(worker).collect(),
        log_dropped: shared.log.dropped(),
        listeners: snapshot.listeners.iter().map(|listener| listener_report(listener)).collect(),
        pools: snapshot.pools.iter().map(|pool| pool_report(pool)).collect(),
        names: shared.names.list(),
    }
}

/// The configuration in force.
pub fn config(control: &Control) -> ConfigReport {
    let snapshot = control.snapshot();
    ConfigReport {
        generation: snapshot.generation,
        config: config::dump(&snapshot.config),
        fixed: moves::fixed(control),
    }
}

fn listener_report(listener: &Listener) -> ListenerReport {
    let sum = |counter: &dyn Fn(&ListenerShard) -> u64| -> u64 {
        listener.state.shards.iter().map(|shard| counter(shard)).sum()
    };
    ListenerReport {
        listener: listener.config.name.to_string(),
        bind: listener.config.bind.clone(),
        protocol: listener.config.protocol.name().to_owned(),
        active: listener.state.active(),
        total: sum(&|shard| shard.total.get()),
        rejected: sum(&|shard| shard.rejected.iter().map(Counter::get).sum()),
        rates: listener.state.trend.shape().rates,
    }
}

fn pool_report(pool: &Pool) -> PoolReport {
    let shards = &pool.state.shards;
    let in_state = |standing: Standing| pool.backends.iter().filter(|backend| backend.standing() == standing).count();
    PoolReport {
        pool: pool.config.name.to_string(),
        balance: pool.config.method.name().to_owned(),
        backends: Standing::ALL.iter().map(|state| (state.name().to_owned(), in_state(*state) as u32)).collect(),
        active: pool.backends.iter().map(|backend| u64::from(backend.active.count())).sum(),
        total: shards.iter().map(|shard| shard.total.get()).sum(),
        unavailable: shards.iter().map(|shard| shard.unavailable.get()).sum(),
        max_connections: pool.config.max_connections,
        waiting: pool.state.places.waiting(),
        full: shards.iter().map(|shard| shard.full.get()).sum(),
        health_ignored: pool.state.places.health_ignored() == HealthIgnored::Yes,
        table: pool.balancer.digest().map(str::to_owned),
        rates: pool.state.trend.shape().rates,
    }
}

/// The last changes of backends and pools, the oldest first.
pub fn events(control: &Control, after: u64, pool: Option<&str>, most: usize) -> Vec<Event> {
    control.shared.events.since(after, pool, most)
}
