//! Health and balancing on live traffic: who gets connections when backends die, return, or were never there.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Backend, Daemon, connect, deaf, eventually, exchange, own_loopback};

/// A tcp listener in front of three backends with names; `pool` is added to the pool.
fn config(pool: &str) -> String {
    format!(
        r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{{ip}}:443"]
pool = "p"
[pool.p]
{pool}
[pool.p.health]
check = "tcp"
interval = "100ms"
fall = 2
"#
    )
}

const THREE: &str = "backends = [\"{ip}:1001\", \"{ip}:1002\", \"{ip}:1003\"]";

fn three(address: Ipv4Addr) -> Vec<Backend> {
    let name = |(port, name)| Backend::naming((address, port), name);
    [(1001, "one"), (1002, "two"), (1003, "three")].into_iter().map(name).collect()
}

/// How often each backend answered `count` clients.
fn tally(daemon: &Daemon, count: usize) -> HashMap<String, usize> {
    let mut tally = HashMap::new();
    for _ in 0..count {
        let answer = String::from_utf8(exchange(daemon.at(443), b"who?").unwrap()).unwrap();
        *tally.entry(answer).or_default() += 1;
    }
    tally
}

fn answer_for(target: SocketAddr, source: Ipv4Addr) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&target.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
    stream.write_all(b"who?").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let address = own_loopback();
    let _backends = three(address);
    let pool = r#"
balance = "round-robin"
backends = ["{ip}:1001"]
[[pool.p.backend]]
address = "{ip}:1002"
weight = 200
[[pool.p.backend]]
address = "{ip}:1003"
weight = 0
"#;
    let daemon = Daemon::start_on(address, &config(pool), "workers = 1\n", |command| command);
    let tally = tally(&daemon, 30);
    assert_eq!(tally, HashMap::from([("one".to_owned(), 10), ("two".to_owned(), 20)]));
}

#[test]
fn least_connections_prefers_the_idle_one() {
    let address = own_loopback();
    let _backends = three(address);
    let daemon = Daemon::start_on(address, &config(THREE), "", |command| command);
    // Sessions that are only connected count as well: from the pick on.
    let held: Vec<TcpStream> = (0..30).map(|_| connect(daemon.at(443))).collect();
    eventually("thirty sessions, ten each", || {
        let list = daemon.json("/v1/backends");
        list.as_array()?.iter().all(|row| row["active"] == 10).then_some(())
    });
    drop(held);
    eventually("all given back", || {
        let list = daemon.json("/v1/backends");
        list.as_array()?.iter().all(|row| row["active"] == 0).then_some(())
    });
}

#[test]
fn consistent_hash_keeps_a_source_and_moves_only_those_of_a_dead_backend() {
    let address = own_loopback();
    let mut backends = three(address);
    // Tables are made of names: with addresses of the process's own, shares would be another draw in each run.
    let named = |(port, name)| format!("[[pool.p.backend]]\nname = \"{name}\"\naddress = \"{{ip}}:{port}\"\n");
    let named: String = [(1001, "one"), (1002, "two"), (1003, "three")].map(named).concat();
    let pool = format!("balance = \"consistent-hash\"\nhash.bounded-load = \"off\"\n{named}");
    let daemon = Daemon::start_on(address, &config(&pool), "", |command| command);
    let sources: Vec<Ipv4Addr> = (1..=60).map(|last| Ipv4Addr::new(127, 200, 7, last)).collect();
    let ask = || sources.iter().map(|source| answer_for(daemon.at(443), *source)).collect::<Vec<_>>();
    let before = ask();
    for name in ["one", "two", "three"] {
        let share = before.iter().filter(|answer| *answer == name).count();
        assert!((8..=32).contains(&share), "{name} has {share} of 60");
    }
    assert_eq!(ask(), before, "the same again");
    backends[1].stop();
    daemon.wait_for_state("two", "down");
    for (old, new) in before.iter().zip(ask()) {
        if old == "two" { assert_ne!(new, "two") } else { assert_eq!(new, *old) }
    }
    backends[1] = Backend::naming((address, 1002), "two");
    daemon.wait_for_state("two", "up");
    assert_eq!(ask(), before, "they come back");
}

#[test]
fn failover_hides_a_backend_that_refuses() {
    let address = own_loopback();
    let mut backends = three(address);
    // No check will notice in time: only live traffic does.
    let config = config(THREE).replace("100ms", "1h");
    let daemon = Daemon::start_on(address, &config, "", |command| command);
    backends[0].stop();
    let answers = tally(&daemon, 40);
    assert!(!answers.contains_key("one") && answers.len() == 2, "{answers:?}");
    daemon.wait_for_state(&daemon.at(1001).to_string(), "down");
    daemon.wait_for_records(40);
    // The first refusal has it checked at once, and both together bring it down: then nobody has to be moved on.
    tally(&daemon, 20);
    let tries: Vec<u64> = daemon.wait_for_records(60).iter().map(|record| record["tries"].as_u64().unwrap()).collect();
    assert!(tries[..40].contains(&2), "somebody was moved on");
    assert!(tries[40..].iter().all(|tries| *tries == 1), "{tries:?}");
    let errors =
        format!("sluice_backend_connect_errors_total{{pool=\"p\",backend=\"{}\",reason=\"refused\"}}", daemon.at(1001));
    assert!(daemon.metric(&errors) >= 1.0);
}

#[test]
fn backend_that_was_never_up_gets_no_traffic_until_it_answers() {
    let address = own_loopback();
    let _one = Backend::naming((address, 1001), "one");
    let daemon = Daemon::start_on(address, &config(THREE), "", |command| command);
    assert_eq!(tally(&daemon, 20), HashMap::from([("one".to_owned(), 20)]));
    assert!(daemon.wait_for_records(20).iter().all(|record| record["tries"] == 1), "nobody was tried in vain");
    let _two = Backend::naming((address, 1002), "two");
    daemon.wait_for_state(&daemon.at(1002).to_string(), "up");
    assert!(tally(&daemon, 20).contains_key("two"));
}

#[test]
fn check_may_go_to_another_address_and_port() {
    let (address, elsewhere) = (own_loopback(), own_loopback());
    let backend = Backend::naming((address, 1001), "one");
    let checked = Backend::naming((elsewhere, 1002), "checked");
    let config = config("backends = [\"{ip}:1001\"]") + &format!("address = \"{elsewhere}\"\nport = 1002\n");
    let daemon = Daemon::start_on(address, &config, "", |command| command);
    daemon.wait_for_state(&daemon.at(1001).to_string(), "up");
    assert!(checked.accepted() > 0);
    assert_eq!(backend.accepted(), 0, "no check comes here");
    assert_eq!(tally(&daemon, 3), HashMap::from([("one".to_owned(), 3)]));
    drop(checked);
    daemon.wait_for_state(&daemon.at(1001).to_string(), "down");
}

#[test]
fn backup_is_used_only_without_the_others() {
    let address = own_loopback();
    let mut backends = three(address);
    let pool = r#"
backends = ["{ip}:1001"]
[[pool.p.backend]]
address = "{ip}:1003"
backup = true
"#;
    let daemon = Daemon::start_on(address, &config(pool), "", |command| command);
    assert_eq!(tally(&daemon, 10), HashMap::from([("one".to_owned(), 10)]));
    backends[0].stop();
    assert_eq!(tally(&daemon, 10), HashMap::from([("three".to_owned(), 10)]));
    backends[0] = Backend::naming((address, 1001), "one");
    daemon.wait_for_state(&daemon.at(1001).to_string(), "up");
    assert_eq!(tally(&daemon, 10), HashMap::from([("one".to_owned(), 10)]));
}

#[test]
fn sessions_of_a_backend_that_goes_down_are_closed_on_request() {
    let address = own_loopback();
    let listening = std::net::TcpListener::bind((address, 1001)).unwrap();
    let pool = "backends = [\"{ip}:1001\"]\non-down = \"close\"";
    let daemon = Daemon::start_on(address, &config(pool), "", |command| command);
    let mut session = connect(daemon.at(443));
    eventually("established", || (daemon.metric("sluice_pool_connections_total{pool=\"p\"}") == 1.0).then_some(()));
    // Connections in its queue stay open on the backend's side; only new ones are refused.
    let accepted: Vec<_> = std::iter::from_fn(|| {
        listening.set_nonblocking(true).unwrap();
        listening.accept().ok()
    })
    .collect();
    drop(listening);
    assert!(session.read(&mut [0; 1]).is_err(), "reset");
    drop(accepted);
    let record = daemon.wait_for_records(1)[0].clone();
    assert_eq!((&record["end"], &record["blame"]), (&"backend_down".into(), &"backend".into()), "{record}");
}

#[test]
fn dead_backend_that_does_not_answer_costs_one_connect_timeout() {
    let address = own_loopback();
    let _one = Backend::naming((address, 1001), "one");
    let _silent = deaf((address, 1002));
    let body = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
balance = "round-robin"
connect-timeout = "300ms"
backends = ["{ip}:1002", "{ip}:1001"]
"#;
    let daemon = Daemon::start_on(address, body, "workers = 1\n", |command| command);
    let begun = Instant::now();
    assert_eq!(exchange(daemon.at(443), b"who?").unwrap(), b"one");
    let took = begun.elapsed();
    assert!((Duration::from_millis(295)..support::DEADLINE).contains(&took), "{took:?}");
    let record = daemon.wait_for_records(1)[0].clone();
    assert_eq!((&record["tries"], &record["end"]), (&2.into(), &"done".into()), "{record}");
}

#[test]
fn silent_sessions_end_at_their_timeouts_and_busy_ones_do_not() {
    let address = own_loopback();
    let _echo = Backend::echo((address, 1001));
    let body = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
idle-timeout = "2s"
half-close-timeout = "150ms"
[pool.p]
backends = ["{ip}:1001"]
"#;
    let daemon = Daemon::start_on(address, body, "", |command| command);
    let mut session = connect(daemon.at(443));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        session.write_all(b"x").unwrap();
        session.read_exact(&mut [0; 1]).unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    let quiet = Instant::now();
    assert!(session.read(&mut [0; 1]).is_err(), "reset");
    let took = quiet.elapsed();
    assert!((1500..7000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "idle_timeout");
}

#[test]
fn half_closed_session_ends_when_the_other_side_stays_silent() {
    let address = own_loopback();
    // Reads to the end and then neither answers nor closes.
    let _mute = Backend::start((address, 1001), |mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        std::thread::sleep(Duration::from_secs(5));
    });
    let body = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
half-close-timeout = "150ms"
[pool.p]
backends = ["{ip}:1001"]
"#;
    let daemon = Daemon::start_on(address, body, "", |command| command);
    let mut session = connect(daemon.at(443));
    session.write_all(b"x").unwrap();
    session.shutdown(std::net::Shutdown::Write).unwrap();
    let begun = Instant::now();
    assert!(session.read(&mut [0; 1]).is_err(), "reset, not a clean end");
    assert!(begun.elapsed() < Duration::from_secs(4), "before the backend closes");
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "half_close_timeout");
}

#[test]
fn a_backend_that_is_ill_from_the_beginning_is_an_event_with_its_evidence() {
    let address = own_loopback();
    let _up = Backend::naming((address, 1001), "one");
    let daemon = Daemon::start_on(address, &config("backends = [\"{ip}:1001\", \"{ip}:1002\"]"), "", |command| command);
    daemon.wait_for_state(&daemon.at(1002).to_string(), "down");
    let events = daemon.json("/v1/events");
    let dead = daemon.at(1002).to_string();
    let of_it: Vec<_> = events.as_array().unwrap().iter().filter(|event| event["backend"] == *dead).collect();
    let [event] = of_it[..] else { panic!("one event, not {events:#}") };
    assert_eq!((&event["from"], &event["to"], &event["by"]), (&"unknown".into(), &"down".into(), &"check".into()));
    assert_eq!((&event["reason"], &event["evidence"][0]["phase"]), (&"refused".into(), &"connect".into()), "{event:#}");
    let told =
        format!("\"backend\":\"{dead}\",\"from\":\"unknown\",\"to\":\"down\",\"by\":\"check\",\"reason\":\"refused\"");
    daemon.wait_for_log(&told);
    let log = daemon.log();
    let line: Value = serde_json::from_str(log.lines().find(|line| line.contains(&told)).unwrap()).unwrap();
    assert_eq!(line["detail"], event["detail"], "{line}");
    // Each phase with its time and what was seen.
    let seen = line["seen"].as_str().unwrap();
    assert!(seen.starts_with("connect ") && seen.contains(" ms"), "{line}");
}
