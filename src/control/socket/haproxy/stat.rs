//! `show stat`: which rows, and as what.

use std::sync::Arc;

use serde_json::json;

use super::super::super::Handle;
use super::super::super::failure::Failure;
use super::fields::{COLUMNS, Cell, Field, column};
use super::rows::{Row, Whose};
use super::{Answer, Answered};
use crate::state::Snapshot;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A table.
    #[default]
    Plain,
    /// A line for each value.
    Typed,
    /// One document.
    Json,
}

/// Which rows, and as what: `[PROXY|IID TYPE SID] [typed|json] [up|no-maint]`.
struct Wanted {
    /// Numbers of proxies; `None`: all.
    proxies: Option<Vec<usize>>,
    /// 1, 2 and 4: frontends, backends and servers.
    kinds: i64,
    /// -1: all.
    service: i64,
    format: Format,
    only_up: bool,
    no_maint: bool,
}

impl Wanted {
    fn read(arguments: &[String], snapshot: &Snapshot) -> Result<Self, Failure> {
        let mut wanted =
            Self { proxies: None, kinds: -1, service: -1, format: Format::Plain, only_up: false, no_maint: false };
        let mut words = arguments;
        // As for HAProxy, three words choose; what is no number is 0.
        if let [proxy, kinds, service, rest @ ..] = arguments {
            let number = |text: &String| text.parse::<i64>().unwrap_or(0);
            if number(proxy) >= 0 {
                wanted.proxies = Some(proxies(proxy, snapshot)?);
            }
            (wanted.kinds, wanted.service, words) = (number(kinds), number(service), rest);
        }
        for word in words {
            match word.as_str() {
                "typed" => wanted.format = Format::Typed,
                "json" => wanted.format = Format::Json,
                "up" => wanted.only_up = true,
                "no-maint" => wanted.no_maint = true,
                other => return Err(Failure::new("bad_params", format!("'show stat' does not know '{other}'."))),
            }
        }
        Ok(wanted)
    }

    fn takes(&self, snapshot: &Snapshot, whose: Whose) -> bool {
        let bit = 1 << whose.kind().2;
        self.proxies.as_ref().is_none_or(|proxies| proxies.contains(&whose.proxy(snapshot).0))
            && self.kinds & bit != 0
            && (self.service < 0 || self.service == whose.service() as i64)
    }

    /// Only servers are left out for their state.
    fn takes_row(&self, row: &Row) -> bool {
        if !matches!(row.whose, Whose::Server(..)) {
            return true;
        }
        let status = row.cells[const { column("status") }].text();
        !(self.only_up && status.starts_with("DOWN")) && !((self.only_up || self.no_maint) && status == "MAINT")
    }
}

/// Numbers of the proxies that have this number or name; a listener and a pool may share a name.
pub fn proxies(text: &str, snapshot: &Snapshot) -> Result<Vec<usize>, Failure> {
    if let Some(number) = text.parse::<usize>().ok().filter(|number| *number > 0) {
        return Ok(vec![number]);
    }
    let named = Whose::all(snapshot).map(|whose| whose.proxy(snapshot)).filter(|(_, name)| *name == text);
    let numbers: Vec<usize> = named.map(|(number, _)| number).collect();
    if numbers.is_empty() { Err(Failure::new("no_such_proxy", "No such proxy.")) } else { Ok(numbers) }
}

/// Answers `show stat`.
pub fn show(control: &Handle, arguments: &[String]) -> Answered {
    let snapshot = control.snapshot();
    let wanted = Wanted::read(arguments, &snapshot)?;
    let whose: Vec<Whose> = Whose::all(&snapshot).filter(|whose| wanted.takes(&snapshot, *whose)).collect();
    let format = wanted.format;
    let rows = {
        let (control, snapshot) = (Handle::clone(control), Arc::clone(&snapshot));
        let rows = whose.into_iter().map(move |whose| Row::since_cleared(&control, &snapshot, whose));
        rows.filter(move |row| wanted.takes_row(row))
    };
    Ok(Answer::Pieces(match format {
        Format::Plain => Box::new([header()].into_iter().chain(rows.map(|row| csv_line(&row.cells)))),
        Format::Typed => Box::new(rows.map(move |row| typed(&row, &snapshot))),
        Format::Json => {
            let rows = rows.enumerate().map(move |(place, row)| {
                let comma = if place == 0 { "" } else { "," };
                format!("{comma}{}", json_row(&row, &snapshot))
            });
            Box::new(["[".to_owned()].into_iter().chain(rows).chain(["]\n".to_owned()]))
        }
    }))
}

fn header() -> String {
    let names: Vec<Cell> = COLUMNS.iter().map(|column| Cell::from(column.name)).collect();
    format!("# {}", csv_line(&names))
}

/// One line; as for HAProxy a comma comes last.
fn csv_line(cells: &[Cell]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fields = cells.iter().map(Cell::text).chain([String::new()]);
    // Writing to memory cannot fail, and texts are UTF-8.
    let written = writer.write_record(fields).ok().and_then(|()| writer.into_inner().ok());
    written.and_then(|line| String::from_utf8(line).ok()).unwrap_or_default()
}

/// The fields of a row that are not empty, with their positions.
fn filled(row: &Row) -> impl Iterator<Item = (usize, &'static Field, &Cell)> {
    let cells = COLUMNS.iter().zip(&row.cells).enumerate();
    cells.filter(|(_, (_, cell))| **cell != Cell::Empty).map(|(position, (column, cell))| (position, column, cell))
}

fn typed(row: &Row, snapshot: &Snapshot) -> String {
    let owner = format!("{}.{}.{}.", row.whose.kind().0, row.whose.proxy(snapshot).0, row.whose.service());
    filled(row).map(|(position, column, cell)| column.typed(&owner, position, cell)).collect()
}

fn json_row(row: &Row, snapshot: &Snapshot) -> String {
    let (proxy, service, kind) = (row.whose.proxy(snapshot).0, row.whose.service(), row.whose.kind().1);
    let fields = filled(row).map(|(position, column, cell)| {
        let mut field = column.json(position, cell);
        field["objType"] = json!(kind);
        field["proxyId"] = json!(proxy);
        field["id"] = json!(service);
        field
    });
    json!(fields.collect::<Vec<_>>()).to_string()
}
