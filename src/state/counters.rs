//! Counters. Each has one writer, its worker, so adding costs no locked instruction; readers on the control plane sum over
//! workers.

use std::hash::RandomState;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::histogram::{HELLO_BYTES, HELLO_SECONDS, Histogram, SESSION_SECONDS, SHORT_SECONDS};
use super::places::Places;
use super::refused::RefusedRing;
use super::shards::Shards;
use super::trend::Trend;
use crate::decide::busiest::{Busiest, Summary};
use crate::decide::close::CloseReason;
use crate::decide::hello::{Arrival, ClientHello, FirstAnswer, Refusal};

/// Keeps a value on cache lines of its own; 128 bytes, because CPUs fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call it.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// Present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counters of a listener.
#[derive(Debug)]
pub struct ListenerShard {
    /// Accepted connections.
    pub total: Counter,
    /// Open connections: opened here minus closed here.
    pub active: AtomicI64,
    /// Bytes from clients.
    pub bytes_up: Counter,
    /// Bytes to clients.
    pub bytes_down: Counter,
    /// Connections refused, by reason.
    pub rejected: [Counter; CloseReason::COUNT],
    /// Hellos that were whole and valid.
    pub hello_ok: Counter,
    /// Hellos that were refused or did not come, by reason.
    pub hello_failed: [Counter; CloseReason::COUNT],
    /// Refused first bytes, in the order of [`Refusal::NAMES`].
    pub hello_refused: [Counter; Refusal::NAMES.len()],
    /// Traits of valid hellos, in the order of [`HELLO_TRAITS`].
    pub hello_traits: [Counter; HELLO_TRAITS.len()],
    /// PROXY headers that were believed, by version.
    pub proxy_headers: [Counter; 2],
    /// Cancel requests of PostgreSQL's clients, in the order of [`CancelResult::ALL`].
    pub cancels: [Counter; CancelResult::ALL.len()],
    /// Time to a whole hello.
    pub hello_seconds: Histogram<10>,
    /// Bytes of whole hellos.
    pub hello_bytes: Histogram<9>,
}

impl Default for ListenerShard {
    fn default() -> Self {
        Self {
            total: Counter::default(),
            active: AtomicI64::new(0),
            bytes_up: Counter::default(),
            bytes_down: Counter::default(),
            rejected: std::array::from_fn(|_| Counter::default()),
            hello_ok: Counter::default(),
            hello_failed: std::array::from_fn(|_| Counter::default()),
            hello_refused: std::array::from_fn(|_| Counter::default()),
            hello_traits: std::array::from_fn(|_| Counter::default()),
            proxy_headers: std::array::from_fn(|_| Counter::default()),
            cancels: std::array::from_fn(|_| Counter::default()),
            hello_seconds: Histogram::new(&HELLO_SECONDS),
            hello_bytes: Histogram::new(&HELLO_BYTES),
        }
    }
}

impl ListenerShard {
    /// Counts what a valid hello has besides a name.
    pub fn count_traits(&self, hello: &ClientHello<'_>, arrival: Arrival) {
        let traits = [hello.post_quantum, hello.ech, arrival.records > 1, arrival.segments > 1];
        for (counter, _) in self.hello_traits.iter().zip(traits).filter(|(_, has)| *has) {
            counter.add(1);
        }
    }
}

/// Traits of hellos that are counted: what middleboxes and size limits tend to break.
pub const HELLO_TRAITS: [&str; 4] = ["post_quantum", "ech", "several_records", "several_segments"];

/// What became of a cancel request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelResult {
    /// At least one backend took it.
    Sent,
    /// The source has no sessions here.
    NoSession,
    /// The source sent too many.
    RateLimited,
    /// No backend took it.
    Failed,
}

impl CancelResult {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Sent, Self::NoSession, Self::RateLimited, Self::Failed];

    /// Name as it stands in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::NoSession => "no_session",
            Self::RateLimited => "rate_limited",
            Self::Failed => "failed",
        }
    }
}

/// A listener's counters; they survive a reload by name.
#[derive(Debug)]
pub struct ListenerState {
    /// Its name.
    pub name: Arc<str>,
    /// What was refused last.
    pub refused: RefusedRing,
    /// Its totals over time.
    pub trend: Trend,
    /// Counters per worker.
    pub shards: Shards<Padded<ListenerShard>>,
}

impl ListenerState {
    /// Zeroed counters.
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, refused: RefusedRing::default(), trend: Trend::default(), shards: Shards::new(workers) }
    }

    /// Open connections.
    pub fn active(&self) -> i64 {
        self.shards.iter().map(|shard| shard.active.load(Ordering::Relaxed)).sum()
    }
}

/// One worker's counters of a pool.
#[derive(Debug)]
pub struct PoolShard {
    /// Connections sent to the pool.
    pub total: Counter,
    /// Connections that found no backend.
    pub unavailable: Counter,
    /// Connections that found every place taken.
    pub full: Counter,
    /// Connections that waited for a place.
    pub queued: Counter,
    /// Connections without anything to hash, sent by least connections.
    pub keyless: Counter,
    /// Connections sent while health was ignored.
    pub panicked: Counter,
    /// Hellos that offered to resume a session (RFC 8446 4.2.11, RFC 5077): what spreading clients over backends costs.
    pub resumptions: Counter,
    /// Ended connections, by reason.
    pub closed: [Counter; CloseReason::COUNT],
}

impl Default for PoolShard {
    fn default() -> Self {
        Self {
            total: Counter::default(),
            unavailable: Counter::default(),
            full: Counter::default(),
            queued: Counter::default(),
            keyless: Counter::default(),
            panicked: Counter::default(),
            resumptions: Counter::default(),
            closed: std::array::from_fn(|_| Counter::default()),
        }
    }
}

/// A pool's counters; they survive a reload by name.
#[derive(Debug)]
pub struct PoolState {
    /// Its name.
    pub name: Arc<str>,
    /// Places and who waits for one.
    pub places: Places,
    /// Its totals over time.
    pub trend: Trend,
    /// Counters per worker.
    pub shards: Shards<Padded<PoolShard>>,
}

impl PoolState {
    /// Zeroed counters.
    pub fn new(name: Arc<str>, workers: usize) -> Self {
        Self { name, places: Places::default(), trend: Trend::default(), shards: Shards::new(workers) }
    }
}

/// Why a connection to a backend failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Refused.
    Refused,
    /// Not answered in time.
    Timeout,
    /// No way there.
    Unreachable,
    /// Reset, or another error of the network.
    Other,
    /// No local port, descriptor or memory; says nothing of the backend.
    Local,
    /// PostgreSQL without TLS: it answered N to the request for it.
    NoTls,
    /// PostgreSQL answered the request for TLS with an error.
    ErrorResponse,
    /// It closed instead of answering the request for TLS.
    Closed,
    /// What it answered to the request for TLS is no answer.
    BadAnswer,
}

impl ConnectError {
    /// Whether it speaks against the backend's health. What a server answers to the request for TLS is its configuration
    /// or its load; the next one is tried, and checks that see it well would bring it up again at once.
    pub const fn is_of_health(self) -> bool {
        matches!(self, Self::Refused | Self::Timeout | Self::Unreachable | Self::Other | Self::Closed)
    }

    /// All of them, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Other,
        Self::Local,
        Self::NoTls,
        Self::ErrorResponse,
        Self::Closed,
        Self::BadAnswer,
    ];

    /// Name as it stands in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
            Self::Local => "local",
            Self::NoTls => "no_tls",
            Self::ErrorResponse => "error_response",
            Self::Closed => "closed",
            Self::BadAnswer => "bad_answer",
        }
    }
}

/// One worker's counters of a backend.
#[derive(Debug)]
pub struct BackendShard {
    /// Established connections.
    pub total: Counter,
    /// Failed attempts, in the order of [`ConnectError::ALL`].
    pub connect_errors: [Counter; ConnectError::ALL.len()],
    /// What came first after a ClientHello, in the order of [`FirstAnswer::NAMES`].
    pub first_answers: [Counter; FirstAnswer::NAMES.len()],
    /// Bytes from clients.
    pub bytes_up: Counter,
    /// Bytes to clients.
    pub bytes_down: Counter,
    /// Ready connections: opened here minus used or discarded here.
    pub ready: AtomicI64,
    /// Ready connections that a session used.
    pub ready_used: Counter,
    /// Ready connections that were closed unused.
    pub ready_discarded: Counter,
    /// From the first SYN to an established connection.
    pub connect_seconds: Histogram<11>,
    /// From the hello's departure to the backend's first byte.
    pub first_byte_seconds: Histogram<11>,
    /// From accept to the end.
    pub session_seconds: Histogram<9>,
}

impl Default for BackendShard {
    fn default() -> Self {
        Self {
            total: Counter::default(),
            connect_errors: std::array::from_fn(|_| Counter::default()),
            first_answers: std::array::from_fn(|_| Counter::default()),
            bytes_up: Counter::default(),
            bytes_down: Counter::default(),
            ready: AtomicI64::new(0),
            ready_used: Counter::default(),
            ready_discarded: Counter::default(),
            connect_seconds: Histogram::new(&SHORT_SECONDS),
            first_byte_seconds: Histogram::new(&SHORT_SECONDS),
            session_seconds: Histogram::new(&SESSION_SECONDS),
        }
    }
}

impl BackendShard {
    /// Records the times of one session.
    pub fn observe(&self, session: Duration, connect: Option<Duration>, first_byte: Option<Duration>) {
        self.session_seconds.observe(session.as_secs_f64());
        for (histogram, time) in [(&self.connect_seconds, connect), (&self.first_byte_seconds, first_byte)] {
            if let Some(time) = time {
                histogram.observe(time.as_secs_f64());
            }
        }
    }
}

/// Counters of one worker that belong to nothing else.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Open connections of the worker.
    pub connections: AtomicI64,
    /// Bytes moved: copied up, copied down, spliced up, spliced down.
    pub relayed: [Counter; 4],
    /// Turns from splice to copy because no pipe could be had.
    pub pipe_fallbacks: Counter,
    /// Pipes in use.
    pub pipes_in_use: AtomicI64,
    /// Errors of accept(2), in the order of the names in `sys::socket`.
    pub accept_errors: [Counter; 6],
    /// Sessions that ended by a panic.
    pub faults: Counter,
    /// Records of ordinary sessions that were left out (`sample`).
    pub sampled_out: Counter,
    /// Server names that clients ask for; the lock is shared with readers only.
    names: Mutex<Busiest<RandomState>>,
    /// Ticks of the worker's heart, for the watchdog.
    pub heartbeats: Counter,
    /// Whether its heart has not beaten for long; the control plane sees that.
    pub is_stuck: AtomicBool,
    /// Processor time, in microseconds: of its thread as of the last beat, and of those before it.
    pub cpu_micros: AtomicU64,
    /// The part of that which workers of earlier processes used.
    pub cpu_earlier: Counter,
}

impl WorkerCounters {
    /// Counts the server name of a valid hello, or that it has none.
    pub fn count_name(&self, name: Option<&str>) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).count(name);
    }

    /// Adds names that were counted elsewhere.
    pub fn take_names(&self, counted: &Summary) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).take(counted);
    }

    /// The server names that it counted.
    pub fn counted_names(&self) -> Summary {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).summary()
    }
}
