//! Reads `[[listener]]` and `[[listener.route]]`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::WrittenRoute;
use super::keys::{LISTENER, ROUTE};
use super::nearest::{hint_nearest, is_name};
use super::section::{At, Section};
use super::{
    Access, Code, Limit, Listener, Place, Pool, PoolId, Problems, Protocol, Reject, Route, RouteTarget, Sources,
};
use crate::decide::hello::{FirstBytes, TlsVersion};
use crate::decide::prefix::PrefixMap;
use crate::decide::route::{Conditions, NamePattern};

/// A listener and the places that checks across listeners need.
pub struct ReadListener {
    /// The listener.
    pub listener: Listener,
    /// Place of its name.
    pub name_place: Place,
    /// Its addresses with places.
    pub binds: Vec<At<SocketAddr>>,
    /// Places of its routes, in the order of [`Listener::routes`].
    pub route_places: Vec<Place>,
}

/// Reads one listener, whatever is wrong with it.
pub fn read_listener(
    table: &DeTable<'_>,
    place: &Place,
    pools: &[Pool],
    sources: &Sources,
    problems: &mut Problems,
) -> ReadListener {
    let title = match table.get("name").and_then(|name| name.get_ref().as_str()) {
        Some(name) => format!("listener `{name}`"),
        None => "[[listener]]".to_owned(),
    };
    let section = Section::open(&LISTENER, &title, place, table, problems);
    let name = section.name("name", problems);
    if !section.has("name") {
        section.missing("name", "records and metrics need it, such as name = \"https\"", problems);
    }
    let binds = section.socket_addresses("bind", problems);
    if !section.has("bind") {
        section.missing("bind", "such as bind = [\"0.0.0.0:443\", \"[::]:443\"]", problems);
    }
    if section.is_empty_list("bind") {
        let message = format!("`bind` of {title} is empty");
        problems.add(Code::MissingKey, section.key_place("bind"), message).hint("such as bind = [\"0.0.0.0:443\"]");
    }
    let protocol = match section.word("protocol", problems).map(|word| word.value) {
        Some("tcp") => Protocol::Tcp,
        Some("postgres") => Protocol::Postgres,
        _ => Protocol::Tls,
    };
    let reject = read_reject(&section, protocol, problems);
    let pool = read_pool(&section, pools, problems);
    if protocol == Protocol::Tcp {
        for key in ["hello-timeout", "max-hello"].into_iter().filter(|key| section.has(key)) {
            let message = format!("`{key}` of {title} has no effect: protocol tcp reads no hello");
            problems.add(Code::NoEffect, section.key_place(key), message);
        }
    }
    let (routes, route_places): (Vec<Route>, Vec<Place>) = section
        .tables("route", problems)
        .into_iter()
        .filter_map(|table| Some((read_route(&table, &title, protocol, pools, sources, problems)?, table.place)))
        .unzip();
    let has_target = section.has("route") || section.has("pool") || section.probably_has("pool");
    if routes.is_empty() && !has_target {
        let message = format!("{title} has neither `pool` nor routes: it could only reject");
        problems.add(Code::MissingKey, place.clone(), message).hint("add pool = \"NAME\", or a [[listener.route]]");
    }
    let hello_timeout = section.duration("hello-timeout", problems);
    let max_hello = section.size("max-hello", problems);
    let access = read_access(&section, problems);
    let trusted = section.prefixes("accept-proxy", problems).map(|list| list.value).unwrap_or_default();
    let accept_proxy = (!trusted.is_empty()).then(|| {
        trusted.into_iter().fold(PrefixMap::default(), |mut map, (prefix, _)| {
            map.insert(prefix, ());
            map
        })
    });
    let max_connections = section.integer("max-connections", problems).map(|count| count.value as u32);
    let idle_timeout = section.duration("idle-timeout", problems);
    let half_close_timeout = section.duration("half-close-timeout", problems);
    let user_timeout = section.duration("user-timeout", problems);
    let keepalive = section.duration("keepalive", problems);
    // Kept without them too, so that what else is wrong is reported in the same run.
    let name = name.unwrap_or_else(|| At { value: String::new(), place: place.clone() });
    let binds = binds.map(|binds| binds.value).unwrap_or_default();
    let listener = Listener {
        name: name.value.into(),
        bind: binds.iter().map(|bind| bind.value).collect(),
        protocol,
        pool,
        hello_timeout: hello_timeout.and_then(|time| time.value).unwrap_or_default(),
        max_hello: max_hello.map_or(0, |size| size.value as usize),
        reject,
        accept_proxy,
        access,
        max_connections,
        idle_timeout: idle_timeout.and_then(|time| time.value),
        half_close_timeout: half_close_timeout.and_then(|time| time.value),
        user_timeout: user_timeout.map(limit),
        keepalive: keepalive.map(limit),
        routes,
    };
    ReadListener { listener, name_place: name.place, binds, route_places }
}

fn limit(time: At<Option<Duration>>) -> Limit {
    time.value.map_or(Limit::Off, Limit::After)
}

fn read_reject(section: &Section<'_>, protocol: Protocol, problems: &mut Problems) -> Reject {
    let Some(word) = section.word("reject", problems) else { return Reject::Alert };
    match (reject_named(word.value), protocol) {
        (Reject::Alert, Protocol::Tcp) => {
            if section.has("reject") {
                let message = format!("`reject = \"alert\"` of {} needs protocol tls or postgres", section.title);
                problems.add(Code::Conflict, word.place, message).hint("use \"reset\" or \"close\"");
            }
            Reject::Reset
        }
        (reject, _) => reject,
    }
}

fn reject_named(word: &str) -> Reject {
    match word {
        "close" => Reject::Close,
        "reset" => Reject::Reset,
        _ => Reject::Alert,
    }
}

fn read_pool(section: &Section<'_>, pools: &[Pool], problems: &mut Problems) -> Option<PoolId> {
    let name = section.text("pool", problems)?;
    let found = pools.iter().position(|pool| *pool.name == *name.value);
    if found.is_none() {
        let message = format!("pool `{}` of {} does not exist", name.value, section.title);
        let problem = problems.add(Code::UnknownPool, name.place, message);
        if !hint_nearest(problem, &name.value, pools.iter().map(|pool| &*pool.name)) && is_name(&name.value) {
            let plain = name.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            let quote = if plain { "" } else { "\"" };
            problem.hint(format!("add [pool.{quote}{}{quote}] with backends", name.value));
        }
    }
    found
}

fn read_access(section: &Section<'_>, problems: &mut Problems) -> PrefixMap<Access> {
    let mut access = PrefixMap::default();
    // Deny comes second: it wins a tie.
    for (key, value) in [("allow", Access::Allow), ("deny", Access::Deny)] {
        for (prefix, _) in section.prefixes(key, problems).map(|list| list.value).unwrap_or_default() {
            access.insert(prefix, value);
        }
    }
    access
}

fn read_route(
    table: &At<&DeTable<'_>>,
    listener: &str,
    protocol: Protocol,
    pools: &[Pool],
    sources: &Sources,
    problems: &mut Problems,
) -> Option<Route> {
    let title = format!("route of {listener}");
    let section = Section::open(&ROUTE, &title, &table.place, table.value, problems);
    let by_first_bytes = section.has("first-bytes");
    if protocol == Protocol::Tcp {
        for key in ["sni", "alpn", "tls-min", "first-bytes"].into_iter().filter(|key| section.has(key)) {
            let message = format!("`{key}` in {title} needs protocol tls or postgres");
            problems.add(Code::Conflict, section.key_place(key), message);
        }
    } else if by_first_bytes {
        for key in ["sni", "alpn", "tls-min"].into_iter().filter(|key| section.has(key)) {
            let message = format!("{title} has both `first-bytes` and `{key}`: what is not TLS has none");
            problems.add(Code::Conflict, section.key_place(key), message).hint("make two routes of it");
        }
    }
    let mut conditions = Conditions::default();
    let mut written = WrittenRoute::default();
    for key in ["sni", "alpn", "from", "first-bytes"].into_iter().filter(|key| section.is_empty_list(key)) {
        let message = format!("`{key}` in {title} is empty");
        problems.add(Code::MissingKey, section.key_place(key), message).hint("leave the key out for no condition");
    }
    if let Some(names) = section.texts("sni", problems) {
        for name in names.value {
            match NamePattern::parse(&name.value) {
                Ok(pattern) => conditions.names.push(pattern),
                Err(why) => {
                    let message = format!("`{}` is not a server name pattern: {why}", name.value);
                    problems.add(Code::BadServerName, name.place, message);
                }
            }
            written.sni.push(name.value);
        }
    }
    for name in section.texts("alpn", problems).map(|list| list.value).unwrap_or_default() {
        if !(1..=255).contains(&name.value.len()) {
            let message = format!("a protocol in `alpn` has {} bytes, outside 1 to 255", name.value.len());
            problems.add(Code::OutOfRange, name.place, message);
        }
        conditions.alpn.push(name.value.as_bytes().into());
        written.alpn.push(name.value);
    }
    if let Some(prefixes) = section.prefixes("from", problems) {
        let mut from = PrefixMap::default();
        for (prefix, text) in prefixes.value {
            from.insert(prefix, ());
            written.from.push(text);
        }
        conditions.from = Some(from);
    }
    if let Some(version) = section.word("tls-min", problems) {
        conditions.tls_min = TlsVersion::from_config(version.value);
        written.tls_min = Some(version.value.to_owned());
    }
    if let Some(words) = section.words("first-bytes", problems) {
        conditions.first_bytes = words.value.iter().filter_map(|word| FirstBytes::from_config(word)).collect();
        written.first_bytes = words.value.iter().map(|word| (*word).to_owned()).collect();
        if protocol == Protocol::Postgres && conditions.first_bytes.iter().any(|one| *one != FirstBytes::Postgres) {
            let message = format!("`first-bytes` in {title} takes only \"postgres\": the listener has that protocol");
            problems.add(Code::Conflict, words.place, message);
        }
    }
    let reject = section.word("reject", problems);
    let pool = read_pool(&section, pools, problems);
    let (target, named) = match (section.has("pool"), section.has("reject")) {
        (true, true) => {
            let message = format!("{title} has both `pool` and `reject`");
            problems.add(Code::Conflict, section.key_place("reject"), message).hint("remove one of them");
            return None;
        }
        (false, false) if section.probably_has("reject") => return None,
        (false, false) => {
            section.missing("pool", "a route needs pool = \"NAME\" or reject = \"alert\"", problems);
            return None;
        }
        (true, false) => {
            let pool = pool?;
            (RouteTarget::Pool(pool), pools[pool].as_target())
        }
        (false, true) => {
            let reject = reject?;
            let deaf = protocol == Protocol::Tcp || protocol == Protocol::Tls && by_first_bytes;
            if deaf && reject.value == "alert" {
                let message = format!("`reject = \"alert\"` in {title} needs protocol tls or postgres");
                problems.add(Code::Conflict, reject.place, message).hint("use \"reset\" or \"close\"");
            }
            (RouteTarget::Reject(reject_named(reject.value)), format!("reject {}", reject.value))
        }
    };
    let identity = written.identity(&named);
    Some(Route { conditions, target, origin: Arc::from(sources.origin(&table.place)), written, identity })
}
