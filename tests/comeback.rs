//! Backends that come back and pools that are mostly ill: slow start, panic, and who serves when the others cannot.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::counting::Counting;
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback};

const CHECKED: &str = "[pool.p.health]\ncheck = \"tcp\"\ntimeout = \"5s\"\ninterval = \"50ms\"\nfast-interval = \"50ms\"\ndown-interval = \"50ms\"\nrise = 1\nfall = 1";

/// A tcp listener in front of a pool.
fn config(pool: &str) -> String {
    format!("[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n[pool.p]\n{pool}\n")
}

fn two(pool: &str) -> String {
    let backend = |name: &str, port| format!("[[pool.p.backend]]\nname = \"{name}\"\naddress = \"{{ip}}:{port}\"\n");
    config(&format!("{pool}\n{CHECKED}\n{}{}", backend("one", 1001), backend("two", 1002)))
}

fn start(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, "workers = 2\n", |command| command)
}

/// A client that a backend has greeted.
#[track_caller]
fn seated(at: SocketAddr) -> TcpStream {
    let mut stream = connect(at);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    stream
}

fn row(daemon: &Daemon, backend: &str) -> Value {
    let rows = daemon.json("/v1/backends");
    rows.as_array().unwrap().iter().find(|row| row["backend"] == backend).unwrap().clone()
}

fn weight(daemon: &Daemon, backend: &str) -> u64 {
    row(daemon, backend)["effective_weight"].as_u64().unwrap()
}

/// How many of `count` clients, who all stay, come to the second backend.
fn share_of_second(daemon: &Daemon, count: usize) -> usize {
    let before = row(daemon, "two")["total"].as_u64().unwrap();
    let held: Vec<TcpStream> = (0..count).map(|_| seated(daemon.at(443))).collect();
    let after = row(daemon, "two")["total"].as_u64().unwrap();
    drop(held);
    eventually("all are gone", || (daemon.json("/v1/status")["pools"][0]["active"] == 0).then_some(()));
    (after - before) as usize
}

#[test]
fn backend_that_comes_back_begins_with_a_tenth() {
    const WINDOW: Duration = Duration::from_secs(4);
    let ramp = |method: &str| {
        let address = own_loopback();
        let _one = Counting::start(&[(address, 1001).into()]);
        let two_ = Counting::start(&[(address, 1002).into()]);
        let daemon = start(address, &two(&format!("balance = \"{method}\"\nslow-start = \"4s\"")));
        let begun = Instant::now();
        // All are new: none begins slowly.
        assert_eq!([weight(&daemon, "one"), weight(&daemon, "two")], [100, 100], "{method}");
        assert!((20..=40).contains(&share_of_second(&daemon, 60)), "{method}");
        drop(two_);
        daemon.wait_for_state("two", "down");
        assert_eq!(weight(&daemon, "two"), 0, "{method}");
        // The other must have served for as long as a slow start takes.
        thread::sleep((WINDOW + Duration::from_millis(300)).saturating_sub(begun.elapsed()));
        let back = Instant::now();
        let _two = Counting::start(&[(address, 1002).into()]);
        daemon.wait_for_state("two", "up");
        let fresh = weight(&daemon, "two");
        // No more than the weight at the end of it gives, and what chance adds.
        let ramp = || (0.1 + 0.9 * back.elapsed().as_secs_f64() / WINDOW.as_secs_f64()).min(1.0);
        assert!(
            (10.0..=100.0 * ramp() + 1.0).contains(&(fresh as f64)),
            "{method}: {fresh} after {:?}",
            back.elapsed()
        );
        let share = share_of_second(&daemon, 60);
        let ramp = ramp();
        let most = 60.0 * ramp / (1.0 + ramp) + 8.0;
        assert!((1.0..=most).contains(&(share as f64)), "{method}: {share} of 60, at most {most}");
        eventually("all of its weight", || (weight(&daemon, "two") == 100).then_some(()));
        let took = back.elapsed();
        assert!(took + Duration::from_millis(100) >= WINDOW, "{method}: {took:?}");
        assert!((20..=40).contains(&share_of_second(&daemon, 60)), "{method}: in the end");
    };
    thread::scope(|scope| {
        for method in ["round-robin", "least-connections", "random-two"] {
            scope.spawn(move || ramp(method));
        }
    });
}

#[test]
fn nobody_begins_slowly_where_all_are_new() {
    let address = own_loopback();
    let backends = || Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
    let first = backends();
    let daemon = start(address, &two("slow-start = \"10s\""));
    drop(first);
    for name in ["one", "two"] {
        daemon.wait_for_state(name, "down");
    }
    let _second = backends();
    for name in ["one", "two"] {
        daemon.wait_for_state(name, "up");
    }
    assert_eq!([weight(&daemon, "one"), weight(&daemon, "two")], [100, 100]);
}

/// Four backends, each on an address of its own, whose checks go to a port of their own.
struct Four {
    addresses: Vec<Ipv4Addr>,
    _backends: Vec<Backend>,
    checks: Vec<Option<Backend>>,
    daemon: Daemon,
}

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

impl Four {
    fn start(threshold: f64) -> Self {
        Self::start_with(threshold, [""; 4])
    }

    /// With more keys for each backend.
    fn start_with(threshold: f64, more: [&str; 4]) -> Self {
        let addresses: Vec<Ipv4Addr> = NAMES.iter().map(|_| own_loopback()).collect();
        let serve = |(address, name): (&Ipv4Addr, &&'static str)| Backend::naming((*address, 1001), name);
        let backends = addresses.iter().zip(&NAMES).map(serve).collect();
        let checks = addresses.iter().map(|address| Some(check(*address))).collect();
        let mut pool = format!("balance = \"round-robin\"\npanic-threshold = {threshold:?}\n{CHECKED}\nport = 1002\n");
        for ((address, name), more) in addresses.iter().zip(NAMES).zip(more) {
            write!(pool, "[[pool.p.backend]]\nname = \"{name}\"\naddress = \"{address}:1001\"\n{more}\n").unwrap();
        }
        let daemon = start(own_loopback(), &config(&pool));
        Self { addresses, _backends: backends, checks, daemon }
    }

    fn fall_ill(&mut self, backend: usize) {
        self.checks[backend] = None;
        self.daemon.wait_for_state(NAMES[backend], "down");
    }

    fn recover(&mut self, backend: usize) {
        self.checks[backend] = Some(check(self.addresses[backend]));
        self.daemon.wait_for_state(NAMES[backend], "up");
    }

    /// Who serves.
    fn who(&self) -> BTreeSet<String> {
        let ask = |_| String::from_utf8(exchange(self.daemon.at(443), b"who?").unwrap()).unwrap();
        (0..24).map(ask).collect()
    }

    /// Changes of the pool as a whole.
    fn changes(&self) -> Vec<String> {
        let events = self.daemon.json("/v1/events");
        let of_pool = events.as_array().unwrap().iter().filter(|event| event["backend"].is_null());
        of_pool
            .map(|event| format!("{}: {}", event["to"].as_str().unwrap(), event["detail"].as_str().unwrap()))
            .collect()
    }

    fn ignores_health(&self) -> bool {
        let status = self.daemon.json("/v1/status")["pools"][0]["health_ignored"].as_bool().unwrap();
        let metric = self.daemon.metric("sluice_pool_health_ignored{pool=\"p\"}");
        assert_eq!(metric, f64::from(u8::from(status)), "status and metric");
        status
    }
}

fn check(address: Ipv4Addr) -> Backend {
    Backend::start((address, 1002), drop)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn health_is_ignored_while_too_little_is_healthy() {
    let mut four = Four::start(0.5);
    let sent = "sluice_pool_health_ignored_connections_total{pool=\"p\"}";
    assert_eq!(four.who(), set(&NAMES));
    four.fall_ill(0);
    four.fall_ill(1);
    assert_eq!(four.who(), set(&["three", "four"]), "half of it is not less than half");
    assert!(!four.ignores_health() && four.changes().is_empty(), "{:?}", four.changes());
    assert_eq!(four.daemon.metric(sent), 0.0);

    four.fall_ill(2);
    assert!(four.ignores_health());
    assert_eq!(four.changes(), ["panic: 25 % of the weight is healthy, panic-threshold is 50 %"]);
    assert_eq!(four.who(), set(&NAMES), "all get traffic");
    assert_eq!(four.daemon.metric(sent), 24.0);
    assert_eq!(weight(&four.daemon, "one"), 100);
    let route = String::from_utf8(four.daemon.cli(&["route", "--listener", "l"]).stdout).unwrap();
    assert!(route.contains("too little is healthy: health is ignored (panic-threshold)"), "{route}");

    // An operator's word counts all the same, and what he took away is not ill.
    assert!(four.daemon.cli(&["disable", "p/two"]).status.success());
    assert!(four.ignores_health(), "one of three");
    assert_eq!(four.who(), set(&["one", "three", "four"]));
    assert!(four.daemon.cli(&["disable", "p/one"]).status.success());
    assert!(!four.ignores_health(), "one of two");
    assert_eq!(four.who(), set(&["four"]));
    assert!(four.daemon.cli(&["enable", "p/one"]).status.success());
    assert!(four.daemon.cli(&["enable", "p/two"]).status.success());
    assert!(four.ignores_health());

    four.recover(0);
    assert!(!four.ignores_health());
    let changes = four.changes();
    assert_eq!(changes.last().unwrap(), "normal: 50 % of the weight is healthy, panic-threshold is 50 %");
    assert_eq!(four.who(), set(&["one", "four"]));
}

#[test]
fn backups_that_are_well_serve_instead_of_the_ill() {
    let mut four = Four::start_with(0.6, ["", "", "backup = true", "backup = true"]);
    four.fall_ill(0);
    assert!(four.ignores_health(), "half of the weight of those that are no backups");
    assert_eq!(four.who(), set(&["one", "two"]));
    four.fall_ill(1);
    assert!(!four.ignores_health(), "nobody is left, and the backups are well");
    assert_eq!(four.who(), set(&["three", "four"]));
    four.fall_ill(2);
    assert!(!four.ignores_health(), "one is enough");
    four.fall_ill(3);
    assert!(four.ignores_health(), "nobody is well");
    assert_eq!(four.who(), set(&["one", "two"]));
}

#[test]
fn nothing_is_ignored_at_the_start_and_by_a_reload() {
    let mut four = Four::start(1.0);
    assert!(four.changes().is_empty(), "{:?}", four.changes());
    // One more is asked for a first time by the reload.
    let fifth = own_loopback();
    let _check = check(fifth);
    let text = std::fs::read_to_string(four.daemon.dir().join("sluice.toml")).unwrap();
    let (_, body) = text.split_once("[[listener]]").unwrap();
    let more = format!("[[pool.p.backend]]\nname = \"five\"\naddress = \"{fifth}:1001\"\n");
    four.daemon.write_config(&format!("[[listener]]{body}{more}"), "workers = 2\n");
    four.daemon.reload();
    four.daemon.wait_for_state("five", "up");
    assert!(four.changes().is_empty(), "{:?}", four.changes());
    four.fall_ill(3);
    assert_eq!(four.changes(), ["panic: 80 % of the weight is healthy, panic-threshold is 100 %"]);
}

#[test]
fn backups_serve_when_the_others_are_full_and_weight_zero_never() {
    let address = own_loopback();
    let backends = Counting::start(&[1001, 1002, 1003].map(|port| (address, port).into()));
    let backend = |port, more| format!("[[pool.p.backend]]\naddress = \"{{ip}}:{port}\"\n{more}\n");
    let body = [
        config("max-connections = 5"),
        backend(1001, "max-connections = 2"),
        backend(1002, "backup = true\nmax-connections = 2"),
        backend(1003, "weight = 0"),
    ];
    let daemon = start(address, &body.concat());
    let open = || [0, 1, 2].map(|backend| backends.of(backend).open());
    let mut held: Vec<TcpStream> = (0..2).map(|_| seated(daemon.at(443))).collect();
    assert_eq!(open(), [2, 0, 0]);
    held.extend((0..2).map(|_| seated(daemon.at(443))));
    assert_eq!(open(), [2, 2, 0]);
    // Nobody takes the fifth, though the pool has a place.
    let fifth = TcpStream::connect(daemon.at(443)).and_then(|mut fifth| fifth.read(&mut [0]));
    assert!(fifth.is_err(), "{fifth:?}");
    let record = eventually("refused", || daemon.records().into_iter().find(|record| record["end"] == "limit_reached"));
    assert!(record["detail"].as_str().unwrap().contains("every backend"), "{record}");
    assert_eq!(open(), [2, 2, 0]);
    drop(held);
}
