//! Backends on one screen: state, since when, why, load, times, certificate, and what operators said.

use jiff::Timestamp;

use super::super::figures::{
    age, ago, bytes, certificate, certificate_tone, countdown, milliseconds, second, short, span, user,
};
use super::super::table::{Cell, Column, Note, Place, Table, Tone};
use crate::api::{BackendReport, CheckState, Event, Quantiles};

const COLUMNS: &[Column] = &[
    Column::words("path", "backend", Place::Terminal),
    Column::words("pool", "", Place::Pipe),
    Column::words("backend", "", Place::Pipe),
    Column::words("state", "state", Place::Keep),
    Column::words("since", "for", Place::Keep),
    Column::words("address", "", Place::Pipe),
    Column::number("weight", "", Place::Pipe),
    Column::number("effective_weight", "weight", Place::Drop(6)),
    Column::number("active", "active", Place::Keep),
    Column::number("total", "total", Place::Drop(8)),
    Column::number("connect_errors", "errors", Place::Drop(7)),
    Column::number("connections_per_s", "new/s", Place::Drop(3)),
    Column::number("bytes_up_per_s", "up/s", Place::Drop(10)),
    Column::number("bytes_down_per_s", "down/s", Place::Drop(10)),
    Column::number("connect_p99_ms", "connect", Place::Drop(2)),
    Column::number("first_byte_p99_ms", "first byte", Place::Drop(2)),
    Column::words("check", "check", Place::Drop(4)),
    Column::words("checked_at", "ago", Place::Drop(9)),
    Column::words("next_at", "next", Place::Drop(9)),
    Column::words("certificate_expires", "cert", Place::Drop(1)),
    Column::words("override", "", Place::Pipe),
    Column::words("by", "", Place::Pipe),
    Column::words("until", "", Place::Pipe),
    Column::words("why", "", Place::Pipe),
];

/// Backends as a table. `events` may explain their states.
pub fn backends(list: &[BackendReport], events: &[Event], now: Timestamp) -> Table {
    let mut table = Table::new(COLUMNS);
    for backend in list {
        table.noted_row(cells(backend, now), notes(backend, events, now));
    }
    table
}

fn cells(backend: &BackendReport, now: Timestamp) -> Vec<Cell> {
    let check = backend.check.as_ref();
    let said = backend.said.as_ref();
    let p99 =
        |times: Option<Quantiles>| times.map_or_else(Cell::none, |times| Cell::two(times.p99, milliseconds(times.p99)));
    vec![
        Cell::new(format!("{}/{}", backend.pool, backend.backend)),
        Cell::new(&backend.pool),
        Cell::new(&backend.backend),
        Cell::new(&backend.state),
        age(backend.since, now),
        Cell::new(backend.address),
        Cell::new(backend.weight),
        Cell::new(backend.effective_weight),
        Cell::new(backend.active),
        Cell::two(backend.total, short(backend.total as f64)),
        Cell::two(backend.connect_errors, short(backend.connect_errors as f64)),
        Cell::two(format!("{:.1}", backend.rates.connections), short(backend.rates.connections)),
        Cell::two(format!("{:.0}", backend.rates.bytes_up), bytes(backend.rates.bytes_up)),
        Cell::two(format!("{:.0}", backend.rates.bytes_down), bytes(backend.rates.bytes_down)),
        p99(backend.connect_ms),
        p99(backend.first_byte_ms),
        check.map_or_else(Cell::none, check_cell),
        check.and_then(|check| check.at).map_or_else(Cell::none, |at| age(at, now)),
        countdown(check.and_then(|check| check.next_at), now),
        certificate(check.and_then(|check| check.certificate_expires), now),
        said.map_or_else(Cell::none, |said| {
            let words: Vec<String> = said.words.iter().map(|word| format!("{} {}", word.about, word.said)).collect();
            Cell::new(words.join(", "))
        }),
        said.map_or_else(Cell::none, |said| Cell::new(user(said.by_uid))),
        said.and_then(|said| said.until).map_or_else(Cell::none, |until| Cell::new(second(until))),
        Cell::new(why(backend, now).unwrap_or_else(|| "-".to_owned())),
    ]
}

fn check_cell(check: &CheckState) -> Cell {
    let last = check.last.as_deref().unwrap_or("pending");
    Cell::two(last, format!("{} {last}", check.kind)).tone(Tone::of(last))
}

/// Why a backend is not simply up, in a sentence; `None`: it is.
fn why(backend: &BackendReport, now: Timestamp) -> Option<String> {
    let mut reasons = Vec::new();
    if let Some(ejection) = &backend.ejection {
        let left = span(ago(now, ejection.until));
        reasons
            .push(format!("ejected for another {left} (number {} in a row): {}", ejection.in_a_row, ejection.detail));
    }
    if let Some(check) = backend.check.as_ref().filter(|check| check.last.as_deref() == Some("failed")) {
        reasons.push(format!("check {} failed: {}", check.kind, check.detail));
    } else if let Some(check) = backend.check.as_ref().filter(|_| backend.state == "down") {
        reasons.push(format!("{} good checks in a row bring it up", check.rise));
    }
    if let (Some(since), Some(name)) = (backend.stale_since, &backend.resolved_from) {
        reasons.push(format!("{name} stale since {}, {} ago", second(since), span(ago(since, now))));
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn notes(backend: &BackendReport, events: &[Event], now: Timestamp) -> Vec<Note> {
    let mut notes = Vec::new();
    let tone = Tone::of(&backend.state);
    if let Some(why) = why(backend, now) {
        notes.push(Note::new("why", why, if tone == Tone::Good { Tone::Warn } else { tone }));
    }
    if let Some(check) = backend.check.as_ref().filter(|check| check.last.as_deref() == Some("failed")) {
        notes.push(Note::new("check", checked(check, now), Tone::Plain));
    }
    let change = events.iter().rev().find(|event| {
        event.pool == backend.pool && event.backend.as_ref() == Some(&backend.backend) && event.to != event.from
    });
    if let Some(event) = change.filter(|event| event.to == backend.state && tone != Tone::Good) {
        notes.extend(evidence(event));
    }
    if backend.state == "down" && backend.effective_weight > 0 {
        let text = "takes connections all the same: so little of the pool is healthy that health is ignored";
        notes.push(Note::new("panic", text.to_owned(), Tone::Warn));
    }
    for word in backend.said.iter().flat_map(|said| &said.words) {
        let until = word.until.map_or_else(
            || "until somebody takes it back".to_owned(),
            |until| format!("until {} (another {})", second(until), span(ago(now, until))),
        );
        let (who, since) = (user(word.by_uid), span(ago(word.since, now)));
        notes.push(Note::new(
            "operator",
            format!("{} {} by {who} {since} ago, {until}", word.about, word.said),
            Tone::Warn,
        ));
    }
    if let Some(drain) = backend.drain {
        let rate = drain.rate.map_or_else(|| "at once".to_owned(), |rate| format!("{rate} a second"));
        let text = format!("sessions that are left in {} are ended, {rate}", span(ago(now, drain.kill_at)));
        notes.push(Note::new("drain", text, Tone::Warn));
    }
    if let Some(added) = backend.added {
        let text =
            format!("by {} {} ago; it is not in the configuration", user(added.by_uid), span(ago(added.at, now)));
        notes.push(Note::new("added", text, Tone::Plain));
    }
    if let Some(agent) = &backend.agent {
        let orders = [
            agent.operation.clone(),
            agent.weight_percent.map(|percent| format!("{percent} % of the weight")),
            agent.max_connections.map(|most| format!("at most {most} connections")),
        ];
        let orders: Vec<String> = orders.into_iter().flatten().collect();
        notes.push(Note::new("agent", orders.join(", "), Tone::Warn));
    }
    let expires = backend.check.as_ref().and_then(|check| check.certificate_expires);
    if let Some(expires) = expires.filter(|expires| certificate_tone(*expires, now) != Tone::Plain) {
        let (left, past) = (ago(now, expires), ago(expires, now));
        let text = if left.is_zero() {
            format!("expired {} ago, on {}", span(past), second(expires))
        } else {
            format!("expires in {}, on {}", span(left), second(expires))
        };
        notes.push(Note::new("cert", text, certificate_tone(expires, now)));
    }
    notes
}

/// When the last check was, how long it took, and when the next is.
fn checked(check: &CheckState, now: Timestamp) -> String {
    let mut parts = vec![check.reason.clone()];
    if let Some(at) = check.at {
        parts.push(format!("{} ago, took {}", span(ago(at, now)), milliseconds(check.took_ms)));
    }
    parts.extend(check.next_at.map(|next| format!("the next in {}", span(ago(now, next)))));
    parts.push(format!("down after {} failures in a row, up after {} successes", check.fall, check.rise));
    parts.join("; ")
}

/// What brought a state about: the last event, with what was seen.
fn evidence(event: &Event) -> Option<Note> {
    let seen = super::seen(event);
    (!seen.is_empty()).then(|| Note::new("seen", seen, Tone::Plain))
}
