//! System calls for each unit of work, counted by strace while a proxy works: nearly free of noise. strace makes a proxy slow, so that
//! it finds more work at each waking than it would without: calls that wait are fewer here than in life, for every proxy alike.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::engine::Engine;
use crate::flow::Work;
use crate::loads::{LOADS, Shape};
use crate::measure::WARM_UP;
use crate::process::{Running, find_program};
use crate::proxies::{Kind, Proxy, Scene};
use crate::report::{align, number};
use crate::usage::Counts;

/// For strace to attach, and for it to write its summary.
const PATIENCE: Duration = Duration::from_secs(10);
/// Units after which counts are steady to a percent or two.
const ENOUGH: f64 = 500.0;
/// A call that makes less than this share of a unit is not listed by itself.
const LISTED_FROM: f64 = 0.02;

/// What strace counted.
#[derive(Debug, Default, PartialEq)]
pub struct Calls {
    /// By name, most frequent first as strace tells them.
    by_name: Vec<(String, u64)>,
    /// Those that returned an error, which mostly is EAGAIN.
    failed: u64,
    /// Connections, exchanges, or mebibytes.
    units: f64,
}

impl Calls {
    /// All calls for each unit.
    pub fn per_unit(&self) -> f64 {
        self.by_name.iter().map(|(_, count)| count).sum::<u64>() as f64 / self.units
    }

    /// Calls of this name for each unit.
    fn of_name(&self, name: &str) -> f64 {
        let counts = self.by_name.iter().filter(|(other, _)| other == name).map(|(_, count)| count);
        counts.sum::<u64>() as f64 / self.units
    }

    /// Reads strace's summary: `% time, seconds, usecs/call, calls, errors (or nothing), syscall`.
    fn read(summary: &str, units: f64) -> Outcome<Self> {
        let mut calls = Self { units, ..Self::default() };
        for line in summary.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (count, errors, name) = match words[..] {
                [_, _, _, count, name] => (count, "0", name),
                [_, _, _, count, errors, name] => (count, errors, name),
                _ => continue,
            };
            // Headings and rules have no number there.
            let (Ok(count), Ok(errors)) = (count.parse::<u64>(), errors.parse::<u64>()) else { continue };
            if name != "total" {
                calls.failed += errors;
                calls.by_name.push((name.to_owned(), count));
            }
        }
        if calls.by_name.is_empty() {
            return Err(format!("strace told nothing: {}", summary.trim()).into());
        }
        Ok(calls)
    }
}

/// Where strace is, if it is installed.
pub fn strace() -> Option<PathBuf> {
    find_program("strace")
}

/// Counts what a proxy calls, with all its threads, while so many flows do this work.
pub fn count(proxy: &Proxy, scene: &Scene<'_>, work: Work, flows: usize) -> Outcome<Calls> {
    let pid = proxy.pid().ok_or("there is no process to look at")?;
    let engine = Engine::new(scene.pattern, &proxy.targets, &[(work, flows)])?;
    let units = |counts: &Counts| match work {
        Work::Download(_) | Work::Upload(_) => counts.bulk_bytes as f64 / f64::from(1 << 20),
        _ => counts.exchanges as f64,
    };
    let is_enough = |counts: &Counts| units(counts) >= ENOUGH;
    let times = [WARM_UP, scene.options.window()];
    let (counts, summary) = engine.run_watched(times, is_enough, || attach(scene, pid), detach)?;
    if counts == Counts::default() {
        return Err("nothing came through".into());
    }
    Calls::read(&summary, units(&counts))
}

/// strace at a process, and the file for its summary.
struct Tracer {
    running: Running,
    summary: PathBuf,
}

fn attach(scene: &Scene<'_>, pid: u32) -> Outcome<Tracer> {
    let program = strace().ok_or("strace was not found (Debian: apt-get install strace)")?;
    let summary = scene.folder.file(&format!("strace-{pid}"));
    let (messages, stderr) = scene.folder.output(&format!("strace-{pid}.stderr"))?;
    let path = summary.display().to_string();
    let arguments = ["-f", "-c", "-o", &path, "-p", &pid.to_string()].map(str::to_owned);
    let mut running = Running::start(&[scene.places.load], &program, &arguments, Stdio::null(), stderr)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(&messages)?;
        if text.contains(" attached") {
            // Attaching to further threads is told with the first, but let all of them go on.
            std::thread::sleep(Duration::from_millis(50));
            return Ok(Tracer { running, summary });
        }
        if running.ended()?.is_some() || Instant::now() > deadline {
            return Err(format!("strace does not attach: {}", text.trim()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn detach(mut tracer: Tracer) -> Outcome<String> {
    tracer.running.interrupt(PATIENCE)?;
    Ok(fs::read_to_string(&tracer.summary)?)
}

/// Counts for every load that does, and puts all into one table.
pub fn table(scene: &Scene<'_>, kinds: &[Kind]) -> Outcome<String> {
    let kinds: Vec<Kind> = kinds.iter().copied().filter(|kind| *kind != Kind::Direct).collect();
    let mut rows = vec![vec!["system calls".to_owned()]];
    rows[0].extend(kinds.iter().map(|kind| kind.name().to_owned()));
    let mut number_of_run = 0;
    for load in &LOADS {
        let Shape::Calls(work, flows) = load.shape else { continue };
        let mut found = Vec::new();
        for kind in &kinds {
            number_of_run += 1;
            let proxy = load.start(*kind, scene, number_of_run)?;
            let calls = count(&proxy, scene, work, flows).map_err(|error| format!("{}: {error}", kind.name()))?;
            eprintln!("{} {}: {:.3} calls for each of {:.0}", load.name, kind.name(), calls.per_unit(), calls.units);
            found.push(calls);
        }
        rows.extend(rows_of(load.about, &found));
    }
    Ok(align(&rows))
}

/// The lines of one load: all calls, those that failed, and each by its name.
fn rows_of(title: &str, found: &[Calls]) -> Vec<Vec<String>> {
    let row = |title: String, value: &dyn Fn(&Calls) -> f64| {
        let shown = |value: f64| if value == 0.0 { "-".to_owned() } else { number(value) };
        std::iter::once(title).chain(found.iter().map(|calls| shown(value(calls)))).collect::<Vec<String>>()
    };
    let mut rows = vec![
        row(format!("{title}, all"), &Calls::per_unit),
        row("- those that failed (EAGAIN, EINPROGRESS)".to_owned(), &|calls| calls.failed as f64 / calls.units),
    ];
    let mut names: Vec<&str> = found.iter().flat_map(|calls| calls.by_name.iter().map(|(name, _)| &**name)).collect();
    let most = |name: &str| found.iter().map(|calls| calls.of_name(name)).fold(0.0, f64::max);
    names.sort_by(|a, b| most(b).total_cmp(&most(a)).then_with(|| a.cmp(b)));
    names.dedup();
    let (listed, rest): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| most(name) >= LISTED_FROM);
    rows.extend(listed.into_iter().map(|name| row(format!("- {name}"), &|calls| calls.of_name(name))));
    if !rest.is_empty() {
        rows.push(row("- others".to_owned(), &|calls| rest.iter().map(|name| calls.of_name(name)).sum()));
    }
    rows
}
