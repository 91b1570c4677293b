//! From sources to a checked configuration: parses every file, merges, reads, and checks across tables.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{GLOBAL, LOG, RELAY, ROOT};
use super::listener::{ReadListener, read_listener};
use super::pool::read_pool;
use super::section::{At, Section};
use super::{
    Code, Config, Global, Log, LogFormat, LogSessions, LogTarget, Place, Pool, Problems, RelayNumbers, RemovedSessions,
    RouteTarget, Severity, Sources,
};
use crate::decide::balance::{Hashing, Method};
use crate::decide::route::NamePattern;

/// Longest path of a unix socket, in bytes (`unix(7)`: 108 with the NUL).
const MOST_SOCKET_PATH: usize = 107;

/// Checks sources. The configuration is there only when no problem is an error; warnings may stand beside it.
pub fn check(sources: &Sources) -> (Option<Config>, Problems) {
    let mut problems = Problems::default();
    let mut files = Vec::new();
    for (file, text) in sources.texts() {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let message = match error.message().trim() {
                "duplicate key" => format!("`{}` stands twice", text.get(span.clone()).unwrap_or_default()),
                other => other.replace('\n', ", "),
            };
            problems.add(Code::Syntax, Place::new(file, &span), message);
        }
        files.push((file, table));
    }
    // What a broken file means is a guess; its other problems would be too.
    if problems.count(Severity::Error) > 0 {
        problems.sort();
        return (None, problems);
    }
    let config = read_files(&files, sources, &mut problems);
    problems.sort();
    (config.filter(|_| problems.count(Severity::Error) == 0), problems)
}

fn read_files(files: &[(usize, Spanned<DeTable<'_>>)], sources: &Sources, problems: &mut Problems) -> Option<Config> {
    let whole: Vec<Place> = files.iter().map(|(file, _)| Place { file: *file, start: 0, end: 0 }).collect();
    let roots: Vec<Section<'_>> = files
        .iter()
        .zip(&whole)
        .map(|((_, table), place)| Section::open(&ROOT, "the file", place, table.get_ref(), problems))
        .collect();

    let global = single(&roots, "global", problems);
    let log = single(&roots, "log", problems);
    let pools = read_pools(&roots, &pools_of_postgres(&roots), problems);
    let listeners = read_listeners(&roots, &pools, sources, problems);
    let nowhere = Place { file: 0, start: 0, end: 0 };
    if listeners.is_empty() && roots.iter().all(|root| !root.has("listener") || root.is_empty_list("listener")) {
        problems
            .add(Code::MissingKey, nowhere.clone(), "no [[listener]]: nothing to do")
            .hint("a listener needs name, bind and pool; config/minimal.toml is an example");
    }
    let empty = DeTable::new();
    let global = global.unwrap_or(At { value: &empty, place: nowhere.clone() });
    let log = log.unwrap_or(At { value: &empty, place: nowhere });
    let global = read_global(&global, problems);
    let log = read_log(&log, problems);
    check_listeners(&listeners, global.as_ref().and_then(|global| global.metrics), problems);
    // With errors about, what is missing may only have been misread.
    if problems.count(Severity::Error) == 0 {
        warn_of_unused_pools(&listeners, &pools, problems);
        for read in &listeners {
            warn_of_unreachable_routes(read, problems);
        }
    }
    Some(Config {
        global: global?,
        log: log?,
        listeners: listeners.into_iter().map(|read| read.listener).collect(),
        pools: pools.into_iter().map(|pool| pool.value).collect(),
    })
}

/// A table that may stand in one file only.
fn single<'a>(roots: &[Section<'a>], name: &str, problems: &mut Problems) -> Option<At<&'a DeTable<'a>>> {
    let mut found: Option<At<&'a DeTable<'a>>> = None;
    for root in roots {
        if let Some(table) = root.table(name, problems) {
            match &found {
                None => found = Some(table),
                Some(first) => {
                    let message = format!("[{name}] is defined twice");
                    problems.add(Code::DuplicateName, table.place, message).also(first.place.clone(), "first here");
                }
            }
        }
    }
    found
}

/// The pools that listeners for PostgreSQL send to. Clients that cancel a query over TLS do so on a connection of its
/// own, with the same name: only the source's address leads it to the same server.
fn pools_of_postgres<'a>(roots: &[Section<'a>]) -> HashSet<&'a str> {
    let is_postgres = |table: &&'a DeTable<'a>| {
        table.get("protocol").and_then(|protocol| protocol.get_ref().as_str()) == Some("postgres")
    };
    // Reported, if wrong, when they are read.
    let mut unheard = Problems::default();
    let listeners: Vec<_> = roots.iter().flat_map(|root| root.tables("listener", &mut unheard)).collect();
    let mut names = HashSet::new();
    for listener in listeners.iter().map(|table| table.value).filter(is_postgres) {
        let routes = listener.get("route").and_then(|routes| routes.get_ref().as_array());
        let routes = routes.into_iter().flat_map(|routes| routes.iter()).filter_map(|route| route.get_ref().as_table());
        let pools = std::iter::once(listener).chain(routes).filter_map(|table| table.get("pool"));
        names.extend(pools.filter_map(|pool| pool.get_ref().as_str()));
    }
    names
}

fn read_pools(roots: &[Section<'_>], of_postgres: &HashSet<&str>, problems: &mut Problems) -> Vec<At<Pool>> {
    let mut pools: Vec<At<Pool>> = Vec::new();
    for root in roots {
        if let Some(all) = root.table("pool", problems) {
            for (name, value) in all.value {
                let place = Place::new(root.file, &name.span());
                let DeValue::Table(table) = value.get_ref() else {
                    let key = format!("pool.{}", name.get_ref());
                    let hint = format!("write [{key}]");
                    root.wrong_type(&key, "a table", value.get_ref(), place, problems).hint(hint);
                    continue;
                };
                if let Some(first) = pools.iter().find(|pool| *pool.value.name == **name.get_ref()) {
                    let message = format!("pool `{}` is defined twice", name.get_ref());
                    problems.add(Code::DuplicateName, place, message).also(first.place.clone(), "first here");
                    continue;
                }
                let name = name.get_ref();
                let hashed = of_postgres.contains(&**name);
                let default =
                    if hashed { Method::ConsistentHash(Hashing::default()) } else { Method::LeastConnections };
                let value = read_pool(name, &place, table, default, problems);
                pools.push(At { value, place });
            }
        }
    }
    pools.sort_by(|a, b| a.value.name.cmp(&b.value.name));
    pools
}

fn read_listeners(
    roots: &[Section<'_>],
    pools: &[At<Pool>],
    sources: &Sources,
    problems: &mut Problems,
) -> Vec<ReadListener> {
    let pools: Vec<Pool> = pools.iter().map(|pool| pool.value.clone()).collect();
    let tables = roots.iter().flat_map(|root| root.tables("listener", problems)).collect::<Vec<_>>();
    tables.iter().map(|table| read_listener(table.value, &table.place, &pools, sources, problems)).collect()
}

fn check_listeners(listeners: &[ReadListener], metrics: Option<SocketAddr>, problems: &mut Problems) {
    let mut names: HashMap<&str, &Place> = HashMap::new();
    let mut binds: Vec<&At<SocketAddr>> = Vec::new();
    for read in listeners {
        let nameless = read.listener.name.is_empty();
        if let Some(first) = names.insert(&read.listener.name, &read.name_place).filter(|_| !nameless) {
            let message = format!("listener `{}` is defined twice", read.listener.name);
            problems.add(Code::DuplicateName, read.name_place.clone(), message).also(first.clone(), "first here");
        }
        for bind in &read.binds {
            if let Some(first) = binds.iter().find(|other| overlap(other.value, bind.value)) {
                let message = format!("{} is taken by {} already", bind.value, first.value);
                problems
                    .add(Code::OverlappingBind, bind.place.clone(), message)
                    .also(first.place.clone(), "first here");
            }
            if metrics.is_some_and(|metrics| overlap(metrics, bind.value)) {
                let message = format!("{} is taken by `metrics` in [global] already", bind.value);
                problems.add(Code::OverlappingBind, bind.place.clone(), message);
            }
            if let Some(v4) = bind.value.ip().to_canonical().is_ipv4().then(|| bind.value.ip().to_canonical())
                && bind.value.is_ipv6()
            {
                let message = format!("cannot listen on {}: IPv6 sockets take no IPv4", bind.value);
                let hint = format!("write \"{v4}:{}\"", bind.value.port());
                problems.add(Code::BadAddress, bind.place.clone(), message).hint(hint);
            }
            binds.push(bind);
        }
    }
}

/// Whether two addresses cannot both be bound. A wildcard takes every address of its family; IPv6 sockets are IPv6 only.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_family && same_host
}

fn warn_of_unreachable_routes(read: &ReadListener, problems: &mut Problems) {
    let routes = &read.listener.routes;
    // Earlier rules by their patterns; those without a name under `None`.
    let mut by_name: HashMap<Option<&NamePattern>, Vec<usize>> = HashMap::new();
    for (position, route) in routes.iter().enumerate() {
        let names: Vec<Option<&NamePattern>> = match &route.conditions.names[..] {
            [] => vec![None],
            names => names.iter().map(Some).collect(),
        };
        // A name is taken when an earlier rule has the very same pattern and lets every such connection in.
        let covers = |earlier: &usize| routes[*earlier].conditions.covers_conditions_of(&route.conditions);
        let taker = |name| by_name.get(name)?.iter().copied().find(covers);
        if let Some(earlier) =
            names.iter().map(taker).collect::<Option<Vec<usize>>>().and_then(|all| all.last().copied())
        {
            let message = format!(
                "route of listener `{}` can never match: the one at {} takes all of it",
                read.listener.name, routes[earlier].origin
            );
            let place = read.route_places[position].clone();
            problems
                .add(Code::UnreachableRoute, place, message)
                .hint("among equals the first whose conditions hold wins");
        }
        for name in names {
            by_name.entry(name).or_default().push(position);
        }
    }
}

fn warn_of_unused_pools(listeners: &[ReadListener], pools: &[At<Pool>], problems: &mut Problems) {
    for (id, pool) in pools.iter().enumerate() {
        let used = listeners.iter().map(|read| &read.listener).any(|listener| {
            listener.pool == Some(id) || listener.routes.iter().any(|route| route.target == RouteTarget::Pool(id))
        });
        if !used {
            let message = format!("nothing uses pool `{}`", pool.value.name);
            problems.add(Code::UnusedPool, pool.place.clone(), message);
        }
    }
}

fn read_global(table: &At<&DeTable<'_>>, problems: &mut Problems) -> Option<Global> {
    let section = Section::open(&GLOBAL, "[global]", &table.place, table.value, problems);
    let workers = section.auto_or_integer("workers", problems);
    let status_socket = section.text("status-socket", problems);
    let metrics = section.socket_address("metrics", problems).map(|address| address.value);
    let max_connections = section.integer("max-connections", problems);
    let shutdown_grace = section.duration("shutdown-grace", problems);
    let ready_delay = section.duration("ready-delay", problems);
    let removed_sessions = section.word("removed-sessions", problems);
    let state_file = section.text("state-file", problems);
    let resolvers = section.socket_addresses("resolvers", problems).map(|list| list.value).unwrap_or_default();
    for resolver in resolvers.iter().filter(|resolver| resolver.value.port() == 0) {
        problems.add(Code::OutOfRange, resolver.place.clone(), format!("resolver {} has port 0", resolver.value));
    }
    let relay = read_relay(&section, problems);
    refuse_empty_path(&section, "status-socket", status_socket.as_ref(), problems);
    if let Some(path) = status_socket.as_ref().filter(|path| path.value.len() > MOST_SOCKET_PATH) {
        let message = format!("`status-socket` has {} bytes, more than {MOST_SOCKET_PATH}", path.value.len());
        problems.add(Code::OutOfRange, path.place.clone(), message);
    }
    refuse_empty_path(&section, "state-file", state_file.as_ref(), problems);
    Some(Global {
        workers: workers?.value.map(|count| count as usize),
        status_socket: PathBuf::from(status_socket?.value),
        metrics,
        max_connections: max_connections?.value as u32,
        shutdown_grace: shutdown_grace?.value,
        ready_delay: ready_delay?.value.unwrap_or_default(),
        removed_sessions: match removed_sessions?.value {
            "drain" => RemovedSessions::Drain,
            "close" => RemovedSessions::Close,
            _ => RemovedSessions::Keep,
        },
        state_file: state_file.map(|path| PathBuf::from(path.value)),
        resolvers: resolvers.into_iter().map(|resolver| resolver.value).collect(),
        relay: relay?,
    })
}

fn read_relay(global: &Section<'_>, problems: &mut Problems) -> Option<RelayNumbers> {
    let empty = DeTable::new();
    let table = if global.has("relay") {
        global.table("relay", problems)?
    } else {
        At { value: &empty, place: global.place.clone() }
    };
    let section = Section::open(&RELAY, "[global.relay]", &table.place, table.value, problems);
    let [full_reads, small_fills] = ["full-reads", "small-fills"].map(|key| section.integer(key, problems));
    let [small_fill, pipe_size, turn] = ["small-fill", "pipe-size", "turn"].map(|key| section.size(key, problems));
    Some(RelayNumbers {
        full_reads: full_reads?.value as u8,
        small_fills: small_fills?.value as u8,
        small_fill: small_fill?.value as u32,
        pipe_size: pipe_size?.value as u32,
        turn: turn?.value as u32,
    })
}

fn refuse_empty_path(section: &Section<'_>, key: &str, path: Option<&At<String>>, problems: &mut Problems) {
    if let Some(path) = path.filter(|path| path.value.is_empty()) {
        problems.add(Code::MissingKey, path.place.clone(), format!("`{key}` in {} is empty", section.title));
    }
}

fn read_log(table: &At<&DeTable<'_>>, problems: &mut Problems) -> Option<Log> {
    let section = Section::open(&LOG, "[log]", &table.place, table.value, problems);
    let format = section.word("format", problems);
    let sessions = section.word("sessions", problems);
    let sample = section.share("sample", problems);
    let target = section.text("target", problems);
    refuse_empty_path(&section, "target", target.as_ref(), problems);
    let target = target?;
    Some(Log {
        format: match format?.value {
            "json" => LogFormat::Json,
            "tcplog" => LogFormat::TcpLog,
            _ => LogFormat::Text,
        },
        sessions: match sessions?.value {
            "both" => LogSessions::Both,
            "off" => LogSessions::Off,
            _ => LogSessions::End,
        },
        sample: sample?.value,
        target: match target.value.as_str() {
            "stderr" => LogTarget::Stderr,
            "journal" => LogTarget::Journal,
            path => LogTarget::File(path.into()),
        },
    })
}
