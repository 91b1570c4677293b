//! `show info` and `show version`: the process as a whole, under HAProxy's names.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::super::super::Control;
use super::super::super::failure::Failure;
use super::fields::{Cell, Field, field};
use super::rows::rounded;
use super::server_row::age;
use super::stat::Format;
use super::{Answer, Answered};
use crate::state::Phase;

/// The version of HAProxy whose runtime API this is, then ours: tools compare the first two numbers.
pub const VERSION: &str = concat!("2.6.0-sluice-", env!("CARGO_PKG_VERSION"));

/// Answers `show info [typed|json]`.
pub fn show(control: &Control, arguments: &[String]) -> Answered {
    let mut format = Format::Plain;
    for word in arguments {
        format = match word.as_str() {
            "typed" => Format::Typed,
            "json" => Format::Json,
            other => return Err(Failure::new("bad_params", format!("'show info' does not know '{other}'."))),
        };
    }
    let fields = fields(control);
    let line = |(position, field, cell): &(usize, Field, Cell)| match format {
        Format::Typed => field.typed("", *position, cell),
        _ => format!("{}: {}\n", field.name, cell.text()),
    };
    Ok(Answer::Text(match format {
        Format::Json => {
            let fields: Vec<Value> = fields.iter().map(|(position, field, cell)| field.json(*position, cell)).collect();
            format!("{}\n", json!(fields))
        }
        Format::Plain | Format::Typed => fields.iter().map(line).collect(),
    }))
}

/// What is known, with HAProxy's position of each.
fn fields(control: &Control) -> Vec<(usize, Field, Cell)> {
    let (shared, snapshot) = (&control.shared, control.snapshot());
    let mut all = Vec::new();
    let mut add = |position, name, tags, kind, cell| all.push((position, field(name, tags, kind), cell));
    let open = shared.active.load(Ordering::Relaxed);
    let most = snapshot.config.global.max_connections;
    let pipes: i64 = shared.workers.iter().map(|worker| worker.pipes_in_use.load(Ordering::Relaxed)).sum();
    let relayed = |places: std::ops::Range<usize>| -> u64 {
        shared.workers.iter().flat_map(|worker| &worker.relayed[places.clone()]).map(crate::state::Counter::get).sum()
    };
    let shards = snapshot.listeners.iter().flat_map(|listener| listener.state.shards.iter());
    let accepted: u64 = shards.map(|shard| shard.total.get()).sum();
    let uptime = age(shared.started);
    let (minutes, seconds) = (uptime / 60 % 60, uptime % 60);
    let uptime_words = format!("{}d {}h{minutes:02}m{seconds:02}s", uptime / 86_400, uptime / 3600 % 24);
    let shape = shared.trend.shape();
    let (rate, most_rate) = (rounded(shape.rates.connections), rounded(shape.most_connections));
    let sent = shape.rates.bytes_up + shape.rates.bytes_down;
    let binds: usize = snapshot.listeners.iter().map(|listener| listener.config.bind.len()).sum();
    let stopping = matches!(shared.phase(), Phase::Leaving | Phase::Draining);
    add(0, "Name", "POS", "str", "sluice".into());
    add(1, "Version", "POS", "str", VERSION.into());
    // Programs want to see one.
    add(2, "Release_date", "POS", "str", "-".into());
    add(3, "Nbthread", "CGS", "u32", snapshot.workers.into());
    add(4, "Nbproc", "CGS", "u32", 1_u32.into());
    add(5, "Process_num", "KGP", "u32", 1_u32.into());
    add(6, "Pid", "SGP", "u32", std::process::id().into());
    add(7, "Uptime", "MDP", "str", uptime_words.into());
    add(8, "Uptime_sec", "MDP", "u32", uptime.into());
    add(15, "Maxconn", "CLP", "u32", most.into());
    add(16, "Hard_maxconn", "CLP", "u32", most.into());
    add(17, "CurrConns", "MGP", "u32", open.into());
    add(18, "CumConns", "MCP", "u32", accepted.into());
    add(23, "Maxpipes", "CLP", "u32", most.into());
    add(24, "PipesUsed", "MGP", "u32", pipes.max(0).into());
    add(26, "ConnRate", "MRP", "u32", rate.into());
    add(28, "MaxConnRate", "MMP", "u32", most_rate.into());
    add(29, "SessRate", "MRP", "u32", rate.into());
    add(31, "MaxSessRate", "MRP", "u32", most_rate.into());
    add(47, "Tasks", "MGP", "u32", open.into());
    add(48, "Run_queue", "MGP", "u32", 0_u32.into());
    add(50, "node", "COS", "str", node().into());
    add(52, "Stopping", "MGP", "u32", u32::from(stopping).into());
    add(53, "Jobs", "MGP", "u32", open.into());
    add(55, "Listeners", "MGP", "u32", binds.into());
    add(58, "DroppedLogs", "MGP", "u32", shared.log.dropped().into());
    add(61, "TotalBytesOut", "MGP", "u64", relayed(0..4).into());
    add(62, "TotalSplicdedBytesOut", "MGP", "u64", relayed(2..4).into());
    add(63, "BytesOutRate", "MRP", "u64", rounded(sent).into());
    add(66, "Build info", "POS", "str", VERSION.into());
    add(70, "Start_time_sec", "MDP", "u32", shared.started.as_second().into());
    all
}

/// The machine's name.
fn node() -> String {
    let name = nix::sys::utsname::uname().ok().map(|uname| uname.nodename().to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
