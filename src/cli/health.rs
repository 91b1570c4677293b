//! `sluice health`: the daemon as a monitoring plugin sees it (Monitoring Plugins Development Guidelines: one line, figures
//! behind `|`, exit codes 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN).

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::json;

use super::Globals;
use super::client::quietly;
use super::connection::Trouble;
use super::figures::{ago, certificate_tone, span};
use super::output::{data, json as print_json, visible};
use super::table::Tone;
use crate::api::{BackendReport, BackendsParams, PoolReport, StatusReport};

/// What and why, for `--help`.
pub const EXAMPLES: &str = "One line in the style of Nagios, with figures behind `|`. Exit codes, instead of the usual ones:\n  \
0 OK\n  \
1 WARNING: a backend is down or ejected, a certificate expires within 14 days, so little is healthy that health is ignored, \
the last reload failed, or a name is stale\n  \
2 CRITICAL: a pool has no backend that takes connections\n  \
3 UNKNOWN: no daemon answers, or there is no such pool\n\n\
Examples:\n  sluice health\n  sluice health --pool shop --socket /run/sluice/sluice.sock";

/// Problems that are named; a line has its limits.
const MOST_NAMED: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

struct Finding {
    verdict: Verdict,
    text: String,
    /// `label=value;warning;critical;least;most`.
    figures: Vec<String>,
}

/// Runs `health`.
pub fn health(globals: &Globals, pool: Option<String>) -> ExitCode {
    let finding = look(globals, pool).unwrap_or_else(|trouble| Finding {
        verdict: Verdict::Unknown,
        text: trouble.to_string(),
        figures: Vec::new(),
    });
    let (word, figures) = (finding.verdict.word(), finding.figures.join(" "));
    // Only the figures may come behind a bar, and everything is on one line.
    let text = visible(&finding.text, &[]).replace('|', "/");
    if globals.json {
        print_json(&json!({ "verdict": word, "message": text, "figures": finding.figures }));
    } else if figures.is_empty() {
        data(&format!("SLUICE {word} - {text}\n"));
    } else {
        data(&format!("SLUICE {word} - {text} | {figures}\n"));
    }
    ExitCode::from(finding.verdict as u8)
}

fn look(globals: &Globals, pool: Option<String>) -> Result<Finding, Trouble> {
    let backends: Vec<BackendReport> = quietly(globals, "backends", &BackendsParams { pool: pool.clone() })?;
    let mut status: StatusReport = quietly(globals, "status", &json!({}))?;
    if let Some(wanted) = &pool {
        status.pools.retain(|pool| pool.pool == *wanted);
    }
    let now = Timestamp::now();
    let mut problems: Vec<(Verdict, String)> = Vec::new();
    for pool in &status.pools {
        problems.extend(of_pool(pool, &backends));
    }
    for backend in &backends {
        problems.extend(of_backend(backend, now).into_iter().map(|text| (Verdict::Warning, text)));
    }
    // Whose pool is asked for is answered for by its backends alone.
    for name in status.names.iter().filter(|_| pool.is_none()) {
        if let Some(since) = name.stale_since {
            problems.push((Verdict::Warning, format!("{} is stale for {}", name.name, span(ago(since, now)))));
        }
    }
    if let Some(reload) = status.last_reload.as_ref().filter(|reload| !reload.ok) {
        problems.push((Verdict::Warning, format!("the last reload failed: {}", reload.message)));
    }
    problems.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let takes = backends.iter().filter(|backend| backend.effective_weight > 0).count();
    let verdict = problems.first().map_or(Verdict::Ok, |(verdict, _)| *verdict);
    let mut named: Vec<String> = problems.iter().take(MOST_NAMED).map(|(_, text)| text.clone()).collect();
    if problems.len() > MOST_NAMED {
        named.push(format!("and {} more", problems.len() - MOST_NAMED));
    }
    let text = if named.is_empty() {
        format!("{takes} of {} backends take connections", backends.len())
    } else {
        named.join("; ")
    };
    Ok(Finding { verdict, text, figures: figures(&status, &backends, takes, pool.is_none()) })
}

fn figures(status: &StatusReport, backends: &[BackendReport], takes: usize, whole: bool) -> Vec<String> {
    let mut figures = vec![format!("backends_up={takes};;;0;{}", backends.len())];
    if whole {
        figures.push(format!("connections={};;;0;{}", status.connections, status.max_connections));
    }
    let active: u32 = backends.iter().map(|backend| backend.active).sum();
    figures.push(format!("active={active};;;0;"));
    figures.push(format!("unavailable={}c;;;0;", status.pools.iter().map(|pool| pool.unavailable).sum::<u64>()));
    let errors: u64 = backends.iter().map(|backend| backend.connect_errors).sum();
    figures.push(format!("connect_errors={errors}c;;;0;"));
    figures
}

fn of_pool(pool: &PoolReport, backends: &[BackendReport]) -> Option<(Verdict, String)> {
    let mut members = backends.iter().filter(|backend| backend.pool == pool.pool);
    if !members.any(|backend| backend.effective_weight > 0) {
        return Some((Verdict::Critical, format!("pool {} has no backend that takes connections", pool.pool)));
    }
    pool.health_ignored.then(|| (Verdict::Warning, format!("pool {}: health is ignored", pool.pool)))
}

fn of_backend(backend: &BackendReport, now: Timestamp) -> Vec<String> {
    let path = format!("{}/{}", backend.pool, backend.backend);
    let mut problems = Vec::new();
    if matches!(&*backend.state, "down" | "ejected") {
        let check = backend.check.as_ref().filter(|check| check.last.as_deref() == Some("failed"));
        let why = backend.ejection.as_ref().map(|ejection| &ejection.detail).or(check.map(|check| &check.detail));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        problems.push(format!("{path} {} for {}{why}", backend.state, span(ago(backend.since, now))));
    }
    if let Some(since) = backend.stale_since {
        problems.push(format!("{path}: its name is stale for {}", span(ago(since, now))));
    }
    let expires = backend.check.as_ref().and_then(|check| check.certificate_expires);
    match expires.map(|expires| (certificate_tone(expires, now), expires)) {
        Some((Tone::Bad, _)) => problems.push(format!("{path}: its certificate has expired")),
        Some((Tone::Warn, expires)) => {
            problems.push(format!("{path}: its certificate expires in {}", span(ago(now, expires))));
        }
        _ => {}
    }
    problems
}
