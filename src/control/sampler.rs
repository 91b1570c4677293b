//! Looks at the totals once a second, for rates, the most so far, and the last hour of states. Reads counters only.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};

use super::Handle;
use crate::state::{Backend, Listener, Pool, Sample, Standing};

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// Runs for ever.
pub async fn sample(control: Handle) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        ticks.tick().await;
        let seconds = last.elapsed().as_secs_f64();
        last = Instant::now();
        let minute = Timestamp::now().as_second().div_euclid(60);
        let snapshot = control.snapshot();
        let listeners = snapshot.listeners.iter().map(|listener| {
            let sample = of_listener(listener);
            listener.state.trend.take(sample, seconds);
            sample
        });
        control.shared.trend.take(listeners.fold(Sample::default(), plus), seconds);
        for pool in &snapshot.pools {
            let members = pool.backends.iter().map(|backend| {
                let sample = of_backend(backend);
                backend.trend.take(sample, seconds);
                let standing = backend.standing();
                backend.trend.note(standing, minute);
                if standing <= Standing::Up {
                    // A reload that takes its check away tells nobody.
                    backend.trend.turn(false, last);
                }
                sample
            });
            let sum = members.fold(Sample::default(), plus);
            let waiting = pool.state.places.waiting().into();
            pool.state.trend.take(Sample { connections: connections(pool), waiting, ..sum }, seconds);
        }
    }
}

fn plus(sum: Sample, one: Sample) -> Sample {
    Sample {
        connections: sum.connections + one.connections,
        active: sum.active + one.active,
        bytes_up: sum.bytes_up + one.bytes_up,
        bytes_down: sum.bytes_down + one.bytes_down,
        waiting: sum.waiting + one.waiting,
    }
}

fn connections(pool: &Pool) -> u64 {
    pool.state.shards.iter().map(|shard| shard.total.get()).sum()
}

fn of_listener(listener: &Listener) -> Sample {
    let mut sample = Sample::default();
    for shard in listener.state.shards.iter() {
        sample.connections += shard.total.get();
        sample.active += shard.active.load(Ordering::Relaxed).max(0) as u64;
        sample.bytes_up += shard.bytes_up.get();
        sample.bytes_down += shard.bytes_down.get();
    }
    sample
}

fn of_backend(backend: &Backend) -> Sample {
    Sample {
        connections: backend.sum(|shard| shard.total.get()),
        active: backend.active.count().into(),
        bytes_up: backend.sum(|shard| shard.bytes_up.get()),
        bytes_down: backend.sum(|shard| shard.bytes_down.get()),
        waiting: 0,
    }
}
