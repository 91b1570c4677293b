//! The loads, and what is measured under each.

use std::fs;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::configurations::Layout;
use crate::engine::Engine;
use crate::flow::Work;
use crate::proxies::{Kind, Proxy, Scene};
use crate::usage::{Findings, Processes, private_memory};

const MEBIBYTE: u64 = 1024 * 1024;
/// Before measuring begins.
const WARM_UP: Duration = Duration::from_millis(250);
/// Between the last idle session opened and the reading of memory.
const SETTLE: Duration = Duration::from_secs(3);

/// One column of results.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// What is measured.
    pub name: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Whether more is better; `None` where it is neither.
    pub more_is_better: Option<bool>,
    /// What the design demands of sluice.
    pub must: Option<Must>,
}

/// A demand of the design, a bound from above or below according to what is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Must {
    /// On the ratio to the best peer.
    Ratio(f64),
    /// On the value itself.
    Value(f64),
}

const fn metric(name: &'static str, unit: &'static str, more_is_better: Option<bool>, must: Option<Must>) -> Metric {
    Metric { name, unit, more_is_better, must }
}

static THROUGHPUT: Metric = metric("throughput", "Gbit/s", Some(true), Some(Must::Ratio(1.0)));
static PROXY_PER_GIGABYTE: Metric = metric("proxy CPU", "s/GB", Some(false), Some(Must::Ratio(0.95)));
static MACHINE_PER_GIGABYTE: Metric = metric("system CPU", "s/GB", Some(false), None);
static EXCHANGES: Metric = metric("exchanges", "1000/s", Some(true), None);
static CONNECTIONS: Metric = metric("connections", "1000/s", Some(true), None);
static MEDIAN: Metric = metric("p50", "us", Some(false), None);
static TAIL: Metric = metric("p99", "us", Some(false), Some(Must::Ratio(1.1)));
static FAR_TAIL: Metric = metric("p99.9", "us", Some(false), Some(Must::Ratio(1.1)));
static TAIL_OF_CONNECTIONS: Metric = metric("p99", "us", Some(false), None);
static FAR_TAIL_OF_CONNECTIONS: Metric = metric("p99.9", "us", Some(false), None);
static PROXY_PER_EXCHANGE: Metric = metric("proxy CPU", "us each", Some(false), Some(Must::Ratio(1.05)));
static MACHINE_PER_EXCHANGE: Metric = metric("system CPU", "us each", Some(false), None);
static PROXY_SHARE: Metric = metric("proxy CPU", "of one core", None, None);
/// Processor time that went to other programs on the machine; the report warns about it instead of giving it a line.
pub static OTHERS: Metric = metric("other programs", "of one core", None, None);
static LOGGED: Metric = metric("log lines", "per connection", None, None);
static MEMORY: Metric = metric("private memory", "B/session", Some(false), Some(Must::Value(2500.0)));
static MEMORY_BEFORE: Metric = metric("private memory", "MB before", None, None);

/// What one measurement gives.
pub type Values = Vec<(&'static Metric, f64)>;

/// What drives a load, and what it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Bulk(Work, usize),
    Exchanges(usize),
    Paced,
    BesideIdle,
    Connections { at_once: usize, backends: usize, routes: usize },
    Mix,
    Idle,
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
    shape: Shape,
}

const fn load(name: &'static str, quick: bool, shape: Shape, about: &'static str) -> Load {
    Load { name, about, quick, shape }
}

const FEW: usize = 8;

/// All loads.
pub static LOADS: [Load; 13] = [
    load("download-16", true, Shape::Bulk(Work::Download(16 * MEBIBYTE), 16), "16 connections download without end"),
    load("download-1", false, Shape::Bulk(Work::Download(64 * MEBIBYTE), 1), "1 connection downloads without end"),
    load("download-256", false, Shape::Bulk(Work::Download(2 * MEBIBYTE), 256), "256 connections download without end"),
    load("upload-16", true, Shape::Bulk(Work::Upload(16 * MEBIBYTE), 16), "16 connections upload without end"),
    load("exchange-64", true, Shape::Exchanges(64), "64 connections: 200 B there, 1 KiB back, again and again"),
    load("exchange-1", false, Shape::Exchanges(1), "1 connection: 200 B there, 1 KiB back, again and again"),
    load("exchange-1000", false, Shape::Exchanges(1000), "1000 connections: 200 B there, 1 KiB back, again and again"),
    load(
        "exchange-paced",
        false,
        Shape::Paced,
        "64 connections: 20 000 exchanges a second in all, latency from when each was due",
    ),
    load("exchange-beside-idle", false, Shape::BesideIdle, "64 connections exchange as above beside 7000 idle ones"),
    load(
        "connect-16",
        true,
        Shape::Connections { at_once: 16, backends: FEW, routes: 2 },
        "16 at once: connect, 517 B hello + 200 B, 1 KiB back, close; 2 routes, 8 backends",
    ),
    load(
        "connect-many",
        false,
        Shape::Connections { at_once: 16, backends: 1000, routes: 10_000 },
        "the same with 10 000 routes (maps in HAProxy and nginx) and 1000 backends",
    ),
    load(
        "mix",
        false,
        Shape::Mix,
        "64 connections exchange 200 B / 1 KiB beside 4 downloads; latencies are the exchanges'",
    ),
    load(
        "idle",
        true,
        Shape::Idle,
        "sessions that sent a hello and one exchange, then nothing for 3 s; all are used once more",
    ),
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
    /// Whether this proxy is measured in this round: memory is steady, and the row without proxy is for orientation.
    pub fn applies(&self, kind: Kind, round: usize, quick: bool) -> bool {
        let rounds = match (kind, self.shape) {
            (Kind::Direct, Shape::Idle) => 0,
            (_, Shape::Idle) => 1 + usize::from(!quick),
            (Kind::Direct, _) => 1,
            _ => usize::MAX,
        };
        round < rounds
    }

    /// Starts the proxy, drives the load through it, and ends it.
    pub fn measure(&self, kind: Kind, scene: &Scene<'_>, number: usize) -> Outcome<Values> {
        let (backends, routes) = match self.shape {
            Shape::Connections { backends, routes, .. } => (backends, routes),
            _ => (FEW, 2),
        };
        let layout = Layout::new(scene.backend_ports, backends, routes);
        let proxy = Proxy::start(kind, scene, number, &layout, matches!(self.shape, Shape::Bulk(..) | Shape::Mix))?;
        match self.shape {
            Shape::Bulk(work, count) => {
                let findings = drive(&proxy, scene, &[(work, count)])?;
                let seconds = findings.usage.elapsed.as_secs_f64();
                let gigabytes = above_zero(findings.counts.bulk_bytes)? / 1e9;
                let mut values = vec![(&THROUGHPUT, gigabytes * 8.0 / seconds)];
                values.extend(findings.usage.proxy.map(|time| (&PROXY_PER_GIGABYTE, time.as_secs_f64() / gigabytes)));
                values.push((&MACHINE_PER_GIGABYTE, findings.usage.machine.as_secs_f64() / gigabytes));
                values.push((&OTHERS, findings.usage.others.as_secs_f64() / seconds));
                Ok(values)
            }
            Shape::Exchanges(count) => exchange_values(&EXCHANGES, &drive(&proxy, scene, &[(Work::Exchange, count)])?),
            Shape::Paced => exchange_values(&EXCHANGES, &drive(&proxy, scene, &[(Work::Paced(20_000), 64)])?),
            Shape::BesideIdle => {
                exchange_values(&EXCHANGES, &drive(&proxy, scene, &[(Work::Exchange, 64), (Work::Idle, 7000)])?)
            }
            Shape::Connections { at_once, .. } => {
                let findings = drive(&proxy, scene, &[(Work::Connect, at_once)])?;
                let mut values = exchange_values(&CONNECTIONS, &findings)?;
                values.extend(lines_logged(&proxy, findings.connections).map(|ratio| (&LOGGED, ratio)));
                Ok(values)
            }
            Shape::Mix => {
                let findings = drive(&proxy, scene, &[(Work::Exchange, 64), (Work::Download(16 * MEBIBYTE), 4)])?;
                let seconds = findings.usage.elapsed.as_secs_f64();
                let mut values = exchange_values(&EXCHANGES, &findings)?;
                values.retain(|(metric, _)| ![&PROXY_PER_EXCHANGE, &MACHINE_PER_EXCHANGE].contains(metric));
                values.insert(0, (&THROUGHPUT, above_zero(findings.counts.bulk_bytes)? * 8.0 / 1e9 / seconds));
                values.extend(findings.usage.proxy.map(|time| (&PROXY_SHARE, time.as_secs_f64() / seconds)));
                Ok(values)
            }
            Shape::Idle => idle(&proxy, scene),
        }
    }
}

/// Drives flows through a proxy.
fn drive(proxy: &Proxy, scene: &Scene<'_>, works: &[(Work, usize)]) -> Outcome<Findings> {
    let processes = Processes { proxy: proxy.pid(), backend: scene.backend };
    Engine::new(scene.pattern, &proxy.targets, works)?.run(processes, WARM_UP, scene.options.window())
}

/// A count as a number, which must not be zero.
fn above_zero(count: u64) -> Outcome<f64> {
    if count == 0 { Err("nothing came through".into()) } else { Ok(count as f64) }
}

/// What exchanges and connections have in common.
fn exchange_values(rate: &'static Metric, findings: &Findings) -> Outcome<Values> {
    let count = above_zero(findings.counts.exchanges)?;
    let mut values = vec![(rate, count / findings.usage.elapsed.as_secs_f64() / 1000.0)];
    let tails =
        if rate == &CONNECTIONS { [&TAIL_OF_CONNECTIONS, &FAR_TAIL_OF_CONNECTIONS] } else { [&TAIL, &FAR_TAIL] };
    for (metric, quantile) in [(&MEDIAN, 0.5), (tails[0], 0.99), (tails[1], 0.999)] {
        values.push((metric, findings.latency.value_at_quantile(quantile) as f64 / 1000.0));
    }
    values.extend(findings.usage.proxy.map(|time| (&PROXY_PER_EXCHANGE, time.as_secs_f64() * 1e6 / count)));
    values.push((&MACHINE_PER_EXCHANGE, findings.usage.machine.as_secs_f64() * 1e6 / count));
    values.push((&OTHERS, findings.usage.others.as_secs_f64() / findings.usage.elapsed.as_secs_f64()));
    Ok(values)
}

/// Opens many sessions, leaves them alone, and reads the proxy's memory before and after.
fn idle(proxy: &Proxy, scene: &Scene<'_>) -> Outcome<Values> {
    let count = if scene.options.quick { 4000 } else { 8000 };
    let pid = proxy.pid().ok_or("there is no process to look at")?;
    let mut warm_up = Engine::new(scene.pattern, &proxy.targets, &[(Work::Idle, 200)])?;
    warm_up.open()?;
    warm_up.finish()?;
    std::thread::sleep(Duration::from_millis(300));
    let before = private_memory(pid)? as f64;
    let mut engine = Engine::new(scene.pattern, &proxy.targets, &[(Work::Idle, count)])?;
    engine.open()?;
    std::thread::sleep(SETTLE);
    let after = private_memory(pid)? as f64;
    engine.ask_again()?;
    engine.finish()?;
    Ok(vec![(&MEMORY, (after - before) / count as f64), (&MEMORY_BEFORE, before / 1e6)])
}

/// Log lines for each connection; some proxies write them late, but not by more than a second.
fn lines_logged(proxy: &Proxy, connections: usize) -> Option<f64> {
    let path = proxy.log.as_ref()?;
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        let lines = fs::read_to_string(path).map_or(0, |text| text.lines().count());
        if lines >= connections || Instant::now() > deadline {
            return Some(lines as f64 / connections.max(1) as f64);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
