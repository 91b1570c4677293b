//! Open sessions, refused first bytes, and the busiest server names.

use std::fmt::Display;
use std::time::Duration;

use super::super::figures::{bytes, span};
use super::super::table::{Cell, Column, Note, Place, Table, Tone};
use crate::api::{NamesReport, RefusedReport, SessionReport};

const SESSIONS: &[Column] = &[
    Column::words("session", "session", Place::Keep),
    Column::words("listener", "listener", Place::Drop(3)),
    Column::words("client", "client", Place::Keep),
    Column::words("sni", "sni", Place::Shrink),
    Column::words("pool", "", Place::Pipe),
    Column::words("backend", "", Place::Pipe),
    Column::words("path", "backend", Place::Terminal),
    Column::number("age_ms", "age", Place::Keep),
    Column::number("idle_ms", "idle", Place::Keep),
    Column::number("bytes_up", "up", Place::Drop(2)),
    Column::number("bytes_down", "down", Place::Drop(2)),
    Column::words("destination", "", Place::Pipe),
    Column::words("alpn", "alpn", Place::Drop(4)),
    Column::words("via", "via", Place::Drop(5)),
];

const REFUSED: &[Column] = &[
    Column::words("time", "time", Place::Drop(4)),
    Column::words("listener", "listener", Place::Drop(3)),
    Column::words("client", "client", Place::Keep),
    Column::words("end", "end", Place::Keep),
    Column::number("alert", "alert", Place::Drop(2)),
    Column::number("bytes", "bytes", Place::Drop(5)),
    Column::words("segments", "segments", Place::Drop(6)),
    Column::words("records", "records", Place::Drop(7)),
    Column::words("first_bytes", "first bytes", Place::Drop(1)),
    Column::words("why", "", Place::Pipe),
    Column::words("session", "", Place::Pipe),
];

const NAMES: &[Column] = &[
    Column::words("sni", "sni", Place::Shrink),
    Column::number("count", "hellos", Place::Keep),
    Column::number("error", "at most too many", Place::Drop(1)),
    Column::number("share", "share", Place::Keep),
];

fn or_none<T: Display>(value: Option<&T>) -> Cell {
    value.map_or_else(Cell::none, Cell::new)
}

/// Open sessions.
pub fn sessions(list: &[SessionReport]) -> Table {
    let mut table = Table::new(SESSIONS);
    let time = |millis: u64| Cell::two(millis, span(Duration::from_millis(millis)));
    let amount = |count: u64| Cell::two(count, bytes(count as f64));
    for session in list {
        let path = match (&session.pool, &session.backend) {
            (Some(pool), Some(backend)) => format!("{pool}/{backend}"),
            (Some(pool), None) => pool.clone(),
            _ => "-".to_owned(),
        };
        table.row(vec![
            Cell::new(&session.session),
            Cell::new(&session.listener),
            Cell::new(session.client),
            or_none(session.sni.as_ref()),
            or_none(session.pool.as_ref()),
            or_none(session.backend.as_ref()),
            Cell::new(path),
            time(session.age_ms),
            time(session.idle_ms),
            amount(session.bytes_up),
            amount(session.bytes_down),
            Cell::new(session.destination),
            or_none(session.alpn.as_ref()),
            or_none(session.via.as_ref()),
        ]);
    }
    table
}

/// Refused first bytes.
pub fn refused(list: &[RefusedReport]) -> Table {
    let mut table = Table::new(REFUSED);
    let joined = |sizes: Vec<String>| if sizes.is_empty() { Cell::none() } else { Cell::new(sizes.join("+")) };
    for refused in list {
        let segments = refused.segment_bytes.iter().map(ToString::to_string).collect();
        // What does not begin with a handshake record has no records worth showing.
        let is_tls = refused.records.first().is_some_and(|record| record.kind == 22);
        let records = refused.records.iter().filter(|_| is_tls).map(|record| record.length.to_string()).collect();
        let why = Note::new("why", refused.detail.clone(), Tone::Plain);
        let cells = vec![
            Cell::new(&refused.time),
            Cell::new(&refused.listener),
            Cell::new(refused.client),
            Cell::new(&refused.end),
            or_none(refused.alert.as_ref()),
            Cell::new(refused.bytes),
            joined(segments),
            joined(records),
            Cell::new(refused.first_bytes.chars().take(16).collect::<String>()),
            Cell::new(&refused.detail),
            Cell::new(&refused.session),
        ];
        table.noted_row(cells, vec![why]);
    }
    table
}

/// The busiest server names.
pub fn names(report: &NamesReport) -> Table {
    let mut table = Table::new(NAMES);
    let share = |count: u64| {
        let share = count as f64 * 100.0 / report.total.max(1) as f64;
        Cell::two(format!("{:.4}", share / 100.0), format!("{share:.1} %"))
    };
    for name in &report.names {
        table.row(vec![Cell::new(&name.sni), Cell::new(name.count), Cell::new(name.error), share(name.count)]);
    }
    for (label, count) in [("(others)", report.other), ("(without a name)", report.without)] {
        table.row(vec![Cell::new(label), Cell::new(count), Cell::none(), share(count)]);
    }
    table
}
