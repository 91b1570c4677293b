//! What was under way when an upgrade came goes on: kills at a rate, sessions that are to end because a reload removed what
//! they belong to; and what was known of backends is known.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scene::{CONFIG, Scene, all_echo, echoes, sessions};
use crate::support::line::ends;
use crate::support::{Backend, Daemon, connect, eventually, own_loopback};

#[test]
fn a_kill_at_a_rate_goes_on_at_its_rate() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let _open = sessions(daemon, 60);
    let killed = || daemon.metric("sluice_sessions_closed_total{pool=\"a\",end=\"killed\"}") as usize;
    let begun = Instant::now();
    assert!(daemon.cli(&["kill", "--backend", "a", "--rate", "20"]).status.success());
    for least in [5, 15, 25] {
        eventually("some are ended", || (killed() >= least).then_some(()));
        let before = killed();
        daemon.upgrade();
        assert!(killed() < 60 && killed() >= before, "{} of 60", killed());
    }
    eventually("all are ended", || (killed() == 60).then_some(()));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(2), "60 at 20 a second, with jitter: {took:?}");
    ends(daemon, 60, "killed");
}

#[test]
fn sessions_of_what_is_gone_end_when_they_would_have() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 40);
    let gone = daemon.at(1002).to_string();
    let body = CONFIG
        .replace(", \"{ip}:1002\"", "")
        .replace("protocol = \"tcp\"\npool = \"a\"", "protocol = \"tcp\"\npool = \"b\"");
    let body = format!("{body}[pool.b]\nbackends = [\"{{ip}}:1001\"]\n");
    daemon.write_config(&body, "workers = 2\nremoved-sessions = \"drain\"\nshutdown-grace = \"9s\"\n");
    let begun = Instant::now();
    daemon.reload();
    for _ in 0..3 {
        daemon.upgrade();
        all_echo(&mut open, b"not yet");
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "too slow a machine to see it");
    let drained = eventually("they end", || {
        let drained: Vec<Value> = daemon.records().into_iter().filter(|record| record["end"] == "drained").collect();
        // Twenty by their route, and those of the rest that were at the backend.
        (drained.len() > 20).then_some(drained)
    });
    assert!(begun.elapsed() >= Duration::from_millis(8900), "{:?}", begun.elapsed());
    let listener_of = |record: &Value| record["listener"].as_str().unwrap().to_owned();
    assert!(drained.iter().all(|record| listener_of(record) == "plain" || record["backend"] == *gone), "{drained:#?}");
    let kept = eventually("the others stay", || {
        let sessions = daemon.json("/v1/sessions");
        let rows = sessions.as_array()?.clone();
        rows.iter().all(|row| row["listener"] == "tls" && row["backend"] != *gone).then_some(rows.len())
    });
    assert!((1..20).contains(&kept), "{kept}");
    let lively =
        |mut stream: &TcpStream| stream.write_all(b"x").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|n| n == 1);
    assert_eq!(open.iter().filter(|stream| lively(stream)).count(), kept);
}

const KNOWN: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "a"
[[listener]]
name = "named"
bind = ["{ip}:443"]
pool = "named"
[pool.a]
balance = "round-robin"
passive.failures = 3
passive.eject = "1h"
passive.max-ejected = 0.9
connect-tries = 1
[[pool.a.backend]]
name = "good"
address = "{ip}:1001"
[[pool.a.backend]]
name = "off"
address = "{ip}:1002"
[[pool.a.backend]]
name = "draining"
address = "{ip}:1003"
[[pool.a.backend]]
name = "light"
address = "{ip}:1004"
[[pool.a.backend]]
name = "refuses"
address = "{ip}:1005"
[pool.checked]
backends = ["{ip}:1006", "{ip}:1007"]
[pool.checked.health]
check = "tcp"
interval = "100ms"
fast-interval = "50ms"
down-interval = "1h"
[pool.named]
backends = ["localhost:1001"]
"#;

/// What the daemon says of each backend, without what moves by itself.
fn known(daemon: &Daemon) -> BTreeMap<String, Value> {
    let rows = daemon.json("/v1/backends");
    let known = |row: &Value| {
        let path = format!("{}/{}", row["pool"].as_str().unwrap(), row["backend"].as_str().unwrap());
        let kept = [
            "state",
            "since",
            "weight",
            "effective_weight",
            "override",
            "ejection",
            "ejections",
            "total",
            "added",
            "drain",
            "connect_errors",
            "connect_ms",
            "session_ms",
            "resolved_from",
            "tier",
        ];
        (path, kept.iter().map(|key| (*key).to_owned()).map(|key| (key.clone(), row[&key].clone())).collect())
    };
    rows.as_array().unwrap().iter().map(known).collect()
}

#[test]
fn what_was_known_of_backends_is_known() {
    let address = own_loopback();
    let _backends: Vec<Backend> =
        [1001, 1002, 1003, 1004, 1006, 1008].map(|port| Backend::echo((address, port))).into();
    let daemon = Daemon::start_on(address, KNOWN, "workers = 2\n", |command| command);
    daemon.wait_for_state(&daemon.at(1007).to_string(), "down");
    // Every fifth is refused, until it is ejected.
    eventually("it is ejected", || {
        // A fifth of them are reset.
        let _ = TcpStream::connect(daemon.at(444)).and_then(|mut stream| {
            stream.write_all(b"x")?;
            stream.read(&mut [0])
        });
        (daemon.ask("backends", &json!({ "pool": "a" }))["result"][4]["state"] == "ejected").then_some(())
    });
    let mut held: Vec<TcpStream> = (0..8).map(|_| connect(daemon.at(444))).collect();
    for stream in &mut held {
        echoes(stream, b"held");
    }
    let held_there = daemon.ask("backends", &json!({ "pool": "a" }))["result"][2]["active"].as_u64().unwrap();
    assert!(held_there > 0);
    for words in [
        &["disable", "a/off", "--for", "1h"][..],
        &["drain", "a/draining", "--kill-after", "12s"],
        &["weight", "a/light", "7"],
        &["backend", "add", "a", &daemon.at(1008).to_string(), "--weight", "33"],
    ] {
        let said = daemon.cli(words);
        assert!(said.status.success(), "{said:?}");
    }
    let begun = Instant::now();
    eventually("the name is resolved", || {
        (!daemon.json("/v1/status")["names"][0]["addresses"].as_array()?.is_empty()).then_some(())
    });
    // Minutes begin anew while this runs, but never end otherwise than they did.
    let worst = || {
        let history = daemon.ask("history", &json!({}))["result"]["backends"].clone();
        let worst = |one: &Value| {
            let minutes = one["minutes"].as_array().unwrap().iter().filter_map(Value::as_str);
            (one["backend"].as_str().unwrap().to_owned(), minutes.map(str::to_owned).collect::<BTreeSet<_>>())
        };
        history.as_array().unwrap().iter().map(worst).collect::<BTreeMap<_, _>>()
    };
    let names = || daemon.json("/v1/status")["names"][0]["addresses"].clone();
    let events = || daemon.json("/v1/events").as_array().unwrap().len();
    let before = (known(&daemon), names(), events());
    let history =
        eventually("the minute has seen it", || Some(worst()).filter(|worst| worst["refuses"].contains("ejected")));
    let states: Vec<&Value> = before.0.values().map(|row| &row["state"]).collect();
    for state in ["up", "down", "ejected", "disabled", "draining", "unchecked"] {
        assert!(states.contains(&&json!(state)), "{state} in {states:?}");
    }
    for round in 0..2 {
        daemon.upgrade();
        let after = known(&daemon);
        for (path, row) in &before.0 {
            assert_eq!(after.get(path), Some(row), "{path}, upgrade {round}");
        }
        let now = worst();
        assert!(history.iter().all(|(name, states)| now[name].is_superset(states)), "{history:?}, then {now:?}");
        assert_eq!((after.len(), names(), events()), (before.0.len(), before.1.clone(), before.2), "upgrade {round}");
    }
    let ejections = |daemon: &Daemon| daemon.metric("sluice_backend_ejections_total{pool=\"a\",backend=\"refuses\"}");
    assert_eq!(ejections(&daemon), 1.0);
    // The plan of the drain goes on: what it had is ended when its time has come.
    let drained = ends(&daemon, held_there as usize, "drained");
    assert!(drained.iter().all(|record| record["backend"] == "draining"), "{drained:#?}");
    assert!(begun.elapsed() > Duration::from_millis(11_900), "{:?}", begun.elapsed());
}
