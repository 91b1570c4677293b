//! Answers to commands that change something.

use jiff::Timestamp;

use super::super::figures::{ago, second, span};
use super::super::table::{Cell, Column, Place, Table, Tone};
use crate::api::{Added, Changed, Killed, Removed};

const CHANGED: &[Column] = &[
    Column::words("backend", "backend", Place::Shrink),
    Column::words("state", "state", Place::Keep),
    Column::number("effective_weight", "weight", Place::Keep),
    Column::number("active", "active", Place::Keep),
    Column::words("until", "undoes itself in", Place::Keep),
    Column::words("kept", "kept over a restart", Place::Drop(1)),
];

const ADDED: &[Column] = &[
    Column::words("backend", "backend", Place::Shrink),
    Column::words("state", "state", Place::Keep),
    Column::words("kept", "kept over a restart", Place::Drop(1)),
];

const REMOVED: &[Column] = &[
    Column::words("backend", "removed", Place::Shrink),
    Column::number("active", "active", Place::Keep),
    Column::words("kept", "kept over a restart", Place::Drop(1)),
];

const KILLED: &[Column] =
    &[Column::number("sessions", "sessions ended", Place::Keep), Column::words("rate", "a second", Place::Keep)];

/// What a backend is after a change.
pub fn changed(change: &Changed, now: Timestamp) -> Table {
    let mut table = Table::new(CHANGED);
    let until = change.said.as_ref().and_then(|said| said.until);
    table.row(vec![
        Cell::new(&change.backend),
        Cell::new(&change.state),
        Cell::new(change.effective_weight),
        Cell::new(change.active),
        until.map_or_else(Cell::none, |until| Cell::two(second(until), span(ago(now, until)))),
        kept(change.kept),
    ]);
    table
}

/// A backend that is new.
pub fn added(added: &Added) -> Table {
    let mut table = Table::new(ADDED);
    table.row(vec![Cell::new(&added.backend), Cell::new(&added.state), kept(added.kept)]);
    table
}

/// A backend that is gone.
pub fn removed(removed: &Removed) -> Table {
    let mut table = Table::new(REMOVED);
    table.row(vec![Cell::new(&removed.backend), Cell::new(removed.active), kept(removed.kept)]);
    table
}

/// Sessions that are ended.
pub fn killed(killed: &Killed) -> Table {
    let mut table = Table::new(KILLED);
    let rate = killed.rate.map_or_else(|| Cell::two("-", "at once"), Cell::new);
    table.row(vec![Cell::new(killed.sessions), rate]);
    table
}

/// Whether a change is kept over a restart.
fn kept(kept: Option<bool>) -> Cell {
    match kept {
        Some(true) => Cell::new("yes"),
        Some(false) => Cell::new("no").tone(Tone::Bad),
        None => Cell::two("-", "no, there is no state-file"),
    }
}
