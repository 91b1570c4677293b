//! `sluice route` on the running daemon: which backends would be tried, in order, and why the others would not.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use support::counting::Counting;
use support::hello::client_hello;
use support::{Backend, Daemon, connect, eventually, own_loopback};

fn start(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, "workers = 2\n", |command| command)
}

/// What `sluice route` prints, with `TIME` for times and `IP` for the test's address.
fn route(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(&[&["route", "--listener", "l"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let is_time = |word: &str| word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(next) = rest.chars().next() {
        match rest.get(..20) {
            Some(word) if is_time(word) => {
                shown.push_str("TIME");
                rest = &rest[20..];
            }
            _ => {
                shown.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    shown.replace(&daemon.address.to_string(), "IP")
}

#[track_caller]
fn prints(daemon: &Daemon, arguments: &[&str], expected: &str) {
    let shown = route(daemon, arguments);
    assert!(shown.trim() == expected.trim(), "printed:\n{shown}\nexpected:\n{expected}\n");
}

/// A client that stays; the letter of its backend.
#[track_caller]
fn seated(daemon: &Daemon, sni: Option<&str>) -> (TcpStream, char) {
    let mut stream = connect(daemon.at(443));
    stream.write_all(&client_hello(sni, &[])).unwrap();
    let mut letter = [0];
    stream.read_exact(&mut letter).unwrap();
    assert!(letter[0].is_ascii_lowercase(), "{letter:?}");
    (stream, letter[0].into())
}

/// A tls listener in front of backends with names and keys, on 1001 and so on.
fn config(pool: &str, backends: &[(&str, &str)]) -> String {
    let mut body = format!("[[listener]]\nname = \"l\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n[pool.p]\n{pool}\n");
    for (at, (name, keys)) in backends.iter().enumerate() {
        write!(body, "[[pool.p.backend]]\nname = \"{name}\"\naddress = \"{{ip}}:{}\"\n{keys}\n", 1001 + at).unwrap();
    }
    body
}

fn command(daemon: &Daemon, word: &str, backend: &str) {
    let output = daemon.cli(&[word, &format!("p/{backend}")]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_backend_that_is_passed_over_has_its_reason() {
    let address = own_loopback();
    let _backends = Counting::start(&[1001, 1002, 1003, 1004, 1005, 1006].map(|port| (address, port).into()));
    let backends = [
        ("free", ""),
        ("full", "max-connections = 2"),
        ("drained", ""),
        ("disabled", ""),
        ("spare", "backup = true"),
        ("nothing", "weight = 0"),
        // Nobody listens where it should.
        ("failed", ""),
        ("later", "weight = 50"),
    ];
    let mut body = config("passive.failures = 1\nconnect-tries = 2", &backends);
    body = body.replace(":1008\"", ":1001\"");
    let daemon = start(address, &body);
    for backend in ["free", "drained", "disabled", "later"] {
        command(&daemon, "disable", backend);
    }
    let mut held = Vec::new();
    // One of them meets the one that fails, which costs it its traffic.
    eventually("two sessions at the second", || {
        held.push(seated(&daemon, None));
        daemon.json("/v1/backends").as_array()?.iter().find(|row| row["active"] == 2).map(drop)
    });
    daemon.wait_for_state("failed", "ejected");
    command(&daemon, "enable", "free");
    command(&daemon, "enable", "later");
    command(&daemon, "drain", "drained");
    prints(
        &daemon,
        &[],
        "
listener  l
rule      default
pool      p
balance   least-connections
backend   free
then      later
not       full: at its limit: 2 of 2 connections
not       drained: draining by an operator's word since TIME
not       disabled: disabled by an operator's word since TIME
not       spare: backup
not       nothing: weight 0
not       failed: ejected until TIME: failures in a row, the last: connect to IP:1007: Connection refused (os error 111); for 30 s, ejection 1 in a row
not       later: next in line: 0 connections at weight 50
",
    );
    command(&daemon, "disable", "free");
    command(&daemon, "disable", "later");
    let shown = route(&daemon, &[]);
    assert!(shown.contains("backend   spare\nnot       free: disabled by"), "{shown}");
    drop(held);
}

#[test]
fn backend_that_is_down_is_told_with_its_check() {
    let address = own_loopback();
    let _one = Backend::naming((address, 1001), "one");
    let health = "[pool.p.health]\ncheck = \"tcp\"\ninterval = \"50ms\"\nfall = 1";
    let daemon = start(address, &config(health, &[("one", ""), ("two", "")]));
    daemon.wait_for_state("two", "down");
    prints(
        &daemon,
        &[],
        "
listener  l
rule      default
pool      p
balance   least-connections
backend   one
not       two: down since TIME: connect to IP:1002: Connection refused (os error 111)
",
    );
    command(&daemon, "disable", "one");
    let shown = route(&daemon, &[]);
    assert!(shown.contains("refused   no_backend\nreason    no backend of pool `p` takes connections\n"), "{shown}");
}

#[test]
fn full_pools_and_lines_are_told() {
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into()]);
    let cases = [
        ("max-connections = 1", "", "refused   limit_reached\nreason    pool `p` has its 1 connections\n"),
        ("", "max-connections = 1", "refused   limit_reached\nreason    no backend of pool `p` has a place left\n"),
        (
            "max-connections = 1\nqueue-timeout = \"20s\"",
            "",
            "reason    pool `p` has its 1 connections: it waits behind 1 others, for at most 20000 ms\n",
        ),
        (
            "queue-timeout = \"20s\"",
            "max-connections = 1",
            "reason    no backend of pool `p` has a place left: it waits behind 1 others, for at most 20000 ms\n",
        ),
    ];
    for (pool, backend, expected) in cases {
        let daemon = start(address, &config(pool, &[("b", backend)]));
        assert!(route(&daemon, &[]).contains("backend   b\n"), "{pool} {backend}");
        let (_held, _) = seated(&daemon, None);
        let _waiting = pool.contains("queue").then(|| {
            let mut stream = connect(daemon.at(443));
            stream.write_all(&client_hello(None, &[])).unwrap();
            eventually("it waits", || (daemon.json("/v1/status")["pools"][0]["waiting"] == 1).then_some(()));
            stream
        });
        let shown = route(&daemon, &[]);
        assert!(shown.contains(expected) && !shown.contains("backend   b\n"), "{pool} {backend}: {shown}");
        // As it is for a client.
        let status = daemon.cli(&["route", "--listener", "l"]).status.code();
        assert_eq!(status, Some(if pool.contains("queue") { 0 } else { 6 }));
    }
}

const HASHED: &str = "balance = \"consistent-hash\"\n";
const THREE: [(&str, &str); 3] = [("a", ""), ("b", ""), ("c", "")];

#[test]
fn order_of_a_hashed_pool_is_what_clients_meet() {
    let address = own_loopback();
    let _backends = Counting::start(&[1001, 1002, 1003].map(|port| (address, port).into()));
    for table in ["maglev", "ring"] {
        let hash = format!("{HASHED}hash = {{ key = [\"sni\"], table = \"{table}\", bounded-load = \"off\" }}");
        let daemon = start(address, &config(&hash, &THREE));
        for name in (0..12).map(|number| format!("name{number}.test")) {
            let answer = daemon.ask("route", &serde_json::json!({ "listener": "l", "sni": name }));
            let order: Vec<&str> =
                answer["result"]["order"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
            assert_eq!(order.len(), 3, "{answer:#}");
            for next in &order {
                assert_eq!(seated(&daemon, Some(&name)).1.to_string(), *next, "{name} by {table}: {order:?}");
                command(&daemon, "disable", next);
            }
            for backend in &order {
                command(&daemon, "enable", backend);
            }
        }
    }
}

#[test]
fn keys_bounds_and_their_absence_are_told() {
    let address = own_loopback();
    let _backends = Counting::start(&[1001, 1002, 1003].map(|port| (address, port).into()));
    let daemon = start(address, &config(&format!("{HASHED}hash.key = [\"sni\"]"), &THREE));
    let name = Some("busy.test");
    let held: Vec<(TcpStream, char)> = (0..4).map(|_| seated(&daemon, name)).collect();
    let owner = held[0].1;
    let shown = route(&daemon, &["--sni", "busy.test"]);
    // Of five connections each may have 1.25 x 5 / 3, rounded up: 3. Of four it was 2.
    let has = held.iter().filter(|(_, letter)| *letter == owner).count();
    assert_eq!(has, 2, "of {held:?}");
    assert!(shown.contains(&format!("backend   {owner}\n")), "{shown}");
    let more = seated(&daemon, name);
    assert_eq!(more.1, owner);
    let shown = route(&daemon, &["--sni", "busy.test"]);
    let bound = format!("not       {owner}: above the load bound: 3 connections, at most 3 with this one\n");
    assert!(shown.contains(&bound) && shown.contains("key       sni = "), "{shown}");
    let next = seated(&daemon, name);
    assert!(shown.contains(&format!("backend   {}\n", next.1)), "{} in {shown}", next.1);

    let shown = route(&daemon, &[]);
    assert!(shown.contains("key       sni: nothing to hash, by least connections\n"), "{shown}");
}

#[test]
fn destination_is_hashed_as_far_as_it_is_known() {
    let address = own_loopback();
    let _backends = Counting::start(&[1001, 1002, 1003].map(|port| (address, port).into()));
    let one = config(&format!("{HASHED}hash = {{ key = [\"destination\"], bounded-load = \"off\" }}"), &THREE);
    let daemon = start(address, &one);
    let (_held, letter) = seated(&daemon, None);
    let shown = route(&daemon, &[]);
    assert!(shown.contains("key       destination = ") && shown.contains(&format!("backend   {letter}\n")), "{shown}");
    let daemon = start(address, &one.replace("[\"{ip}:443\"]", "[\"{ip}:453\", \"{ip}:454\"]"));
    let shown = route(&daemon, &[]);
    assert!(shown.contains("key       destination: depends on the address that is connected to\n"), "{shown}");
}
