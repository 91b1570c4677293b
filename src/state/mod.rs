//! What both planes share: the snapshot in force, live state of backends and pools, counters per worker, the phase.
//! Workers read it and write their own counters; the control plane writes the rest. It decides nothing.

mod backend;
mod check;
mod commands;
mod counters;
mod events;
mod explain;
mod heritage;
mod histogram;
mod live;
mod log;
mod matching;
mod names;
mod operators;
mod overrides;
mod places;
mod refused;
mod shards;
mod snapshot;
mod tally;
mod trend;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::api::ReloadReport;
use crate::decide::limits::{Bucket, SourceRates};

pub use backend::{AgentOrders, Backend, CheckReport, EjectionReport, HealthIgnored, Standing, Timings, Vitals};
pub use check::{CertificateFacts, CheckPhase};
pub use commands::Commands;
pub use counters::{
    BackendShard, CancelResult, ConnectError, Counter, HELLO_TRAITS, ListenerShard, ListenerState, Padded, PoolShard,
    PoolState, WorkerCounters,
};
pub use events::Events;
pub use explain::{Explanation, RouteQuery, explain};
#[cfg(test)]
pub use heritage::missing_fields;
pub use heritage::{Heirs, Heritage, Identity, identity};
pub use histogram::{Buckets, HELLO_BYTES, HELLO_SECONDS, Histogram, SESSION_SECONDS, SHORT_SECONDS};
pub use live::{LiveSigns, Observation};
pub use log::{LogMessage, LogOutput, LogSink};
pub use matching::{Matching, Rules, removed_rules};
pub use names::{MOST_MEMBERS, NameReports, Resolution, targets};
pub use operators::{Absent, Addition, Operators, Supplement};
pub use overrides::{Admin, DrainPlan, Overrides, Word, Words};
pub use places::{Places, Taken, Turn};
pub use refused::{RecordLayout, RefusedHello, RefusedRing};
pub use shards::Shards;
pub use snapshot::{Listener, Pool, Room, Routed, Share, Snapshot};
pub use tally::Tallies;
pub use trend::{MINUTES, Outages, Sample, Shape, Trend};

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not every listener is bound, or not every backend was asked.
    Starting,
    /// Accepting.
    Running,
    /// `/readyz` says no, listeners still accept.
    Leaving,
    /// Listeners are closed, sessions run out.
    Draining,
}

impl Phase {
    /// Name as it stands in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
        }
    }
}

/// Cancel requests of one source, each second and at once. Chosen: a pool of a hundred connections may give up all its
/// queries at once.
const CANCELS: (u32, u32) = (50, 100);
/// The same of all sources together: each costs a look at every session.
const ALL_CANCELS: (u32, u32) = (500, 1000);
/// Sources whose rate is remembered.
const CANCEL_SOURCES: usize = 4096;

#[derive(Debug)]
struct Cancels {
    by_source: SourceRates,
    all: Bucket,
}

/// State of the whole process.
#[derive(Debug)]
pub struct Shared {
    /// When the process started.
    pub started: jiff::Timestamp,
    /// Connections at once, over all workers and listeners.
    pub active: Padded<AtomicU32>,
    /// Counters of each worker.
    pub workers: Shards<Padded<WorkerCounters>>,
    /// The log.
    pub log: LogSink,
    /// What happened to backends and pools.
    pub events: Events,
    /// Commands of the status socket.
    pub commands: Commands,
    /// How reloads went.
    pub reloads: Mutex<Reloads>,
    /// What is known of named backends.
    pub names: NameReports,
    /// Totals of all listeners over time.
    pub trend: Trend,
    cancels: Mutex<Cancels>,
    phase: AtomicU8,
    snapshot: RwLock<Option<Arc<Snapshot>>>,
}

/// How reloads went.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    /// Reloads that took effect.
    pub succeeded: u64,
    /// Reloads that changed nothing because of an error.
    pub failed: u64,
    /// The last one.
    pub last: Option<ReloadReport>,
}

impl Shared {
    /// State of a process with `workers` worker threads.
    pub fn new(workers: usize, log: LogSink) -> Self {
        Self {
            started: jiff::Timestamp::now(),
            active: Padded::default(),
            workers: Shards::new(workers),
            log,
            events: Events::default(),
            commands: Commands::default(),
            reloads: Mutex::default(),
            names: NameReports::default(),
            trend: Trend::default(),
            cancels: Mutex::new(Cancels {
                by_source: SourceRates::new(CANCELS.0, CANCELS.1, CANCEL_SOURCES),
                all: Bucket::full(ALL_CANCELS.1, 0),
            }),
            phase: AtomicU8::new(Phase::Starting as u8),
            snapshot: RwLock::default(),
        }
    }

    /// Whether one more cancel request of PostgreSQL's clients is looked at. They are rare, so a lock does no harm.
    pub fn may_cancel(&self, source: IpAddr, now_ms: u64) -> bool {
        let mut cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        cancels.by_source.take(source, now_ms) && cancels.all.take(ALL_CANCELS.0, ALL_CANCELS.1, now_ms)
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Running,
            2 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    /// The snapshot in force, for the control plane; workers have their own views. `None` only while starting.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a snapshot in force.
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// Sets what the process is doing.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }
}
