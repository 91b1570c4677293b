//! The loads: what each does, how often it is repeated, and which other load it is held against.

use crate::Outcome;
use crate::flow::Work;
use crate::metrics::{CONNECTIONS, EXCHANGES, Metric, PROXY_PER_EXCHANGE, Values};
use crate::proxies::Kind;
use crate::wire::ANSWER_LENGTH;

const KIBIBYTE: u64 = 1024;
const MEBIBYTE: u64 = 1024 * KIBIBYTE;
/// Backends where their number is not the point.
const FEW: usize = 8;

/// What drives a load, and what it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Connections that move as much as they can.
    Bulk(Work, usize),
    /// Connections that ask and wait for the answer.
    Exchanges(Work, usize),
    /// The same beside as many idle ones as `Idle` has.
    BesideIdle(Work, usize),
    /// So many at once that connect, ask, and close.
    Connections(usize),
    /// Exchanges beside downloads.
    Mix,
    /// Memory of sessions that say nothing.
    Idle,
    /// System calls of the proxy while connections do this work.
    Calls(Work, usize),
}

/// One load.
#[derive(Debug)]
pub struct Load {
    /// Its name in options and tables.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Whether it belongs to the quick run.
    pub quick: bool,
    /// Whether it has every round; the others have three in five, enough where it is the neighbour of one that has all.
    pub always: bool,
    /// What happens.
    pub shape: Shape,
    /// Backends of the proxy.
    pub backends: usize,
    /// Routes of the proxy.
    pub routes: usize,
    /// Workers, threads, or processes of the proxy.
    pub workers: usize,
}

/// A load's figure held against the same program's figure under another load, round by round.
#[derive(Debug)]
pub struct Against {
    /// The other load.
    pub base: &'static str,
    /// Which figure.
    pub metric: &'static Metric,
    /// What the design demands of the ratio.
    pub must: f64,
}

const fn load(name: &'static str, shape: Shape, about: &'static str) -> Load {
    Load { name, about, quick: false, always: false, shape, backends: FEW, routes: 2, workers: 1 }
}

impl Load {
    const fn quick(self) -> Self {
        Self { quick: true, always: true, ..self }
    }

    const fn always(self) -> Self {
        Self { always: true, ..self }
    }

    const fn routing(self, backends: usize, routes: usize) -> Self {
        Self { backends, routes, ..self }
    }

    const fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }
}

const DOWNLOAD: Work = Work::Download(16 * MEBIBYTE);
const EXCHANGE: Work = Work::Exchange(ANSWER_LENGTH);

/// All loads.
pub static LOADS: [Load; 24] = [
    load("download-1", Shape::Bulk(Work::Download(64 * MEBIBYTE), 1), "1 connection downloads without end"),
    load("download-16", Shape::Bulk(DOWNLOAD, 16), "16 connections download without end").quick(),
    load("download-256", Shape::Bulk(Work::Download(2 * MEBIBYTE), 256), "256 connections download without end"),
    load("upload-1", Shape::Bulk(Work::Upload(64 * MEBIBYTE), 1), "1 connection uploads without end"),
    load("upload-16", Shape::Bulk(Work::Upload(16 * MEBIBYTE), 16), "16 connections upload without end").quick(),
    load("upload-256", Shape::Bulk(Work::Upload(2 * MEBIBYTE), 256), "256 connections upload without end"),
    load(
        "objects-64",
        Shape::Exchanges(Work::Exchange(64 * KIBIBYTE), 64),
        "64 connections: objects of 64 KiB, each asked for when the one before is there, as browsers do",
    ),
    load("exchange-1", Shape::Exchanges(EXCHANGE, 1), "1 connection: 200 B there, 1 KiB back, again and again"),
    load("exchange-64", Shape::Exchanges(EXCHANGE, 64), "64 connections: 200 B there, 1 KiB back, again and again")
        .quick(),
    load("exchange-1000", Shape::Exchanges(EXCHANGE, 1000), "1000 connections: 200 B there, 1 KiB back"),
    load("exchange-64-tiny", Shape::Exchanges(Work::Exchange(64), 64), "64 connections: 200 B there, 64 B back"),
    load(
        "exchange-64-large",
        Shape::Exchanges(Work::Exchange(16 * KIBIBYTE), 64),
        "64 connections: 200 B there, 16 KiB back",
    ),
    load(
        "exchange-paced",
        Shape::Exchanges(Work::Paced(20_000), 64),
        "64 connections: 20 000 exchanges a second in all, latency from when each was due",
    )
    .always(),
    load(
        "exchange-beside-idle",
        Shape::BesideIdle(EXCHANGE, 64),
        "64 connections: 200 B there, 1 KiB back, beside 8000 idle ones (fewer if RLIMIT_NOFILE is below 18 000)",
    ),
    load(
        "connect-16",
        Shape::Connections(16),
        "16 at once: connect, 517 B hello + 200 B, 1 KiB back, close; 2 routes, 8 backends",
    )
    .quick(),
    load(
        "connect-many",
        Shape::Connections(16),
        "the same with 10 000 routes (maps in HAProxy and nginx) and 1000 backends",
    )
    .routing(1000, 10_000),
    load("mix", Shape::Mix, "64 connections exchange 200 B / 1 KiB beside 4 downloads; latencies are the exchanges'")
        .always(),
    load(
        "idle",
        Shape::Idle,
        "8000 sessions (quick 4000) 3 s after a hello and one exchange; afterwards all are used once more",
    )
    .quick(),
    load(
        "two-workers-exchange",
        Shape::Exchanges(EXCHANGE, 64),
        "exchange-64 through 2 workers (nbthread 2; worker_processes 2, reuseport)",
    )
    .workers(2),
    load("two-workers-connect", Shape::Connections(16), "connect-16 through 2 workers").workers(2),
    load("two-workers-download", Shape::Bulk(DOWNLOAD, 16), "download-16 through 2 workers").workers(2),
    load("calls-connect", Shape::Calls(Work::Connect, 16), "connect-16 under strace, for each connection"),
    load("calls-exchange", Shape::Calls(EXCHANGE, 64), "exchange-64 under strace, for each exchange"),
    load("calls-download", Shape::Calls(DOWNLOAD, 16), "download-16 under strace, for each MiB"),
];

/// What one measurement gave.
#[derive(Debug)]
pub struct Sample {
    /// Under which load.
    pub load: &'static str,
    /// Of which proxy.
    pub kind: Kind,
    /// In which round, from 0.
    pub round: usize,
    /// The values, or why there are none.
    pub values: Result<Values, String>,
}

impl Load {
    /// Whether this proxy is measured in this round of so many: memory and calls are steady, and the row without proxy is for
    /// orientation.
    pub fn applies(&self, kind: Kind, round: usize, rounds: usize) -> bool {
        let wanted = match (kind, self.shape) {
            (Kind::Direct, Shape::Idle | Shape::Calls(..)) => 0,
            (Kind::Direct, _) if self.workers > 1 => 0,
            (_, Shape::Idle) => rounds.div_ceil(3),
            (Kind::Direct, _) | (_, Shape::Calls(..)) => 1,
            _ if self.always => rounds,
            _ => (rounds * 3).div_ceil(5),
        };
        round < wanted
    }

    /// Which load of the same program it is held against.
    pub fn against(&self) -> Option<Against> {
        let (base, metric, must) = match self.name {
            "exchange-beside-idle" => ("exchange-64", &PROXY_PER_EXCHANGE, 1.05),
            "connect-many" => ("connect-16", &PROXY_PER_EXCHANGE, 1.05),
            "two-workers-exchange" => ("exchange-64", &EXCHANGES, 1.8),
            "two-workers-connect" => ("connect-16", &CONNECTIONS, 1.8),
            "two-workers-download" => ("download-16", &crate::metrics::THROUGHPUT, 1.8),
            _ => return None,
        };
        Some(Against { base, metric, must })
    }

    /// Whether it counts system calls, which needs strace.
    pub fn counts_calls(&self) -> bool {
        matches!(self.shape, Shape::Calls(..))
    }
}

/// The load of that name.
pub fn named(name: &str) -> Outcome<&'static Load> {
    LOADS.iter().find(|load| load.name == name).ok_or_else(|| format!("there is no load called {name}").into())
}
