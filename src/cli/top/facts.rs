//! Texts of two columns: all about one backend, and the keys. Pure: out of the model, before anything is drawn.

use jiff::Timestamp;

use super::model::Model;
use super::text::{between, figure, millis, span};
use crate::api::{BackendReport, CheckState, Event, OverrideReport, Quantiles};

/// What keys do.
pub const HELP: &[(&str, &str)] = &[
    ("Up Down j k", "one line up or down; PgUp PgDn Home End g G: further"),
    ("Tab", "the next pane; Shift-Tab: the one before"),
    ("Enter", "look into the backend; of a pool: list its backends only"),
    ("Esc", "back; without a way back: show all backends again"),
    ("s", "order: name, state, rate, sessions, p99; sessions: age, idle, bytes"),
    ("/", "list only backends with this text in name, address or state"),
    ("d", "drain the backend: no new connections, its sessions run on"),
    ("e", "enable it: undo drain and disable"),
    ("D", "disable it: no new connections"),
    ("K", "end all sessions of the backend"),
    ("x", "end the selected session"),
    ("y n", "answer a question; nothing changes without y"),
    ("? q", "this help; quit, as Ctrl-C; Ctrl-Z: to the shell, fg comes back"),
    ("*", "behind a state: an operator's word (drain, disable, weight) holds"),
    ("trend", "new connections a second, newest right; full bar: pool's most"),
    ("p99", "99 of 100 took no longer: to connect; from hello to first byte"),
    ("cpu", "each worker, in percent of a processor, over the last five looks"),
];

/// All about the backend that is looked at.
pub fn facts(model: &Model) -> Vec<(&'static str, String)> {
    let Some(row) = model.looks_at().and_then(|path| model.backend(path)) else {
        return vec![("gone", "this backend is not there any more".to_owned())];
    };
    let (report, now) = (&row.report, model.now);
    let mut facts = vec![("state", state(report, now)), ("load", load(report))];
    if let Some(until) = &report.ejection {
        let left = between(now, until.until);
        facts.push(("ejected", format!("for {left} more, {} in a row: {}", until.in_a_row, until.detail)));
    }
    match &report.check {
        Some(check) => check_facts(check, now, &mut facts),
        None => facts.push(("check", "none: live traffic alone decides".to_owned())),
    }
    if let Some(event) = model.look.as_ref().and_then(|look| look.event.as_ref()) {
        facts.push(("changed", changed(event, now)));
        let phases = event.evidence.iter().map(|one| {
            let seen = if one.seen.is_empty() { String::new() } else { format!(": {}", one.seen) };
            format!("{} {}{seen}", one.phase, millis(one.took_ms))
        });
        let phases: Vec<String> = phases.collect();
        if !phases.is_empty() {
            facts.push(("evidence", phases.join("; ")));
        }
    }
    if let Some(said) = &report.said {
        words(said, now, &mut facts);
    }
    if let Some(drain) = &report.drain {
        let rate = drain.rate.map_or_else(|| "at once".to_owned(), |rate| format!("{} a second", figure(rate)));
        facts.push(("drain", format!("sessions that are left are ended in {}, {rate}", between(now, drain.kill_at))));
    }
    if let Some(agent) = &report.agent {
        let weight = agent.weight_percent.map(|percent| format!("weight {percent}%"));
        let most = agent.max_connections.map(|most| format!("at most {most} connections"));
        let parts: Vec<String> = [agent.operation.clone(), weight, most].into_iter().flatten().collect();
        facts.push(("agent", parts.join(", ")));
    }
    if let Some(name) = &report.resolved_from {
        let stale =
            report.stale_since.map(|since| format!(", not answered as it should be since {}", between(since, now)));
        facts.push(("name", format!("{name}{}", stale.unwrap_or_default())));
    }
    if let Some(added) = &report.added {
        facts.push((
            "added",
            format!("{} ago, by uid {}, not in the configuration", between(added.at, now), added.by_uid),
        ));
    }
    let times = [("connect", report.connect_ms), ("first byte", report.first_byte_ms), ("session", report.session_ms)];
    facts.extend(times.into_iter().filter_map(|(label, times)| Some((label, quantiles(times?)))));
    facts
}

fn state(report: &BackendReport, now: Timestamp) -> String {
    let backup = if report.backup { ", backup" } else { "" };
    let weight = if report.effective_weight == report.weight {
        format!("weight {}", report.weight)
    } else {
        format!("weight {} (now {})", report.weight, report.effective_weight)
    };
    format!("{} for {}, {weight}{backup}, {}", report.state, between(report.since, now), report.address)
}

fn load(report: &BackendReport) -> String {
    let most = report.max_connections.map(|most| format!(" of {most}")).unwrap_or_default();
    format!(
        "{} open{most}, {}/s, up {}B/s, down {}B/s; {} so far, {} not connected, {} ejections",
        report.active,
        figure(report.rates.connections),
        figure(report.rates.bytes_up),
        figure(report.rates.bytes_down),
        figure(report.total as f64),
        figure(report.connect_errors as f64),
        report.ejections,
    )
}

fn check_facts(check: &CheckState, now: Timestamp, facts: &mut Vec<(&'static str, String)>) {
    let last = match (&check.last, check.at) {
        (Some(last), Some(at)) => format!("{last} {} ago in {}", between(at, now), millis(check.took_ms)),
        _ => "no result yet".to_owned(),
    };
    let next = check.next_at.map(|next| format!(", next in {}", between(now, next))).unwrap_or_default();
    facts.push(("check", format!("{}: {last}{next}, rise {}, fall {}", check.kind, check.rise, check.fall)));
    if check.last.as_deref() == Some("failed") {
        facts.push(("why", format!("{}: {}", check.reason, check.detail)));
    } else if !check.detail.is_empty() {
        facts.push(("", check.detail.clone()));
    }
    if let Some(expires) = check.certificate_expires {
        let left = expires.duration_since(now).as_secs();
        let how = if left < 0 { format!("EXPIRED {} ago", span(-left)) } else { format!("expires in {}", span(left)) };
        facts.push(("certificate", format!("{how}, {expires:.0}")));
    }
}

fn changed(event: &Event, now: Timestamp) -> String {
    // The word of the contract, as in JSON.
    let by = serde_json::to_value(event.by).ok().and_then(|by| by.as_str().map(str::to_owned)).unwrap_or_default();
    let age = between(event.time, now);
    let why = if event.detail.is_empty() { &event.reason } else { &event.detail };
    format!("{} -> {} {age} ago by {by}: {why}", event.from, event.to)
}

fn words(said: &OverrideReport, now: Timestamp, facts: &mut Vec<(&'static str, String)>) {
    for word in &said.words {
        let until =
            word.until.map_or_else(|| "for good".to_owned(), |until| format!("for {} more", between(now, until)));
        let what = if word.about == "weight" { "weight " } else { "" };
        let said =
            format!("{what}{}, said {} ago by uid {}, {until}", word.said, between(word.since, now), word.by_uid);
        facts.push(("override", said));
    }
}

fn quantiles(times: Quantiles) -> String {
    let Quantiles { p50, p90, p99, p999, max } = times;
    let parts = [("p50", p50), ("p90", p90), ("p99", p99), ("p999", p999), ("max", max)];
    parts.map(|(name, value)| format!("{name} {}", millis(value))).join("  ")
}
