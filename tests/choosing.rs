//! consistent-hash on live traffic: what is hashed, what has nothing to hash, tables that agree, and bounded loads.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;
use support::counting::Counting;
use support::hello::client_hello;
use support::proxy::connect_from;
use support::{Backend, Daemon, eventually, own_loopback};

/// Ports of the listener, and keys of each kind: all on two of three backends is 1 in 10 000 million.
const PORTS: u16 = 60;

/// A tls listener on 440 and the ports behind it, before backends with names and weights on 1001 and so on.
fn config(pool: &str, backends: &[(&str, u32)]) -> String {
    let bind: Vec<String> = (440..440 + PORTS).map(|port| format!("\"{{ip}}:{port}\"")).collect();
    let mut body =
        format!("[[listener]]\nname = \"l\"\nbind = [{}]\npool = \"p\"\n[pool.p]\n{pool}\n", bind.join(", "));
    for (name, weight) in backends {
        let port = 1001 + name.bytes().next().map_or(0, |letter| u16::from(letter - b'a'));
        let address = format!("address = \"{{ip}}:{port}\"");
        write!(body, "[[pool.p.backend]]\nname = \"{name}\"\nweight = {weight}\n{address}\n").unwrap();
    }
    body
}

const THREE: [(&str, u32); 3] = [("a", 100), ("b", 100), ("c", 100)];

fn hashed(hash: &str) -> String {
    format!("balance = \"consistent-hash\"\n{hash}")
}

fn three(address: Ipv4Addr) -> Counting {
    Counting::start(&[1001, 1002, 1003].map(|port| (address, port).into()))
}

fn start(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, "workers = 2\n", |command| command)
}

/// A client and all that a key could be made of.
struct Who {
    port: u16,
    source: Ipv4Addr,
    sni: String,
    alpn: String,
}

/// A client of its own in everything.
fn somebody(number: u8) -> Who {
    Who {
        port: 440 + u16::from(number) % PORTS,
        source: Ipv4Addr::new(127, 210, number, 1 + number),
        sni: format!("name{number}.test"),
        alpn: format!("protocol{number}"),
    }
}

/// Connects, and waits for the backend's letter.
#[track_caller]
fn seated(address: Ipv4Addr, who: &Who) -> (TcpStream, char) {
    let mut stream = connect_from(who.source, SocketAddr::from((address, who.port)));
    stream.write_all(&client_hello(Some(&who.sni), &[&who.alpn])).unwrap();
    let letter = letter(&mut stream);
    (stream, letter)
}

#[track_caller]
fn letter(stream: &mut TcpStream) -> char {
    let mut letter = [0];
    stream.read_exact(&mut letter).unwrap();
    assert!(letter[0].is_ascii_lowercase(), "{letter:?}");
    letter[0].into()
}

#[test]
fn key_alone_decides() {
    // What of client `other` is made as it is of client `one`, so that the key is the same and all else is not.
    type Copy = fn(&mut Who, &Who);
    let keys: [(&str, Copy); 6] = [
        ("\"source\"", |other, one| other.source = one.source),
        ("\"source-prefix\"", |other, one| {
            let [a, b, c, _] = one.source.octets();
            other.source = Ipv4Addr::new(a, b, c, other.source.octets()[3]);
        }),
        ("\"sni\"", |other, one| other.sni = one.sni.to_uppercase()),
        ("\"alpn\"", |other, one| other.alpn.clone_from(&one.alpn)),
        ("\"destination\"", |other, one| other.port = one.port),
        ("\"sni\", \"source\"", |other, one| {
            other.source = one.source;
            other.sni.clone_from(&one.sni);
        }),
    ];
    for (key, copy) in keys {
        let address = own_loopback();
        let _backends = three(address);
        for table in ["maglev", "ring"] {
            let daemon = start(
                address,
                &config(
                    &hashed(&format!("hash = {{ key = [{key}], table = \"{table}\", bounded-load = \"off\" }}")),
                    &THREE,
                ),
            );
            let mut letters = BTreeSet::new();
            for number in 0..PORTS as u8 {
                let one = somebody(number);
                let (_, expected) = seated(address, &one);
                letters.insert(expected);
                for other in [PORTS as u8 + number, 3 * PORTS as u8 + number + 1] {
                    let mut other = somebody(other);
                    copy(&mut other, &one);
                    assert_eq!(seated(address, &other).1, expected, "client {number} by [{key}]");
                }
            }
            assert_eq!(letters.len(), 3, "[{key}] spreads: {letters:?}");
            assert_eq!(daemon.metric("sluice_pool_keyless_total{pool=\"p\"}"), 0.0);
        }
    }
}

#[test]
fn connections_with_nothing_to_hash_go_by_least_connections() {
    for (key, alpn) in [("\"sni\"", &["h2"][..]), ("\"alpn\", \"sni\"", &[])] {
        let address = own_loopback();
        let backends = three(address);
        let daemon = start(address, &config(&hashed(&format!("hash.key = [{key}]")), &THREE));
        let held: Vec<TcpStream> = (0..30)
            .map(|_| {
                let mut stream = support::connect(daemon.at(440));
                stream.write_all(&client_hello(None, alpn)).unwrap();
                letter(&mut stream);
                stream
            })
            .collect();
        assert_eq!([0, 1, 2].map(|backend| backends.of(backend).open()), [10, 10, 10]);
        assert_eq!(daemon.metric("sluice_pool_keyless_total{pool=\"p\"}"), 30.0);
        drop(held);
    }
}

#[test]
fn tables_agree_when_their_members_do() {
    let digest = |pool: &str, backends: &[(&str, u32)]| -> Value {
        let daemon = start(own_loopback(), &config(pool, backends));
        daemon.json("/v1/status")["pools"][0]["table"].clone()
    };
    let plain = digest(&hashed(""), &THREE);
    assert_eq!(plain.as_str().map(str::len), Some(16), "{plain}");
    assert_eq!(digest(&hashed(""), &[("c", 100), ("a", 100), ("b", 100)]), plain, "in another order");
    assert_eq!(digest(&hashed("hash.bounded-load = \"off\""), &THREE), plain, "the bound is not of the table");
    assert_ne!(digest(&hashed(""), &[("a", 100), ("b", 99), ("c", 100)]), plain, "another weight");
    assert_ne!(digest(&hashed(""), &[("a", 100), ("b", 100), ("d", 100)]), plain, "another member");
    assert_ne!(digest(&hashed("hash.table = \"ring\""), &THREE), plain, "another table");
    assert_eq!(digest("balance = \"least-connections\"", &THREE), Value::Null);
}

#[test]
fn instances_that_agree_send_clients_to_the_same_backend() {
    let orders = [THREE, [("b", 100), ("c", 100), ("a", 100)]];
    let instances = orders.map(|order| {
        let address = own_loopback();
        (
            address,
            three(address),
            start(address, &config(&hashed("hash = { key = [\"sni\"], bounded-load = \"off\" }"), &order)),
        )
    });
    for number in 0..40 {
        let [one, other] = [&instances[0], &instances[1]].map(|(address, ..)| seated(*address, &somebody(number)).1);
        assert_eq!(one, other, "client {number}");
    }
}

#[test]
fn only_keys_of_a_dead_backend_move_and_they_come_back() {
    for table in ["maglev", "ring"] {
        let address = own_loopback();
        let _rest = Counting::start(&[(address, 1001).into()]);
        // It greets as the others would: with its letter.
        let backend = |port, letter| Backend::naming((address, port), letter);
        let (mut dead, _last) = (backend(1002, "b"), backend(1003, "c"));
        let pool = hashed(&format!(
            "hash = {{ key = [\"sni\"], table = \"{table}\", bounded-load = \"off\" }}\n[pool.p.health]\ncheck = \"tcp\"\ninterval = \"50ms\"\ndown-interval = \"50ms\""
        ));
        let daemon = start(address, &config(&pool, &THREE));
        let ask = || (0..60).map(|number| seated(address, &somebody(number)).1).collect::<String>();
        let before = ask();
        assert!(['a', 'b', 'c'].iter().all(|letter| before.matches(*letter).count() >= 6), "{before}");
        dead.stop();
        daemon.wait_for_state("b", "down");
        for (old, new) in before.chars().zip(ask().chars()) {
            if old == 'b' { assert_ne!(new, 'b') } else { assert_eq!(new, old, "{table}") }
        }
        dead = backend(1002, "b");
        daemon.wait_for_state("b", "up");
        assert_eq!(ask(), before, "{table}");
        drop(dead);
    }
}

#[test]
fn bounded_load_holds_for_one_busy_key() {
    let address = own_loopback();
    let backends = three(address);
    let weights = [("a", 100), ("b", 200), ("c", 100)];
    for (bound, factor) in [("1.25", 1.25), ("1.0", 1.0), ("2.0", 2.0)] {
        let daemon = start(
            address,
            &config(&hashed(&format!("hash = {{ key = [\"sni\"], bounded-load = {bound} }}")), &weights),
        );
        let mut held = Vec::new();
        for number in 1..=80 {
            held.push(seated(address, &somebody(7)).0);
            for (backend, (name, weight)) in weights.iter().enumerate() {
                let (open, share) = (backends.of(backend).open(), f64::from(number * weight) / 400.0);
                assert!(f64::from(open) <= (factor * share).ceil(), "{name} has {open} of {number} with {bound}");
            }
        }
        // Whoever owns the key has all that it may have.
        let [a, b, c] = [0, 1, 2].map(|backend| f64::from(backends.of(backend).open()));
        let owned = [a / 20.0, b / 40.0, c / 20.0].into_iter().fold(0.0, f64::max);
        assert!(owned >= factor - 0.05, "{a} {b} {c} with {bound}");
        drop(held);
        eventually("all are gone", || (backends.all().open() == 0).then_some(()));
        drop(daemon);
    }
}

#[test]
fn load_without_a_bound_follows_the_key() {
    let address = own_loopback();
    let backends = three(address);
    let daemon = start(address, &config(&hashed("hash = { key = [\"sni\"], bounded-load = \"off\" }"), &THREE));
    let held: Vec<_> = (0..40).map(|_| seated(address, &somebody(7))).collect();
    let most = [0, 1, 2].map(|backend| backends.of(backend).open()).into_iter().max();
    assert_eq!(most, Some(40));
    drop((held, daemon));
}

#[test]
fn pool_for_postgresql_is_bounded_only_when_asked() {
    // Cancel requests that are encrypted must find the server of their session: the source alone decides.
    let cases = [
        ("", false),
        ("hash.key = [\"source\"]", false),
        ("balance = \"consistent-hash\"", false),
        ("hash.bounded-load = 1.25", true),
    ];
    for (balance, is_bounded) in cases {
        let address = own_loopback();
        let backends = three(address);
        let body = config(balance, &THREE).replace("name = \"l\"", "name = \"l\"\nprotocol = \"postgres\"");
        let daemon = start(address, &body);
        assert_eq!(daemon.json("/v1/status")["pools"][0]["balance"], "consistent-hash");
        let who = Who { alpn: "postgresql".to_owned(), ..somebody(7) };
        let held: Vec<_> = (0..30).map(|_| seated(address, &who)).collect();
        let most = [0, 1, 2].map(|backend| backends.of(backend).open()).into_iter().max().unwrap();
        // 1.25 of a third of them, rounded up.
        assert_eq!(most, if is_bounded { 13 } else { 30 }, "with {balance:?}");
        drop(held);
    }
}
