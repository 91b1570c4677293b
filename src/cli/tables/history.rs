//! The last hour of each backend: a strip with a character for each minute, the worst state of it.

use super::super::figures::second;
use super::super::table::{Cell, Column, Note, Place, Table, Tone};
use crate::api::HistoryReport;

const COLUMNS: &[Column] = &[
    Column::words("path", "backend", Place::Shrink),
    Column::words("last_minute", "", Place::Pipe),
    Column::words("minutes", "the last hour, a character for each minute", Place::Keep),
];

/// What the characters mean.
const LEGEND: &str = ". up or unchecked  X down  ! ejected  d draining  - disabled  _ not there";

/// The last hour as a table.
pub fn history(report: &HistoryReport) -> Table {
    let mut table = Table::new(COLUMNS);
    for (number, backend) in report.backends.iter().enumerate() {
        let strip: String = backend.minutes.iter().map(|state| character(state.as_deref())).collect();
        let last = number + 1 == report.backends.len();
        let legend = last.then(|| Note::new("legend", LEGEND.to_owned(), Tone::Plain));
        let cells = vec![
            Cell::new(format!("{}/{}", backend.pool, backend.backend)),
            Cell::new(second(backend.last_minute)),
            Cell::new(format!("{strip:_>60}")),
        ];
        table.noted_row(cells, legend.into_iter().collect());
    }
    table
}

fn character(state: Option<&str>) -> char {
    match state {
        Some("up" | "unchecked") => '.',
        Some("down") => 'X',
        Some("ejected") => '!',
        Some("draining") => 'd',
        Some("disabled") => '-',
        Some(_) => '?',
        None => '_',
    }
}
