//! What happened to backends and pools.

use super::super::figures::second;
use super::super::table::{Cell, Column, Note, Place, Table, Tone};
use crate::api::Event;

/// The first three are of one width, so that lines that come one by one are aligned.
const COLUMNS: &[Column] = &[
    Column::words("id", "", Place::Pipe),
    Column::words("time", "time", Place::Keep),
    Column::words("change", "change", Place::Terminal),
    Column::words("pool", "", Place::Pipe),
    Column::words("backend", "", Place::Pipe),
    Column::words("from", "", Place::Pipe),
    Column::words("to", "", Place::Pipe),
    Column::words("by", "by", Place::Drop(1)),
    Column::words("path", "backend", Place::Terminal),
    Column::words("reason", "reason", Place::Shrink),
    Column::words("detail", "", Place::Pipe),
    Column::words("evidence", "", Place::Pipe),
];

/// Events as a table.
pub fn events(list: &[Event]) -> Table {
    let mut table = Table::new(COLUMNS);
    for event in list {
        let path = event.backend.as_ref().map_or_else(|| event.pool.clone(), |name| format!("{}/{name}", event.pool));
        let by = format!("{:?}", event.by).to_lowercase();
        let seen = super::seen(event);
        let notes = [("detail", &event.detail), ("seen", &seen)].into_iter().filter(|(_, text)| !text.is_empty());
        let notes = notes.map(|(label, text)| Note::new(label, text.clone(), Tone::Plain)).collect();
        let cells = vec![
            Cell::new(event.id),
            Cell::two(event.time, second(event.time)),
            Cell::new(format!("{:<9} -> {:<9}", event.from, event.to)).tone(Tone::of(&event.to)),
            Cell::new(&event.pool),
            event.backend.as_ref().map_or_else(Cell::none, Cell::new),
            Cell::new(&event.from),
            Cell::new(&event.to),
            Cell::two(&by, format!("{by:<8}")),
            Cell::new(path),
            Cell::new(&event.reason),
            Cell::new(&event.detail),
            Cell::new(&seen),
        ];
        table.noted_row(cells, notes);
    }
    table
}
