//! How a load is driven through a proxy, and what is read off.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::Outcome;
use crate::calls;
use crate::configurations::Layout;
use crate::engine::Engine;
use crate::flow::Work;
use crate::loads::{Load, Shape};
use crate::metrics::{
    CALLS_EACH, CALLS_PER_MEBIBYTE, CONNECTIONS, EXCHANGES, FAR_TAIL, FAR_TAIL_OF_CONNECTIONS, LOGGED,
    MACHINE_PER_EXCHANGE, MACHINE_PER_GIGABYTE, MEDIAN, MEMORY, MEMORY_BEFORE, Metric, OTHERS, PROCESSORS,
    PROXY_PER_EXCHANGE, PROXY_PER_GIGABYTE, PROXY_SHARE, START, TAIL, TAIL_OF_CONNECTIONS, THROUGHPUT, Values,
};
use crate::proxies::{Kind, Proxy, Scene};
use crate::usage::{Findings, private_memory};

/// Before measuring begins.
pub const WARM_UP: Duration = Duration::from_millis(250);
/// Between the last idle session opened and the reading of memory.
const SETTLE: Duration = Duration::from_secs(3);
/// Idle sessions of the full run, if descriptors suffice.
const IDLE_SESSIONS: usize = 8000;
/// Idle sessions of the quick run.
const FEWER_IDLE_SESSIONS: usize = 4000;
/// Descriptors that a proxy has for other things than idle sessions: pipes of a peer, log, listeners, active sessions.
const DESCRIPTORS_FOR_OTHERS: usize = 2000;

impl Load {
    /// Starts the proxy, drives the load through it, and ends it.
    pub fn measure(&self, kind: Kind, scene: &Scene<'_>, number: usize) -> Outcome<Values> {
        let proxy = self.start(kind, scene, number)?;
        let mut values = match self.shape {
            Shape::Bulk(work, count) => bulk_values(&drive(&proxy, scene, &[(work, count)])?)?,
            Shape::Exchanges(work, count) => exchange_values(&EXCHANGES, &drive(&proxy, scene, &[(work, count)])?)?,
            Shape::BesideIdle(work, count) => {
                let works = [(work, count), (Work::Idle, idle_sessions(IDLE_SESSIONS)?)];
                exchange_values(&EXCHANGES, &drive(&proxy, scene, &works)?)?
            }
            Shape::Connections(at_once) => {
                let findings = drive(&proxy, scene, &[(Work::Connect, at_once)])?;
                let mut values = exchange_values(&CONNECTIONS, &findings)?;
                values.extend(lines_logged(&proxy, findings.connections).map(|ratio| (&LOGGED, ratio)));
                values.extend(proxy.pid().map(|_| (&START, proxy.start_time.as_secs_f64() * 1000.0)));
                values
            }
            Shape::Mix => mix_values(&drive(&proxy, scene, &mix())?)?,
            Shape::Idle => idle(&proxy, scene)?,
            Shape::Calls(work, count) => {
                let calls = calls::count(&proxy, scene, work, count)?;
                vec![(if work.is_bulk() { &CALLS_PER_MEBIBYTE } else { &CALLS_EACH }, calls.per_unit())]
            }
        };
        if self.workers > 1 {
            values.push((&PROCESSORS, scene.places.count(self.workers) as f64));
        }
        Ok(values)
    }

    /// Starts the proxy as this load wants it.
    pub fn start(&self, kind: Kind, scene: &Scene<'_>, number: usize) -> Outcome<Proxy> {
        let layout = Layout::new(scene.backend_ports, self.backends, self.routes, self.workers);
        let is_bulk = match self.shape {
            Shape::Bulk(..) | Shape::Mix => true,
            Shape::Calls(work, _) => work.is_bulk(),
            _ => false,
        };
        Proxy::start(kind, scene, number, &layout, is_bulk)
    }
}

fn mix() -> [(Work, usize); 2] {
    [(Work::Exchange(crate::wire::ANSWER_LENGTH), 64), (Work::Download(16 << 20), 4)]
}

/// Drives flows through a proxy.
fn drive(proxy: &Proxy, scene: &Scene<'_>, works: &[(Work, usize)]) -> Outcome<Findings> {
    Engine::new(scene.pattern, &proxy.targets, works)?.run(&proxy.processes(scene), WARM_UP, scene.options.window())
}

/// So many, or as many as the limit of descriptors lets a proxy hold.
fn idle_sessions(wanted: usize) -> Outcome<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(DESCRIPTORS_FOR_OTHERS) / 2;
    if room == 0 { Err("RLIMIT_NOFILE leaves no room for idle sessions".into()) } else { Ok(wanted.min(room)) }
}

/// A count as a number, which must not be zero.
fn above_zero(count: u64) -> Outcome<f64> {
    if count == 0 { Err("nothing came through".into()) } else { Ok(count as f64) }
}

fn bulk_values(findings: &Findings) -> Outcome<Values> {
    let seconds = findings.usage.elapsed.as_secs_f64();
    let gigabytes = above_zero(findings.counts.bulk_bytes)? / 1e9;
    let mut values = vec![(&THROUGHPUT, gigabytes * 8.0 / seconds)];
    values.extend(findings.usage.proxy.map(|time| (&PROXY_PER_GIGABYTE, time.as_secs_f64() / gigabytes)));
    values.push((&MACHINE_PER_GIGABYTE, findings.usage.machine.as_secs_f64() / gigabytes));
    values.push((&OTHERS, findings.usage.others.as_secs_f64() / seconds));
    Ok(values)
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

fn mix_values(findings: &Findings) -> Outcome<Values> {
    let seconds = findings.usage.elapsed.as_secs_f64();
    let mut values = exchange_values(&EXCHANGES, findings)?;
    values.retain(|(metric, _)| ![&PROXY_PER_EXCHANGE, &MACHINE_PER_EXCHANGE].contains(metric));
    values.insert(0, (&THROUGHPUT, above_zero(findings.counts.bulk_bytes)? * 8.0 / 1e9 / seconds));
    values.extend(findings.usage.proxy.map(|time| (&PROXY_SHARE, time.as_secs_f64() / seconds)));
    Ok(values)
}

/// Opens many sessions, leaves them alone, and reads the proxy's memory before and after.
fn idle(proxy: &Proxy, scene: &Scene<'_>) -> Outcome<Values> {
    let count = idle_sessions(if scene.options.quick { FEWER_IDLE_SESSIONS } else { IDLE_SESSIONS })?;
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
