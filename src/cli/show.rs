//! Commands that show what the daemon knows: status, backends, history, sessions, refused, names, and one that has a
//! backend checked now.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Globals;
use super::client::{ask, quietly, show};
use super::figures::{self, millis, milliseconds};
use super::output::{Exit, Paper, data, json as print_json, paper};
use super::table::{Cell, Column, Note, Place, Table, Tone};
use super::tables;
use crate::api::{
    BackendParams, BackendReport, BackendsParams, Event, HistoryParams, HistoryReport, ListenerParams, NamesParams,
    NamesReport, RefusedReport, SessionReport, SessionsParams, SortBy, StatusReport,
};

/// Examples of `backends`.
pub const BACKENDS_EXAMPLES: &str = "On a terminal, what is not simply up is explained below its line. The strip of --history has a \
character for each minute, the worst state of it.\n\nExamples:\n  sluice backends\n  sluice backends shop --json\n  \
sluice backends --history shop";

/// Examples of `sessions`.
pub const SESSIONS_EXAMPLES: &str = "Examples:\n  sluice sessions --backend shop/10.0.0.11:443 --sort bytes --limit 10\n  \
sluice sessions --sni shop.example.com --source 10.0.0.0/8\n  sluice sessions --idle 10m --age 1h";

/// Arguments of `backends`.
#[derive(Args, Debug)]
pub struct BackendsArgs {
    /// Only this pool.
    pool: Option<String>,
    /// Draw the last hour instead.
    #[arg(long)]
    history: bool,
}

/// Arguments of `sessions`.
#[derive(Args, Debug)]
pub struct SessionsArgs {
    /// Only of this backend, as POOL/BACKEND, or of this pool.
    #[arg(long, value_name = "POOL/BACKEND")]
    backend: Option<String>,
    /// Only with this server name.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Only from this address or prefix.
    #[arg(long, value_name = "PREFIX")]
    source: Option<String>,
    /// Only those that are at least so old.
    #[arg(long, value_name = "TIME", value_parser = figures::duration)]
    age: Option<Duration>,
    /// Only those that were silent for at least so long.
    #[arg(long, value_name = "TIME", value_parser = figures::duration)]
    idle: Option<Duration>,
    /// The largest first.
    #[arg(long, value_enum, default_value_t = Sort::Age)]
    sort: Sort,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// What sessions are sorted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Time since accept.
    Age,
    /// Time since the last byte.
    Idle,
    /// Bytes, both ways.
    Bytes,
}

/// Runs `status`.
pub fn status(globals: &Globals) -> Exit {
    show(globals, "status", &json!({}), |status: StatusReport| {
        for (number, table) in tables::status(&status, Timestamp::now()).iter().enumerate() {
            if number > 0 {
                data("\n");
            }
            table.print(globals);
        }
    })
}

/// Runs `backends`.
pub fn backends(globals: &Globals, args: BackendsArgs) -> Exit {
    let BackendsArgs { pool, history } = args;
    if history {
        return show(globals, "history", &HistoryParams { pool }, |report: HistoryReport| {
            tables::history(&report).print(globals);
        });
    }
    show(globals, "backends", &BackendsParams { pool }, |list: Vec<BackendReport>| {
        // They explain states to people; without them the table says what it can.
        let events: Vec<Event> = match paper() {
            Paper::Pipe => Vec::new(),
            Paper::Terminal(_) => quietly(globals, "events", &json!({})).unwrap_or_default(),
        };
        tables::backends(&list, &events, Timestamp::now()).print(globals);
    })
}

/// Runs `sessions`.
pub fn sessions(globals: &Globals, args: SessionsArgs) -> Exit {
    let params = SessionsParams {
        backend: args.backend,
        sni: args.sni,
        source: args.source,
        age_ms: args.age.map(millis),
        idle_ms: args.idle.map(millis),
        sort: match args.sort {
            Sort::Age => SortBy::Age,
            Sort::Idle => SortBy::Idle,
            Sort::Bytes => SortBy::Bytes,
        },
        limit: Some(args.limit),
    };
    show(globals, "sessions", &params, |list: Vec<SessionReport>| tables::sessions(&list).print(globals))
}

/// Runs `refused`.
pub fn refused(globals: &Globals, listener: Option<String>) -> Exit {
    show(globals, "refused", &ListenerParams { listener }, |list: Vec<RefusedReport>| {
        tables::refused(&list).print(globals);
    })
}

/// Runs `names`.
pub fn names(globals: &Globals, limit: usize) -> Exit {
    show(globals, "names", &NamesParams { limit: Some(limit) }, |report: NamesReport| {
        tables::names(&report).print(globals);
    })
}

const PHASES: &[Column] = &[
    Column::words("phase", "phase", Place::Keep),
    Column::number("ms", "took", Place::Keep),
    Column::words("evidence", "", Place::Pipe),
];

/// Runs `probe`. Exits with 1 when the backend is not well.
pub fn probe(globals: &Globals, backend: String) -> Exit {
    let answer: Value = match ask(globals, "probe", &BackendParams { backend }) {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    if globals.json {
        print_json(&answer);
    } else {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut table = Table::new(PHASES);
        let phases = answer["phases"].as_array().into_iter().flatten();
        let phases = phases.map(|phase| (text(&phase["phase"]), &phase["took_ms"], text(&phase["evidence"])));
        let end = (text(&answer["result"]), &answer["took_ms"], text(&answer["detail"]));
        for (phase, took, seen) in phases.chain([end]) {
            let note = (!seen.is_empty()).then(|| Note::new("seen", seen.clone(), Tone::Plain));
            let took = Cell::two(took, milliseconds(took.as_f64().unwrap_or_default()));
            table.noted_row(vec![Cell::new(phase), took, Cell::new(seen)], note.into_iter().collect());
        }
        table.print(globals);
    }
    if answer["result"] == "ok" { Exit::Ok } else { Exit::Failed }
}
