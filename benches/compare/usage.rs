//! What a measurement finds: work done, and what it cost as the kernel counts it: processor time of a process and of the whole machine, private memory.

use std::fs;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Outcome;

/// Whose time is read.
#[derive(Clone, Debug)]
pub struct Processes {
    /// The proxy's, if there is one.
    pub proxy: Vec<u32>,
    /// The backend.
    pub backend: u32,
}

/// Readings at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    proxy: Option<ProcessTime>,
    generator: ProcessTime,
    backend: ProcessTime,
    machine: Duration,
}

/// Processor time of a process, counted in two ways.
#[derive(Clone, Copy, Debug, Default)]
struct ProcessTime {
    /// Of the threads that it has now, in nanoseconds.
    threads: Duration,
    /// Of all threads that it ever had, in steps of 10 ms.
    all: Duration,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Time between the readings.
    pub elapsed: Duration,
    /// Processor time of the proxy, all its threads; none without a proxy.
    pub proxy: Option<Duration>,
    /// Processor time of the whole machine that was not idle.
    pub machine: Duration,
    /// Processor time that went neither to the proxy nor to the backend nor to us: a disturbance.
    pub others: Duration,
}

/// Work done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Bytes of downloads that arrived and of uploads that were sent.
    pub bulk_bytes: u64,
    /// Exchanges, or whole connections.
    pub exchanges: u64,
}

impl Counts {
    /// Work done since an earlier moment.
    pub fn since(self, earlier: Self) -> Self {
        Self { bulk_bytes: self.bulk_bytes - earlier.bulk_bytes, exchanges: self.exchanges - earlier.exchanges }
    }
}

/// What a run found.
pub struct Findings {
    /// Work done between the two readings.
    pub counts: Counts,
    /// What it cost.
    pub usage: Usage,
    /// Connections made in all, warm-up included.
    pub connections: usize,
    /// Nanoseconds from the beginning of an exchange or connection to its last byte.
    pub latency: Histogram<u64>,
}

impl Reading {
    /// Reads the clocks of the machine and of the processes.
    pub fn take(processes: &Processes) -> Outcome<Self> {
        let mut proxy = None;
        for pid in &processes.proxy {
            let time = process_time(*pid)?;
            let sum: &mut ProcessTime = proxy.get_or_insert_default();
            sum.threads += time.threads;
            sum.all += time.all;
        }
        let generator = process_time(std::process::id())?;
        let backend = process_time(processes.backend)?;
        Ok(Self { at: Instant::now(), proxy, generator, backend, machine: machine_time()? })
    }

    /// What was used since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Usage {
        let proxy = self.proxy.zip(earlier.proxy).map(|(now, then)| now.since(then));
        let machine = self.machine.saturating_sub(earlier.machine);
        let ours =
            self.generator.since(earlier.generator) + self.backend.since(earlier.backend) + proxy.unwrap_or_default();
        Usage { elapsed: self.at - earlier.at, proxy, machine, others: machine.saturating_sub(ours) }
    }
}

impl ProcessTime {
    /// What was used since; the finer count, unless threads ended in between and took theirs with them.
    fn since(self, earlier: Self) -> Duration {
        let threads = self.threads.saturating_sub(earlier.threads);
        let all = self.all.saturating_sub(earlier.all);
        if all > threads + Duration::from_millis(30) { all } else { threads }
    }
}

/// Processor time of a process, as the scheduler counts it. It includes the network work that interrupts a thread, which with loopback
/// is the receiving side's protocol work.
fn process_time(pid: u32) -> Outcome<ProcessTime> {
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between listing and reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let Some(first) = text.split_whitespace().next() else { continue };
        threads += first.parse::<u64>()?;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field behind it.
    let fields =
        text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2)).ok_or("no process name")?;
    let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ProcessTime { threads: Duration::from_nanos(threads), all: Duration::from_millis(ticks * 10) })
}

/// Processor time of the whole machine since it started, in steps of 10 ms: all but idle, waiting for disks, and stolen.
fn machine_time() -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let [user, nice, system, _idle, _waiting, interrupts, soft_interrupts, ..] = fields[..] else {
        return Err("/proc/stat is not as expected".into());
    };
    Ok(Duration::from_millis((user + nice + system + interrupts + soft_interrupts) * 10))
}

/// Bytes of memory that belong to a process alone.
pub fn private_memory(pid: u32) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix("Private_Clean:").or_else(|| line.strip_prefix("Private_Dirty:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Ok(text.lines().filter_map(kilobytes).sum::<u64>() * 1024)
}

/// The processes that a process started and that still run.
pub fn children(parent: u32) -> Outcome<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between listing and reading.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let second = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if second == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}
