//! `sluice config diff`: what a reload would change, and what that means for sessions that are open. Compares effective
//! configurations, defaults filled in, so that what is only written differently is no difference.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use toml::{Table as Toml, Value};

use super::check::load;
use super::client::ask;
use super::figures::span;
use super::output::{Exit, json as print_json, message, note};
use super::table::{Cell, Column, Note, Place, Table, Tone};
use super::{ConfigArgs, Globals};
use crate::api::{BackendReport, ConfigReport};
use crate::config::{self, Config, RemovedSessions, Sources};

/// Examples of `config diff`.
pub const EXAMPLES: &str = "Exit codes: 0 a reload would change nothing, 1 it would change something, 3 the configuration is invalid.\n\n\
Examples:\n  sluice config diff\n  sluice config diff -c new.toml --json";

const COLUMNS: &[Column] = &[
    Column::words("change", "", Place::Keep),
    Column::words("what", "what", Place::Shrink),
    Column::words("key", "key", Place::Keep),
    Column::words("running", "running", Place::Shrink),
    Column::words("file", "file", Place::Shrink),
    Column::words("effect", "", Place::Pipe),
];

#[derive(Serialize)]
struct Difference {
    /// `added`, `removed` or `changed`.
    change: &'static str,
    /// Such as `backend shop/shop-1`.
    what: String,
    key: Option<String>,
    running: Option<String>,
    file: Option<String>,
    effect: String,
}

/// Runs `config diff`. Exits with 1 when there is a difference, as diff(1) does.
pub fn diff(globals: &Globals, args: &ConfigArgs) -> Exit {
    compare(globals, args).unwrap_or_else(|exit| exit)
}

fn compare(globals: &Globals, args: &ConfigArgs) -> Result<Exit, Exit> {
    let sources = Sources::read(&args.paths()).map_err(|error| {
        message(&error.to_string());
        Exit::InvalidConfig
    })?;
    let config = load(globals, &sources)?;
    let running: ConfigReport = ask(globals, "config", &json!({}))?;
    let backends: Vec<BackendReport> = ask(globals, "backends", &json!({}))?;
    let read = |text: &str| {
        text.parse::<Toml>().map_err(|error| {
            message(&format!("cannot read the configuration that is running: {error}"));
            Exit::Failed
        })
    };
    let (old, new) = (read(&running.config)?, read(&config::dump(&config))?);
    let mut comparison = Comparison { config: &config, backends: &backends, fixed: &running.fixed, found: Vec::new() };
    comparison.whole(&old, &new);
    let found = comparison.found;
    if globals.json {
        print_json(&found);
    } else if !found.is_empty() {
        table(&found).print(globals);
    }
    if found.is_empty() {
        note(globals, &format!("no difference to generation {}", running.generation));
        return Ok(Exit::Ok);
    }
    Ok(Exit::Failed)
}

fn table(found: &[Difference]) -> Table {
    let mut table = Table::new(COLUMNS);
    for one in found {
        let (sign, tone) = match one.change {
            "added" => ("+", Tone::Good),
            "removed" => ("-", Tone::Bad),
            _ => ("~", Tone::Warn),
        };
        let optional = |text: &Option<String>| text.as_ref().map_or_else(Cell::none, Cell::new);
        let cells = vec![
            Cell::two(one.change, sign).tone(tone),
            Cell::new(&one.what),
            optional(&one.key),
            optional(&one.running),
            optional(&one.file),
            Cell::new(&one.effect),
        ];
        table.noted_row(cells, vec![Note::new("effect", one.effect.clone(), Tone::Plain)]);
    }
    table
}

struct Comparison<'a> {
    /// What a reload would put in force.
    config: &'a Config,
    /// What is running.
    backends: &'a [BackendReport],
    /// Keys that a reload leaves as they are.
    fixed: &'a BTreeMap<String, String>,
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn whole(&mut self, old: &Toml, new: &Toml) {
        for section in ["global", "log"] {
            let empty = Toml::new();
            let table = |root: &'_ Toml| root.get(section).and_then(Value::as_table).unwrap_or(&empty).clone();
            self.keys(section, "", &table(old), &table(new), &|key| {
                let fixed = self.fixed.get(&format!("{section}.{key}"));
                fixed.cloned().unwrap_or_else(|| effect_of(section, key).to_owned())
            });
        }
        self.named("listener", &by_name(old.get("listener")), &by_name(new.get("listener")));
        self.named("pool", &pools(old), &pools(new));
    }

    /// Listeners or pools.
    fn named(&mut self, kind: &str, old: &[(String, Toml)], new: &[(String, Toml)]) {
        for (name, table) in old {
            let what = format!("{kind} {name}");
            let Some((_, now)) = new.iter().find(|(other, _)| other == name) else {
                let effect = match kind {
                    "listener" => format!("it is closed; {}", self.their_fate()),
                    _ => self.fate(|backend| backend.pool == *name),
                };
                self.push("removed", what, None, (None, None), effect);
                continue;
            };
            let fate = self.their_fate();
            self.keys(&what, "", table, now, &|key| match (kind, key, table.contains_key(key)) {
                // A route without conditions.
                ("listener", "pool", true) => fate.clone(),
                _ => effect_of(kind, key).to_owned(),
            });
            match kind {
                "listener" => self.routes(&what, routes(table), routes(now)),
                _ => self.members(name, &by_name(table.get("backend")), &by_name(now.get("backend"))),
            }
        }
        for (name, _) in new.iter().filter(|(name, _)| !old.iter().any(|(other, _)| other == name)) {
            let effect = if kind == "listener" { "it is bound" } else { "its backends are checked first" };
            self.push("added", format!("{kind} {name}"), None, (None, None), effect.to_owned());
        }
    }

    /// Keys of a table, those of tables in it as `table.key`; lists of tables are for others.
    fn keys(&mut self, what: &str, prefix: &str, old: &Toml, new: &Toml, effect: &dyn Fn(&str) -> String) {
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let (before, after) = (old.get(key), new.get(key));
            let path = format!("{prefix}{key}");
            match (before, after) {
                (before, after) if before == after || is_list_of_tables(before.or(after)) => {}
                (Some(Value::Table(before)), Some(Value::Table(after))) => {
                    self.keys(what, &format!("{path}."), before, after, effect);
                }
                _ => {
                    let change = match (before, after) {
                        (None, _) => "added",
                        (_, None) => "removed",
                        _ => "changed",
                    };
                    let values = (before.map(ToString::to_string), after.map(ToString::to_string));
                    let effect = effect(&path);
                    self.push(change, what.to_owned(), Some(path), values, effect);
                }
            }
        }
    }

    fn routes(&mut self, listener: &str, old: Vec<String>, new: Vec<String>) {
        let effect = || "for new connections; open sessions stay where they are".to_owned();
        let fate = self.their_fate();
        let before = self.found.len();
        for route in old.iter().filter(|route| !new.contains(route)) {
            self.push("removed", format!("{listener} route"), None, (Some(route.clone()), None), fate.clone());
        }
        for route in new.iter().filter(|route| !old.contains(route)) {
            self.push("added", format!("{listener} route"), None, (None, Some(route.clone())), effect());
        }
        if self.found.len() == before && old != new {
            self.push("changed", format!("{listener} route"), Some("order".to_owned()), (None, None), effect());
        }
    }

    /// Backends are the same as long as name and address are.
    fn members(&mut self, pool: &str, old: &[(String, Toml)], new: &[(String, Toml)]) {
        let address = |table: &Toml| table.get("address").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (name, table) in old {
            let what = format!("backend {pool}/{name}");
            let found = new.iter().find(|(other, now)| other == name && address(now) == address(table));
            if let Some((_, now)) = found {
                self.keys(&what, "", table, now, &|_| "for new connections".to_owned());
                continue;
            }
            let leads = address(table);
            let fate = self.fate(|backend| {
                backend.pool == pool && (backend.backend == *name || backend.resolved_from.as_ref() == Some(&leads))
            });
            self.push("removed", what, None, (Some(leads), None), fate);
        }
        for (name, table) in new {
            if !old.iter().any(|(other, before)| other == name && address(before) == address(table)) {
                let what = format!("backend {pool}/{name}");
                self.push("added", what, None, (None, Some(address(table))), "it is checked first".to_owned());
            }
        }
    }

    /// What becomes of the sessions of backends that a reload removes.
    fn fate(&self, removed: impl Fn(&BackendReport) -> bool) -> String {
        let open: u32 = self.backends.iter().filter(|backend| removed(backend)).map(|backend| backend.active).sum();
        let sessions = if open == 1 { "session is" } else { "sessions are" };
        format!("{open} open {sessions} {}", self.removed_become())
    }

    fn their_fate(&self) -> String {
        format!("its open sessions are {}", self.removed_become())
    }

    /// What becomes of sessions whose backend or route a reload removes.
    fn removed_become(&self) -> String {
        let global = &self.config.global;
        let becomes = match (global.removed_sessions, global.shutdown_grace) {
            (RemovedSessions::Close, _) => "closed at once".to_owned(),
            (RemovedSessions::Drain, Some(grace)) => format!("closed after {}", span(grace)),
            (RemovedSessions::Drain, None) | (RemovedSessions::Keep, _) => "kept until they end".to_owned(),
        };
        format!("{becomes} (removed-sessions = \"{}\")", global.removed_sessions.name())
    }

    fn push(
        &mut self,
        change: &'static str,
        what: String,
        key: Option<String>,
        (running, file): (Option<String>, Option<String>),
        effect: String,
    ) {
        self.found.push(Difference { change, what, key, running, file, effect });
    }
}

fn effect_of(kind: &str, key: &str) -> &'static str {
    match (kind, key) {
        ("global", "status-socket") => "takes effect at once; one that the service manager opened stays where it is",
        ("global", "workers") => "takes effect at once; open sessions stay on their worker",
        ("global" | "log", _) => "takes effect at once",
        ("listener", "bind") => "what is new is bound, what is gone is closed; open sessions run on",
        ("pool", key) if key.starts_with("health") || key.starts_with("passive") => {
            "from the next check or connection on"
        }
        _ => "for new connections; open sessions keep what they began with",
    }
}

fn is_list_of_tables(value: Option<&Value>) -> bool {
    value.and_then(Value::as_array).is_some_and(|list| list.iter().any(Value::is_table))
}

/// A list of tables by their names; a backend without one is called by its address.
fn by_name(list: Option<&Value>) -> Vec<(String, Toml)> {
    let tables = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table);
    let name = |table: &Toml| ["name", "address"].iter().find_map(|key| table.get(*key)?.as_str()).map(str::to_owned);
    tables.map(|table| (name(table).unwrap_or_default(), table.clone())).collect()
}

fn pools(root: &Toml) -> Vec<(String, Toml)> {
    let pools = root.get("pool").and_then(Value::as_table).into_iter().flatten();
    pools.filter_map(|(name, table)| Some((name.clone(), table.as_table()?.clone()))).collect()
}

/// The order of a list in a route says nothing.
fn routes(listener: &Toml) -> Vec<String> {
    let sorted = |route: &Value| {
        let mut route = route.clone();
        for list in route.as_table_mut().into_iter().flatten().filter_map(|(_, value)| value.as_array_mut()) {
            list.sort_by_key(ToString::to_string);
        }
        route.to_string()
    };
    listener.get("route").and_then(Value::as_array).into_iter().flatten().map(sorted).collect()
}
