//! `sluice doctor`: limits, kernel features and settings that matter, each with what it costs when it is not right.

use std::path::Path;

use serde_json::json;

use super::output::{Exit, json as print_json};
use super::table::{Cell, Column, Note, Place, Table, Tone};
use super::{ConfigArgs, DEFAULT_CONFIG, Globals};
use crate::config::{self, Sources};
use crate::sys::limits::{allowed_cpus, descriptor_limits, sysctl};
use crate::sys::pipe::Pipe;
use crate::sys::privileges;

const COLUMNS: &[Column] = &[
    Column::words("check", "check", Place::Keep),
    Column::words("verdict", "verdict", Place::Keep),
    Column::words("found", "found", Place::Shrink),
    Column::words("advice", "", Place::Pipe),
];

struct Finding {
    name: &'static str,
    verdict: &'static str,
    found: String,
    advice: String,
}

/// Runs `doctor`. Exits with 0 even when something could be better: nothing here keeps the daemon from running.
pub fn doctor(globals: &Globals, args: &ConfigArgs) -> Exit {
    let findings = [
        descriptors(max_connections(args)),
        cpus(),
        capabilities(),
        landlock(),
        backlog(),
        ports(),
        migrate(),
        unsent(),
        fast_open(),
        pipes(),
        pipe_size(),
        conntrack(),
    ];
    if globals.json {
        let list: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "name": finding.name, "verdict": finding.verdict, "found": finding.found, "advice": finding.advice }))
            .collect();
        print_json(&list);
        return Exit::Ok;
    }
    let mut table = Table::new(COLUMNS);
    for Finding { name, verdict, found, advice } in findings {
        let advised = (!advice.is_empty()).then(|| Note::new("advice", advice.clone(), Tone::Warn));
        let cells = vec![Cell::new(name), Cell::new(verdict), Cell::new(found), Cell::new(advice)];
        table.noted_row(cells, advised.into_iter().collect());
    }
    table.print(globals);
    Exit::Ok
}

fn finding(name: &'static str, good: bool, found: String, advice: &str) -> Finding {
    let advice = if good { String::new() } else { advice.to_owned() };
    Finding { name, verdict: if good { "ok" } else { "warn" }, found, advice }
}

fn max_connections(args: &ConfigArgs) -> u64 {
    let given = !args.config.is_empty() || Path::new(DEFAULT_CONFIG).exists();
    let sources = given.then(|| Sources::read(&args.paths()).ok()).flatten();
    let config = sources.and_then(|sources| config::check(&sources).0);
    config.map_or(100_000, |config| config.global.max_connections.into())
}

fn descriptors(connections: u64) -> Finding {
    let (soft, hard) = descriptor_limits().unwrap_or((0, 0));
    let advice = format!(
        "max-connections = {connections} needs {}: set LimitNOFILE, or lower max-connections to {}",
        connections * 2 + 512,
        hard.saturating_sub(512) / 2
    );
    finding("descriptors", hard >= connections * 2 + 512, format!("soft {soft}, hard {hard}"), &advice)
}

fn cpus() -> Finding {
    let cpus = allowed_cpus();
    finding("cpus", !cpus.is_empty(), format!("{} usable: one worker each", cpus.len()), "")
}

/// Of whoever asks; the daemon's own may be others.
fn capabilities() -> Finding {
    let held = privileges::capabilities();
    let first = number("net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    let may_bind = first <= 443 || held.iter().any(|one| one == "CAP_NET_BIND_SERVICE");
    let found = if held.is_empty() { "none that are of use".to_owned() } else { held.join(", ") };
    let advice = format!("ports below {first} need CAP_NET_BIND_SERVICE (AmbientCapabilities=), or a socket unit");
    finding("capabilities", may_bind, found, &advice)
}

fn landlock() -> Finding {
    let known = privileges::knows_landlock();
    let found = if known { "the file system is closed at the start" } else { "not in this kernel" };
    finding(
        "landlock",
        known,
        found.to_owned(),
        "the file system stays open to the daemon: needs Linux 5.13 with landlock",
    )
}

/// What a socket holds back unsent is bounded by it: fewer bytes for each system call.
fn unsent() -> Finding {
    let found = number("net/ipv4/tcp_notsent_lowat").unwrap_or(u64::from(u32::MAX));
    let text = if found >= 1 << 30 { "no limit".to_owned() } else { format!("{found} bytes") };
    let advice = "bulk moves in smaller pieces, at more CPU: sysctl net.ipv4.tcp_notsent_lowat=4294967295";
    finding("net.ipv4.tcp_notsent_lowat", found >= 128 << 10, text, advice)
}

fn fast_open() -> Finding {
    let found = number("net/ipv4/tcp_fastopen").unwrap_or(0);
    let advice = "`tcp-fast-open` of a pool does nothing: sysctl net.ipv4.tcp_fastopen=1";
    finding("net.ipv4.tcp_fastopen", found & 1 == 1, found.to_string(), advice)
}

fn number(name: &str) -> Option<u64> {
    sysctl(name)?.split_whitespace().next()?.parse().ok()
}

fn backlog() -> Finding {
    let found = number("net/core/somaxconn").unwrap_or(0);
    let advice = "bursts of connections beyond it are dropped: sysctl net.core.somaxconn=65535";
    finding("net.core.somaxconn", found >= 4096, found.to_string(), advice)
}

fn ports() -> Finding {
    let text = sysctl("net/ipv4/ip_local_port_range").unwrap_or_default();
    let bounds: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let count = if let [low, high] = bounds[..] { high.saturating_sub(low) + 1 } else { 0 };
    let advice =
        "each backend address can have so many connections at once: sysctl net.ipv4.ip_local_port_range=\"1024 65535\"";
    finding("net.ipv4.ip_local_port_range", count >= 28_000, format!("{count} ports per backend"), advice)
}

fn migrate() -> Finding {
    let found = number("net/ipv4/tcp_migrate_req").unwrap_or(0);
    let advice =
        "when a listener is removed, connections still in its queue are reset: sysctl net.ipv4.tcp_migrate_req=1";
    finding("net.ipv4.tcp_migrate_req", found == 1, found.to_string(), advice)
}

/// Pipes of a user without CAP_SYS_RESOURCE, as root may be, shrink to two pages, without an error, beyond
/// `fs.pipe-user-pages-soft` (pipe(7)). CAP_SYS_ADMIN would do as well; the daemon gives it up.
fn pipes() -> Finding {
    if privileges::capabilities().iter().any(|one| one == "CAP_SYS_RESOURCE") {
        return finding("fs.pipe-user-pages-soft", true, "no limit with CAP_SYS_RESOURCE".to_owned(), "");
    }
    let pages = number("fs/pipe-user-pages-soft").unwrap_or(16_384);
    let pipes = pages * 4 / 1024;
    let advice =
        "bulk is copied when the pipes of all this user's programs fill it: sysctl fs.pipe-user-pages-soft=262144";
    let found = if pages == 0 { "no limit".to_owned() } else { format!("{pages} pages: {pipes} pipes of 1 MiB") };
    finding("fs.pipe-user-pages-soft", pages == 0 || pipes >= 64, found, advice)
}

fn pipe_size() -> Finding {
    match Pipe::open(1024 * 1024) {
        Ok(pipe) => {
            let advice = "larger pipes cost less CPU: sysctl fs.pipe-max-size=1048576";
            finding(
                "splice",
                pipe.capacity() >= 1024 * 1024,
                format!("pipes of {} KiB", pipe.capacity() / 1024),
                advice,
            )
        }
        Err(error) => finding("splice", false, error.to_string(), "without pipes everything is copied"),
    }
}

fn conntrack() -> Finding {
    let Some(most) = number("net/netfilter/nf_conntrack_max") else {
        return finding("conntrack", true, "not loaded".to_owned(), "");
    };
    let count = number("net/netfilter/nf_conntrack_count").unwrap_or(0);
    let advice = "new connections are dropped when the table is full: sysctl net.netfilter.nf_conntrack_max";
    finding("conntrack", count * 2 < most, format!("{count} of {most}"), advice)
}
