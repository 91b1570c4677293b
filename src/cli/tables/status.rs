//! The process as a whole, its listeners, pools and names.

use jiff::Timestamp;

use super::super::figures::{ago, bytes, second, short, span};
use super::super::table::{Cell, Column, Note, Place, Table, Tone};
use crate::api::{ListenerReport, NameReport, PoolReport, Rates, StatusReport};

const PROCESS: &[Column] = &[Column::words("key", "key", Place::Keep), Column::words("value", "value", Place::Shrink)];

const LISTENERS: &[Column] = &[
    Column::words("listener", "listener", Place::Shrink),
    Column::words("protocol", "protocol", Place::Drop(2)),
    Column::number("active", "active", Place::Keep),
    Column::number("total", "total", Place::Drop(1)),
    Column::number("rejected", "rejected", Place::Keep),
    Column::number("connections_per_s", "new/s", Place::Keep),
    Column::number("bytes_up_per_s", "up/s", Place::Drop(3)),
    Column::number("bytes_down_per_s", "down/s", Place::Drop(3)),
    Column::words("bind", "bind", Place::Shrink),
];

const POOLS: &[Column] = &[
    Column::words("pool", "pool", Place::Shrink),
    Column::words("balance", "balance", Place::Drop(2)),
    Column::number("up", "up", Place::Keep),
    Column::number("down", "down", Place::Keep),
    Column::number("out", "out", Place::Keep),
    Column::number("active", "active", Place::Keep),
    Column::number("total", "total", Place::Drop(1)),
    Column::number("unavailable", "unavailable", Place::Keep),
    Column::number("waiting", "waiting", Place::Drop(3)),
    Column::number("connections_per_s", "new/s", Place::Drop(1)),
    Column::number("bytes_up_per_s", "up/s", Place::Drop(4)),
    Column::number("bytes_down_per_s", "down/s", Place::Drop(4)),
    Column::words("health", "", Place::Pipe),
];

const NAMES: &[Column] = &[
    Column::words("name", "name", Place::Shrink),
    Column::number("addresses", "addresses", Place::Keep),
    Column::words("resolved", "resolved", Place::Drop(1)),
    Column::words("next", "next", Place::Drop(1)),
    Column::words("stale_since", "stale for", Place::Keep),
    Column::words("why", "", Place::Pipe),
];

/// The tables of `status`, in their order.
pub fn status(status: &StatusReport, now: Timestamp) -> Vec<Table> {
    let mut tables = vec![process(status, now), listeners(&status.listeners), pools(&status.pools)];
    if !status.names.is_empty() {
        tables.push(names(&status.names, now));
    }
    tables
}

fn process(status: &StatusReport, now: Timestamp) -> Table {
    let mut table = Table::new(PROCESS);
    let mut row = |key: &str, value: Cell| table.row(vec![Cell::new(key), value]);
    row("version", Cell::new(&status.version));
    row("pid", Cell::new(status.pid));
    row("phase", Cell::new(&status.phase));
    let started = second(status.started);
    row("started", Cell::two(&started, format!("{started}, {} ago", span(ago(status.started, now)))));
    row("generation", Cell::new(status.generation));
    row("connections", Cell::new(status.connections));
    row("max_connections", Cell::new(status.max_connections));
    let resting = status.workers.iter().filter(|worker| worker.rests).count();
    let accepting = status.workers.len() - resting;
    let rest = if resting > 0 { format!(", {resting} at rest") } else { String::new() };
    row("workers", Cell::new(format!("{accepting}{rest}")));
    row("log_dropped", Cell::new(status.log_dropped));
    if let Some(reload) = &status.last_reload {
        let (word, tone) = if reload.ok { ("ok", Tone::Plain) } else { ("failed", Tone::Bad) };
        let text = format!("{word} at {}: {}", second(reload.at), reload.message);
        let note = Note::new("reload", reload.message.clone(), tone);
        let notes = if reload.ok { vec![] } else { vec![note] };
        table.noted_row(vec![Cell::new("last_reload"), Cell::new(text).tone(tone)], notes);
    }
    table
}

fn rates(rates: Rates) -> [Cell; 3] {
    [
        Cell::two(format!("{:.1}", rates.connections), short(rates.connections)),
        Cell::two(format!("{:.0}", rates.bytes_up), bytes(rates.bytes_up)),
        Cell::two(format!("{:.0}", rates.bytes_down), bytes(rates.bytes_down)),
    ]
}

fn count(number: u64) -> Cell {
    Cell::two(number, short(number as f64))
}

fn listeners(list: &[ListenerReport]) -> Table {
    let mut table = Table::new(LISTENERS);
    for listener in list {
        let [new, up, down] = rates(listener.rates);
        let bind: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
        table.row(vec![
            Cell::new(&listener.listener),
            Cell::new(&listener.protocol),
            Cell::new(listener.active),
            count(listener.total),
            count(listener.rejected),
            new,
            up,
            down,
            Cell::new(bind.join(" ")),
        ]);
    }
    table
}

fn pools(list: &[PoolReport]) -> Table {
    let mut table = Table::new(POOLS);
    for pool in list {
        let [new, up, down] = rates(pool.rates);
        let of = |states: [&str; 2]| states.iter().filter_map(|state| pool.backends.get(*state)).sum::<u32>();
        let broken = of(["down", "ejected"]);
        let ignored = "so little is healthy that health is ignored";
        let notes = pool.health_ignored.then(|| Note::new("panic", ignored.to_owned(), Tone::Warn));
        let cells = vec![
            Cell::new(&pool.pool),
            Cell::new(&pool.balance),
            Cell::new(of(["up", "unchecked"])),
            Cell::new(broken).tone(if broken > 0 { Tone::Bad } else { Tone::Plain }),
            Cell::new(of(["draining", "disabled"])),
            Cell::new(pool.active),
            count(pool.total),
            count(pool.unavailable).tone(if pool.unavailable > 0 { Tone::Warn } else { Tone::Plain }),
            Cell::new(pool.waiting),
            new,
            up,
            down,
            Cell::new(if pool.health_ignored { "ignored" } else { "counts" }),
        ];
        table.noted_row(cells, notes.into_iter().collect());
    }
    table
}

/// Named backends.
fn names(list: &[NameReport], now: Timestamp) -> Table {
    let mut table = Table::new(NAMES);
    for name in list {
        let moment = |at: Option<Timestamp>| at.map_or_else(Cell::none, |at| Cell::new(second(at)));
        let unresolved = name.addresses.is_empty();
        let cells = vec![
            Cell::new(&name.name),
            if unresolved { Cell::new("unresolved").tone(Tone::Bad) } else { Cell::new(name.addresses.len()) },
            moment(name.resolved_at),
            moment(name.next_at),
            name.stale_since
                .map_or_else(Cell::none, |since| Cell::two(second(since), span(ago(since, now))).tone(Tone::Warn)),
            name.error.as_ref().map_or_else(Cell::none, Cell::new),
        ];
        let notes = name.error.iter().map(|error| Note::new("why", error.clone(), Tone::Warn));
        table.noted_row(cells, notes.collect());
    }
    table
}
