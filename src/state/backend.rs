//! One backend while the process runs. It survives reloads by pool, name and address, with counts, health and overrides.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::check::{CertificateFacts, CheckPhase};
use super::counters::{BackendShard, ConnectError, Padded};
use super::live::LiveSigns;
use super::overrides::{Admin, DrainPlan, Overrides};
use super::places::Taken;
use super::shards::Shards;
use super::trend::Trend;
use crate::decide::health::Health;
use crate::decide::health::agent::Operation;

/// Health and operator's word together: what the data plane and people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Standing {
    /// No check; takes connections.
    Unchecked,
    /// Takes connections.
    Up,
    /// Takes none for a while: live traffic failed.
    Ejected,
    /// Takes none: the check failed, or has not answered yet.
    Down,
    /// Takes none by an operator's word; sessions run on.
    Draining,
    /// Takes none by an operator's word.
    Disabled,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Unchecked, Self::Up, Self::Ejected, Self::Down, Self::Draining, Self::Disabled];

    /// Name as it stands in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Up => "up",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }

    const fn of(health: Health, ejected: bool, admin: Admin) -> Self {
        match (admin, health) {
            (Admin::Draining, _) => Self::Draining,
            (Admin::Disabled, _) => Self::Disabled,
            (Admin::Ready, Health::Down | Health::Unknown) => Self::Down,
            (Admin::Ready, _) if ejected => Self::Ejected,
            (Admin::Ready, Health::Unchecked) => Self::Unchecked,
            (Admin::Ready, Health::Up) => Self::Up,
        }
    }

    /// What all that is known comes to. An operator's word comes before the agent's.
    fn of_all(vitals: &Vitals) -> Self {
        let agent = match vitals.agent.operation {
            Some(Operation::Drain) => Admin::Draining,
            Some(Operation::Maintenance) => Admin::Disabled,
            Some(Operation::Ready) | None => Admin::Ready,
        };
        let admin = vitals.overrides.admin.in_force().map_or(agent, |word| word.said);
        Self::of(vitals.health, vitals.ejection.is_some(), admin)
    }
}

/// Whether a pool ignores health: so much of it is down that the checks may be wrong (`panic-threshold`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthIgnored {
    /// Health counts.
    No,
    /// Only an operator's word counts.
    Yes,
}

/// The last check, for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReport {
    /// Whether it succeeded; `None` before the first.
    pub ok: Option<bool>,
    /// Why it failed, in a word.
    pub reason: Cow<'static, str>,
    /// What happened, in a sentence.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
    /// When it ended.
    pub at: Option<jiff::Timestamp>,
    /// When the next begins.
    pub next_at: Option<jiff::Timestamp>,
    /// How it went, phase by phase.
    pub phases: Arc<[CheckPhase]>,
    /// The certificate that was last shown; a check that did not get so far leaves it.
    pub certificate: Option<CertificateFacts>,
}

/// What a backend's agent asked for, until it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentOrders {
    /// Share of the configured weight, in percent.
    pub weight: Option<u32>,
    /// Connections at once, within the configured limit; 0: no further limit.
    pub max_connections: Option<u32>,
    /// What an operator could have asked for.
    #[serde(with = "super::heritage::operation")]
    pub operation: Option<Operation>,
}

/// An ejection in force, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EjectionReport {
    /// When it ends.
    pub until: jiff::Timestamp,
    /// The how many in a row it is.
    pub in_a_row: u32,
    /// What the last sign was.
    pub detail: String,
}

/// What the control plane knows of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vitals {
    /// Health by checks and live failures.
    #[serde(with = "super::heritage::HealthShape")]
    pub health: Health,
    /// Results in a row that speak against it.
    pub streak: u32,
    /// What operators said.
    pub overrides: Overrides,
    /// How its sessions end while it is drained.
    pub drain: Option<DrainPlan>,
    /// What its agent asked for.
    pub agent: AgentOrders,
    /// The ejection in force.
    pub ejection: Option<EjectionReport>,
    /// Ejections so far.
    pub ejections: u64,
    /// When the standing last changed.
    pub since: jiff::Timestamp,
    /// The last check.
    pub check: CheckReport,
    /// Failures of another kind in a row that it takes until it is more than only full: it serves those who are there.
    #[serde(default)]
    pub full: u32,
    /// Checks that succeeded.
    pub checks_ok: u64,
    /// Checks that failed.
    pub checks_failed: u64,
    /// Checks that said nothing of the backend.
    pub checks_void: u64,
}

/// Times of one worker, in microseconds, two significant digits.
#[derive(Clone, Debug)]
pub struct Timings {
    /// From the first SYN to an established connection.
    pub connect: Histogram<u32>,
    /// From accept to the end.
    pub session: Histogram<u32>,
    /// From the hello's departure to the backend's first byte.
    pub first_byte: Histogram<u32>,
}

impl Default for Timings {
    fn default() -> Self {
        // Two digits are within the limits of the crate, and a resizing histogram starts small.
        let histogram = || Histogram::new(2).unwrap_or_else(|_| unreachable!("two digits are valid"));
        Self { connect: histogram(), session: histogram(), first_byte: histogram() }
    }
}

impl Timings {
    /// Records the times of one session.
    pub fn add(&mut self, session: Duration, connect: Option<Duration>, first_byte: Option<Duration>) {
        for (histogram, time) in
            [(&mut self.session, Some(session)), (&mut self.connect, connect), (&mut self.first_byte, first_byte)]
        {
            if let Some(time) = time {
                // Cannot fail: the histogram resizes itself.
                let _ = histogram.record(time.as_micros() as u64);
            }
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in [
            (&mut self.connect, &other.connect),
            (&mut self.session, &other.session),
            (&mut self.first_byte, &other.first_byte),
        ] {
            // Adding can only fail where resizing is off.
            let _ = own.add(theirs);
        }
    }
}

/// A backend's live state.
#[derive(Debug)]
pub struct Backend {
    /// Name of its pool.
    pub pool: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections from the pick on; exact over all workers.
    pub active: Taken,
    standing: AtomicU8,
    /// When it came back, on the coarse clock; 0: long ago, with all of its weight.
    back_since_ms: AtomicU64,
    /// What live traffic shows.
    pub live: LiveSigns,
    /// Its totals over time.
    pub trend: Trend,
    vitals: Mutex<Vitals>,
    /// Counters per worker.
    pub shards: Shards<Padded<BackendShard>>,
    timings: Shards<Mutex<Option<Box<Timings>>>>,
}

impl Backend {
    /// A backend of which nothing is known but whether it has a check.
    pub fn new(pool: Arc<str>, name: Arc<str>, address: SocketAddr, health: Health, workers: usize) -> Self {
        Self {
            pool,
            name,
            address,
            active: Taken::default(),
            standing: AtomicU8::new(Standing::of(health, false, Admin::Ready) as u8),
            back_since_ms: AtomicU64::new(0),
            live: LiveSigns::default(),
            trend: Trend::default(),
            vitals: Mutex::new(Vitals {
                health,
                streak: 0,
                overrides: Overrides::default(),
                drain: None,
                agent: AgentOrders::default(),
                ejection: None,
                ejections: 0,
                since: jiff::Timestamp::now(),
                check: CheckReport::default(),
                full: 0,
                checks_ok: 0,
                checks_failed: 0,
                checks_void: 0,
            }),
            shards: Shards::new(workers),
            timings: Shards::new(workers),
        }
    }

    /// `POOL/BACKEND`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }

    /// What operators said of it.
    pub fn words(&self) -> Overrides {
        self.lock_vitals().overrides
    }

    /// Health and operator's word together.
    pub fn standing(&self) -> Standing {
        let byte = self.standing.load(Ordering::Relaxed);
        Standing::ALL.into_iter().find(|standing| *standing as u8 == byte).unwrap_or(Standing::Down)
    }

    /// Whether it takes new connections. Where health is ignored only an operator's word counts.
    pub fn takes(&self, ignoring: HealthIgnored) -> bool {
        let last = if ignoring == HealthIgnored::Yes { Standing::Down } else { Standing::Up };
        self.standing.load(Ordering::Relaxed) <= last as u8
    }

    /// When it came back, on the coarse clock; `None` when that is no matter any more.
    pub fn back_since_ms(&self) -> Option<u64> {
        Some(self.back_since_ms.load(Ordering::Relaxed)).filter(|since| *since != 0)
    }

    /// Says since when it is back, for slow start; `None`: all of its weight counts at once.
    pub fn set_back_since(&self, now_ms: Option<u64>) {
        self.back_since_ms.store(now_ms.unwrap_or(0), Ordering::Relaxed);
    }

    /// Health by checks and live failures.
    pub fn health(&self) -> Health {
        self.lock_vitals().health
    }

    /// A copy of what the control plane knows.
    pub fn vitals(&self) -> Vitals {
        self.lock_vitals().clone()
    }

    /// Looks at some of it, without a copy.
    pub fn look<T>(&self, at: impl FnOnce(&Vitals) -> T) -> T {
        at(&self.lock_vitals())
    }

    /// Changes what the control plane knows, and the standing with it. Returns (old, new) when that changed.
    pub fn change(&self, change: impl FnOnce(&mut Vitals)) -> Option<(Standing, Standing)> {
        let mut vitals = self.lock_vitals();
        let old = self.standing();
        change(&mut vitals);
        let new = Standing::of_all(&vitals);
        if old == new {
            return None;
        }
        vitals.since = jiff::Timestamp::now();
        self.standing.store(new as u8, Ordering::Relaxed);
        Some((old, new))
    }

    /// Takes the place of all that is known. A check that was switched on or off meanwhile counts as in [`Snapshot::settle_health`](super::Snapshot::settle_health).
    pub fn take_up(&self, known: Vitals, is_checked: bool) {
        let mut vitals = self.lock_vitals();
        let untold = vitals.health;
        *vitals = known;
        // Whoever ended its sessions is gone; whoever is here begins again.
        vitals.drain = vitals.drain.map(|plan| DrainPlan { has_begun: false, ..plan });
        vitals.health = match (is_checked, vitals.health) {
            (false, _) => Health::Unchecked,
            (true, Health::Unchecked) => Health::Up,
            (true, Health::Unknown) => untold,
            (true, known) => known,
        };
        self.standing.store(Standing::of_all(&vitals) as u8, Ordering::Relaxed);
    }

    fn lock_vitals(&self) -> MutexGuard<'_, Vitals> {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records times of one worker; the lock is shared with readers only.
    pub fn time(&self, worker: usize, record: impl FnOnce(&mut Timings)) {
        let mut slot = self.timings[worker].lock().unwrap_or_else(PoisonError::into_inner);
        record(slot.get_or_insert_default());
    }

    /// Times of all workers.
    pub fn timings(&self) -> Timings {
        let mut sum = Timings::default();
        for slot in self.timings.iter() {
            if let Some(timings) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
                sum.merge(timings);
            }
        }
        sum
    }

    /// Sum of one counter over workers.
    pub fn sum(&self, counter: impl Fn(&BackendShard) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(shard)).sum()
    }

    /// Failed attempts for one reason.
    pub fn connect_errors(&self, reason: ConnectError) -> u64 {
        self.sum(|shard| shard.connect_errors[reason as usize].get())
    }
}
