//! A daemon before two echoing backends, its clients, and what is seen of it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::hello::client_hello;
use crate::support::{Backend, Daemon, connect, own_loopback};

pub const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[[listener]]
name = "plain"
bind = ["{ip}:444"]
protocol = "tcp"
pool = "a"
[pool.a]
backends = ["{ip}:1001", "{ip}:1002"]
[pool.a.health]
check = "tcp"
interval = "200ms"
fast-interval = "100ms"
"#;

/// A daemon before two echoing backends.
pub struct Scene {
    pub daemon: Daemon,
    _backends: [Backend; 2],
}

impl Scene {
    pub fn start(global: &str) -> Self {
        Self::start_with(CONFIG, global)
    }

    pub fn start_with(config: &str, global: &str) -> Self {
        let address = own_loopback();
        let backends = [1001, 1002].map(|port| Backend::echo((address, port)));
        let daemon = Daemon::start_on(address, config, global, |command| command);
        Self { daemon, _backends: backends }
    }
}

#[track_caller]
pub fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

/// Connects, and says something that comes back.
#[track_caller]
pub fn says(daemon: &Daemon, port: u16, text: &[u8]) {
    echoes(&mut connect(daemon.at(port)), text);
}

#[track_caller]
pub fn all_echo(sessions: &mut [TcpStream], text: &[u8]) {
    for session in sessions {
        echoes(session, text);
    }
}

#[track_caller]
pub fn sessions(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let session = |number: usize| {
        let (port, first) =
            if number.is_multiple_of(2) { (443, client_hello(Some("a.test"), &["h2"])) } else { (444, vec![7]) };
        let mut stream = connect(daemon.at(port));
        echoes(&mut stream, &first);
        stream
    };
    (0..count).map(session).collect()
}

/// Counters by name and labels, but for those of time and of what the process itself does.
pub fn counters(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (_, text) = daemon.get("/metrics").unwrap();
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let own = ["process_", "sluice_worker_", "sluice_command", "sluice_backend_checks_"];
    let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let is_counter = |name: &str| {
        let bare = name.split('{').next().unwrap_or_default();
        let family = ["_total", "_bucket", "_count", "_sum"].into_iter().find_map(|end| bare.strip_suffix(end));
        let kind = [bare, family.unwrap_or(bare)].into_iter().find_map(|name| types.get(name));
        matches!(kind, Some(&"counter" | &"histogram")) && !own.iter().any(|own| bare.starts_with(own))
    };
    rows.filter(|(name, _)| is_counter(name)).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// What people see of a daemon, without what moves by itself.
pub fn seen(daemon: &Daemon) -> Value {
    let mut backends = daemon.json("/v1/backends");
    for row in backends.as_array_mut().unwrap() {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !["check", "checks", "rates", "latency_ms", "certificate"].contains(&&**key));
    }
    let mut sessions = daemon.json("/v1/sessions");
    let sessions = sessions.as_array_mut().unwrap();
    for row in &mut *sessions {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !["age_ms", "idle_ms"].contains(&&**key));
    }
    sessions.sort_by_key(|row| row["session"].as_str().unwrap().to_owned());
    json!({ "backends": backends, "sessions": sessions, "events": daemon.json("/v1/events"), "refused": daemon.json("/v1/refused") })
}
