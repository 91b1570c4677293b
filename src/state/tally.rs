//! Counts on their way from one process to the next: what each counter has, by name, so that a later version with other
//! counters still finds its own. Zeros are left out. Adding is the owning worker's affair, as always.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram as Times;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::backend::{Backend, Timings};
use super::counters::{
    BackendShard, CancelResult, ConnectError, Counter, HELLO_TRAITS, ListenerShard, PoolShard, WorkerCounters,
};
use super::snapshot::Snapshot;
use crate::decide::busiest::{Named, Summary};
use crate::decide::close::CloseReason;
use crate::decide::hello::{FirstAnswer, Refusal};

/// What one of several counters of the same kind counts.
#[derive(Clone, Copy, Debug)]
pub enum Label {
    /// There is only one.
    None,
    /// A name.
    Name(&'static str),
    /// A position.
    Place(usize),
    /// An upper bound.
    Bound(f64),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Name(name) => write!(f, ".{name}"),
            Self::Place(place) => write!(f, ".{place}"),
            Self::Bound(bound) => write!(f, ".{bound}"),
        }
    }
}

/// Sees a counter.
pub type See<'s> = dyn FnMut(&'static str, Label, &Counter) + 's;

/// Whatever has counters.
pub trait Counted {
    /// Shows every counter, always in the same order.
    fn each(&self, see: &mut See<'_>);
}

fn named<'c>(kind: &'static str, names: &[&'static str], counters: &'c [Counter], see: &mut See<'c>) {
    for (name, counter) in names.iter().zip(counters) {
        see(kind, Label::Name(name), counter);
    }
}

fn by_reason(kind: &'static str, counters: &[Counter], see: &mut See<'_>) {
    for (reason, counter) in CloseReason::ALL.iter().zip(counters) {
        see(kind, Label::Name(reason.name()), counter);
    }
}

fn by_place(kind: &'static str, counters: &[Counter], see: &mut See<'_>) {
    for (place, counter) in counters.iter().enumerate() {
        see(kind, Label::Place(place), counter);
    }
}

impl Counted for ListenerShard {
    fn each(&self, see: &mut See<'_>) {
        see("total", Label::None, &self.total);
        see("bytes_up", Label::None, &self.bytes_up);
        see("bytes_down", Label::None, &self.bytes_down);
        see("hello_ok", Label::None, &self.hello_ok);
        by_reason("rejected", &self.rejected, see);
        by_reason("hello_failed", &self.hello_failed, see);
        named("hello_refused", &Refusal::NAMES, &self.hello_refused, see);
        named("hello_traits", &HELLO_TRAITS, &self.hello_traits, see);
        named("proxy_headers", &["v1", "v2"], &self.proxy_headers, see);
        named("cancels", &CancelResult::ALL.map(CancelResult::name), &self.cancels, see);
        self.hello_seconds.each("hello_seconds", see);
        self.hello_bytes.each("hello_bytes", see);
    }
}

impl Counted for PoolShard {
    fn each(&self, see: &mut See<'_>) {
        see("total", Label::None, &self.total);
        see("unavailable", Label::None, &self.unavailable);
        see("full", Label::None, &self.full);
        see("queued", Label::None, &self.queued);
        see("keyless", Label::None, &self.keyless);
        see("panicked", Label::None, &self.panicked);
        see("resumptions", Label::None, &self.resumptions);
        by_reason("closed", &self.closed, see);
    }
}

impl Counted for BackendShard {
    fn each(&self, see: &mut See<'_>) {
        see("total", Label::None, &self.total);
        see("bytes_up", Label::None, &self.bytes_up);
        see("bytes_down", Label::None, &self.bytes_down);
        see("ready_used", Label::None, &self.ready_used);
        see("ready_discarded", Label::None, &self.ready_discarded);
        named("connect_errors", &ConnectError::ALL.map(ConnectError::name), &self.connect_errors, see);
        named("first_answers", &FirstAnswer::NAMES, &self.first_answers, see);
        self.connect_seconds.each("connect_seconds", see);
        self.first_byte_seconds.each("first_byte_seconds", see);
        self.session_seconds.each("session_seconds", see);
    }
}

impl Counted for WorkerCounters {
    fn each(&self, see: &mut See<'_>) {
        by_place("relayed", &self.relayed, see);
        by_place("accept_errors", &self.accept_errors, see);
        see("pipe_fallbacks", Label::None, &self.pipe_fallbacks);
        see("faults", Label::None, &self.faults);
        see("sampled_out", Label::None, &self.sampled_out);
        see("cpu_earlier", Label::None, &self.cpu_earlier);
    }
}

/// Counts by the names of their counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// What several shards come to.
    fn of<'c>(all: impl IntoIterator<Item = &'c (impl Counted + 'c)>) -> Self {
        let mut counts = BTreeMap::new();
        for one in all {
            one.each(&mut |kind, label, counter| {
                let count = counter.get();
                if count > 0 {
                    *counts.entry(format!("{kind}{label}")).or_default() += count;
                }
            });
        }
        Self(counts)
    }

    /// Adds to the counters of one shard.
    fn add_to(&self, shard: &impl Counted) {
        if self.0.is_empty() {
            return;
        }
        shard.each(&mut |kind, label, counter| {
            if let Some(count) = self.0.get(&format!("{kind}{label}")) {
                counter.add(*count);
            }
        });
    }

    /// What has come since `before`.
    fn since(&self, before: &Self) -> Self {
        let grown = |(name, count): (&String, &u64)| {
            let more = count.saturating_sub(before.0.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more))
        };
        Self(self.0.iter().filter_map(grown).collect())
    }
}

/// Times of a backend: how often each value was recorded, in microseconds to two digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct TimesTally {
    connect: BTreeMap<u64, u32>,
    session: BTreeMap<u64, u32>,
    first_byte: BTreeMap<u64, u32>,
}

impl TimesTally {
    fn of(timings: &Timings) -> Self {
        let values = |times: &Times<u32>| {
            times.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
        };
        Self {
            connect: values(&timings.connect),
            session: values(&timings.session),
            first_byte: values(&timings.first_byte),
        }
    }

    fn add_to(&self, timings: &mut Timings) {
        for (values, times) in [
            (&self.connect, &mut timings.connect),
            (&self.session, &mut timings.session),
            (&self.first_byte, &mut timings.first_byte),
        ] {
            for (value, count) in values {
                // Cannot fail: the histogram resizes itself.
                let _ = times.record_n(*value, *count);
            }
        }
    }

    fn since(&self, before: &Self) -> Self {
        let grown = |now: &BTreeMap<u64, u32>, before: &BTreeMap<u64, u32>| {
            let more = |(value, count): (&u64, &u32)| {
                let more = count.saturating_sub(before.get(value).copied().unwrap_or(0));
                (more > 0).then_some((*value, more))
            };
            now.iter().filter_map(more).collect()
        };
        Self {
            connect: grown(&self.connect, &before.connect),
            session: grown(&self.session, &before.session),
            first_byte: grown(&self.first_byte, &before.first_byte),
        }
    }
}

/// Counts of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct BackendTally {
    counts: Tally,
    times: TimesTally,
}

/// Counts of names, as [`Summary`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NamesTally {
    total: u64,
    without: u64,
    least: u64,
    /// Name, count and error.
    names: Vec<(String, u64, u64)>,
}

impl From<Summary> for NamesTally {
    fn from(summary: Summary) -> Self {
        let names = summary.names.into_iter().map(|named| (named.name, named.count, named.error)).collect();
        Self { total: summary.total, without: summary.without, least: summary.least, names }
    }
}

impl From<&NamesTally> for Summary {
    fn from(tally: &NamesTally) -> Self {
        let named =
            |(name, count, error): &(String, u64, u64)| Named { name: name.clone(), count: *count, error: *error };
        Self {
            total: tally.total,
            without: tally.without,
            least: tally.least,
            names: tally.names.iter().map(named).collect(),
        }
    }
}

/// All counts that workers keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tallies {
    workers: Vec<Tally>,
    listeners: BTreeMap<String, Tally>,
    pools: BTreeMap<String, Tally>,
    /// By `POOL/BACKEND ADDRESS`.
    backends: BTreeMap<String, BackendTally>,
    names: Option<NamesTally>,
    dropped_lines: u64,
}

fn identity(backend: &Backend) -> String {
    format!("{} {}", backend.path(), backend.address)
}

impl Tallies {
    /// What is counted now.
    pub fn of(shared: &Shared, snapshot: &Snapshot) -> Self {
        let shards = |backend: &Backend| BackendTally {
            counts: Tally::of(backend.shards.iter().map(|shard| &shard.0)),
            times: TimesTally::of(&backend.timings()),
        };
        let worker = |worker: &WorkerCounters| {
            let mut tally = Tally::of([worker]);
            // What the thread used itself counts as used earlier for whoever comes after it.
            let cpu = worker.cpu_micros.load(Ordering::Relaxed);
            tally.0.insert("cpu_earlier".to_owned(), cpu);
            tally
        };
        let named = |name: &str, tally: Tally| (name.to_owned(), tally);
        Self {
            workers: shared.workers.iter().map(|counters| worker(counters)).collect(),
            listeners: snapshot
                .listeners
                .iter()
                .map(|l| named(&l.state.name, Tally::of(l.state.shards.iter().map(|shard| &shard.0))))
                .collect(),
            pools: snapshot
                .pools
                .iter()
                .map(|p| named(&p.state.name, Tally::of(p.state.shards.iter().map(|shard| &shard.0))))
                .collect(),
            backends: snapshot.backends().map(|(_, backend)| (identity(backend), shards(backend))).collect(),
            names: Some(Summary::add_up(&shared.workers.iter().map(|w| w.counted_names()).collect::<Vec<_>>()).into()),
            dropped_lines: shared.log.dropped(),
        }
    }

    /// What has come since `before`; names are left out, of which a difference says nothing.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = Tally::default();
        let grown = |now: &BTreeMap<String, Tally>, before: &BTreeMap<String, Tally>| {
            now.iter().map(|(name, now)| (name.clone(), now.since(before.get(name).unwrap_or(&none)))).collect()
        };
        let backend = |(name, now): (&String, &BackendTally)| {
            let old = before.backends.get(name).cloned().unwrap_or_default();
            let grown = BackendTally { counts: now.counts.since(&old.counts), times: now.times.since(&old.times) };
            (name.clone(), grown)
        };
        let workers = self.workers.iter().enumerate();
        Self {
            workers: workers.map(|(id, now)| now.since(before.workers.get(id).unwrap_or(&none))).collect(),
            listeners: grown(&self.listeners, &before.listeners),
            pools: grown(&self.pools, &before.pools),
            backends: self.backends.iter().map(backend).collect(),
            names: None,
            dropped_lines: self.dropped_lines.saturating_sub(before.dropped_lines),
        }
    }

    /// Adds one worker's part to its counters; to be called by that worker. The first takes what belongs to none in particular.
    pub fn add_to(&self, shared: &Shared, snapshot: &Snapshot, worker: usize) {
        if worker >= snapshot.workers {
            return;
        }
        // Where there were more workers before, some take the counts of several.
        for tally in self.workers.iter().skip(worker).step_by(snapshot.workers) {
            tally.add_to(&shared.workers[worker].0);
        }
        if worker > 0 {
            return;
        }
        for listener in &snapshot.listeners {
            if let Some(tally) = self.listeners.get(&*listener.state.name) {
                tally.add_to(&listener.state.shards[0].0);
            }
        }
        for pool in &snapshot.pools {
            if let Some(tally) = self.pools.get(&*pool.state.name) {
                tally.add_to(&pool.state.shards[0].0);
            }
        }
        for (_, backend) in snapshot.backends() {
            if let Some(tally) = self.backends.get(&identity(backend)) {
                tally.counts.add_to(&backend.shards[0].0);
                if tally.times != TimesTally::default() {
                    backend.time(0, |timings| tally.times.add_to(timings));
                }
            }
        }
        if let Some(names) = &self.names {
            shared.workers[0].take_names(&names.into());
        }
        shared.log.count_dropped(self.dropped_lines);
    }
}

#[cfg(test)]
mod tests;
