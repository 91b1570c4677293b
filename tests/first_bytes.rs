//! Listeners that read hellos and are spoken to by something else: routes by first bytes, decided only when certain; and
//! the list of what was refused, with the pieces in which it came.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Instant;

use serde_json::{Value, json};
use sluice::decide::hello::MOST_TO_RECOGNISE;
use support::hello::{client_hello, message, records};
use support::proxy::{Witness, connect_from, finish, wait_until_read};
use support::{Backend, Daemon, alert_of, exchange, own_loopback};

const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const PROTOCOLS: [&str; 6] = ["http", "ssh", "postgres", "rdp", "tds", "ldap"];

/// `all` has a pool for each protocol; `some` wants few; `silent` waits a while for those who wait themselves.
const CONFIG: &str = r#"
[[listener]]
name = "some"
bind = ["{ip}:444"]
hello-timeout = "1500ms"
[[listener.route]]
sni = ["a.test"]
pool = "a"
[[listener.route]]
first-bytes = ["http", "ssh"]
from = ["127.0.0.1/32"]
pool = "http"
[[listener.route]]
first-bytes = ["rdp"]
reject = "close"
[[listener.route]]
first-bytes = ["ldap"]
pool = "dead"
[[listener]]
name = "silent"
bind = ["{ip}:445"]
hello-timeout = "1500ms"
[[listener.route]]
sni = ["a.test"]
pool = "a"
[[listener.route]]
first-bytes = ["silence"]
from = ["127.0.0.1/32", "192.0.2.0/24"]
pool = "banner"
[[listener]]
name = "proxied"
bind = ["{ip}:446"]
hello-timeout = "1500ms"
accept-proxy = ["127.0.0.2/32"]
[[listener.route]]
first-bytes = ["silence"]
from = ["192.0.2.0/24"]
pool = "banner"
[[listener.route]]
first-bytes = ["http"]
from = ["192.0.2.0/24"]
pool = "http"
[[listener]]
name = "all"
bind = ["{ip}:443"]
hello-timeout = "60s"
[[listener.route]]
sni = ["a.test"]
pool = "a"
"#;

/// With the routes of `all`, which is the last listener, and all pools.
fn config() -> String {
    let route = |name| format!("[[listener.route]]\nfirst-bytes = [\"{name}\"]\npool = \"{name}\"\n");
    let pool = |(port, name)| format!("[pool.{name}]\nbackends = [\"{{ip}}:{port}\"]\n");
    let names = ["a"].into_iter().chain(PROTOCOLS).chain(["banner", "dead"]);
    [CONFIG, &PROTOCOLS.map(route).concat(), &(1000..).zip(names).map(pool).collect::<String>()].concat()
}

/// What clients of each protocol say first.
const SAID: [(&str, &[u8]); 11] = [
    ("http", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("http", b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("http", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    ("ldap", b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0"),
    ("ldap", b"\x30\x84\0\0\0\x10\x02\x01\x01\x60\x84\0\0\0\x07\x02\x01\x03\x04\0\x80\0"),
    ("rdp", b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0"),
    (
        "tds",
        b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06\x01\0\x20\0\x01\x02\0\x21\0\x01\x03\0\x22\0\x04\x04\0\x26\0\x01\xff",
    ),
    ("postgres", b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0"),
    ("postgres", b"\0\0\0\x08\x04\xd2\x16\x2f"),
    ("postgres", b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\0\0\0\x09"),
];

/// The start, of which anything can still become, in pieces of `size`; the rest as one.
fn pieces(said: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    let (start, rest) = said.split_at(said.len().min(if size < said.len() { MOST_TO_RECOGNISE } else { said.len() }));
    start.chunks(size).chain([rest]).filter(|piece| !piece.is_empty())
}

struct Bench {
    daemon: Daemon,
    a: Witness,
    /// In the order of [`PROTOCOLS`].
    others: [Witness; 6],
}

impl Bench {
    #[track_caller]
    fn start() -> Self {
        let address = own_loopback();
        let a = Witness::start((address, 1000), "a");
        let mut port = 1000;
        let others = PROTOCOLS.map(|name| {
            port += 1;
            Witness::start((address, port), name)
        });
        Self { daemon: Daemon::start_on(address, &config(), "", |command| command), a, others }
    }

    fn witness(&self, protocol: &str) -> &Witness {
        &self.others[PROTOCOLS.iter().position(|name| *name == protocol).unwrap()]
    }

    /// Sends these pieces, each to be read by itself; what is answered and what the record says.
    #[track_caller]
    fn send<'a>(
        &self,
        source: Ipv4Addr,
        port: u16,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (std::io::Result<Vec<u8>>, Value) {
        let before = self.daemon.records().len();
        let mut stream = connect_from(source, self.daemon.at(port));
        for piece in pieces {
            wait_until_read(&stream);
            // Refused before the last byte, perhaps.
            if stream.write_all(piece).is_err() {
                break;
            }
        }
        let answer = finish(stream).1;
        (answer, self.daemon.wait_for_records(before + 1)[before].clone())
    }

    #[track_caller]
    fn assert_refused(&self, source: Ipv4Addr, port: u16, bytes: &[u8], detail: &str) {
        let (answer, record) = self.send(source, port, [bytes]);
        assert_eq!(answer.unwrap(), b"", "no alert: {}", bytes.escape_ascii());
        assert_eq!((&record["end"], &record["detail"]), (&"not_tls".into(), &detail.into()), "{record}");
    }
}

#[test]
fn each_protocol_goes_to_its_pool_whole_and_byte_by_byte() {
    let bench = Bench::start();
    let route = |protocol: &str| {
        let config = config();
        let line = config
            .lines()
            .collect::<Vec<_>>()
            .iter()
            .rposition(|line| *line == format!("first-bytes = [\"{protocol}\"]"))
            .unwrap();
        // The daemon's own six lines come before, and a rule begins at its header.
        format!("{}/sluice.toml:{}", bench.daemon.dir().display(), line + 6)
    };
    for (protocol, said) in SAID {
        for (way, size) in [("whole", said.len()), ("byte by byte", 1)] {
            let (answer, record) = bench.send(CLIENT, 443, pieces(said, size));
            assert_eq!(answer.unwrap(), protocol.as_bytes(), "{} {way}", said.escape_ascii());
            assert_eq!(bench.witness(protocol).next().all, said, "{way}");
            let shown = (&record["pool"], &record["end"], &record["route"]);
            assert_eq!(shown, (&protocol.into(), &"done".into(), &route(protocol).into()), "{record}");
            assert_eq!((&record["sni"], &record["tls"]), (&Value::Null, &Value::Null), "{record}");
        }
    }
}

#[test]
fn tls_works_beside_them() {
    let bench = Bench::start();
    let hello = client_hello(Some("a.test"), &["h2"]);
    for size in [hello.len(), 1, 5] {
        let (answer, record) = bench.send(CLIENT, 443, hello.chunks(size));
        assert_eq!((answer.unwrap(), &record["sni"]), (b"a".to_vec(), &"a.test".into()), "pieces of {size}");
        assert_eq!(bench.a.next().all, hello);
    }
    let (answer, _) = bench.send(CLIENT, 443, [&client_hello(Some("b.test"), &[])[..]]);
    assert_eq!(alert_of(&answer.unwrap()), Some(112));
    let (answer, record) = bench.send(CLIENT, 443, [&[0x80, 0x2e, 1, 3, 1, 0, 0][..]]);
    assert_eq!((alert_of(&answer.unwrap()), &record["detail"]), (Some(70), &"SSL 2.0 hello".into()));
}

#[test]
fn what_no_rule_wants_is_refused() {
    let bench = Bench::start();
    for (protocol, said) in SAID {
        if matches!(protocol, "postgres" | "tds") {
            bench.assert_refused(CLIENT, 444, said, &format!("first bytes are {protocol}, not TLS"));
        }
        // A rule for other sources is none.
        if matches!(protocol, "http" | "ssh") {
            bench.assert_refused(STRANGER, 444, said, &format!("first bytes are {protocol}, not TLS"));
        }
    }
    // Nobody may name it: whose headers are believed is said by `accept-proxy`.
    bench.assert_refused(CLIENT, 443, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "first bytes are proxy, not TLS");
}

#[test]
fn what_only_begins_alike_is_refused() {
    let bench = Bench::start();
    let alike: [&[u8]; 15] = [
        b"GETTING / HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\n",
        b"POST/ HTTP/1.1\r\n",
        b"PRI * HTTP/1.0\r\n",
        b"SSH1 and more",
        b"SSL-2.0-OpenSSH\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2e",
        b"\0\0\0\x09\x04\xd2\x16\x2f\0",
        b"\0\0\0\x17\0\x02\0\0user\0postgres\0\0",
        b"\x03\0\0\x13\x0e\x10\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
        b"\x03\x01\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
        b"\x12\x02\0\x2f\0\0\x01\0",
        b"\x30\x0c\x04\x01\x01\x60",
        b"\x30\x80\x02\x01\x01\x60",
        b"\x30\x85\0\0\0\0\x10\x02\x01\x01\x60",
    ];
    for said in alike {
        for size in [said.len(), 1] {
            let (answer, record) = bench.send(CLIENT, 443, pieces(said, size));
            // What stays unread turns the end into a reset; an alert would be an answer.
            assert!(answer.as_ref().map_or(true, Vec::is_empty), "{}: {answer:?}", said.escape_ascii());
            let shown = (&record["end"], &record["pool"], &record["bytes_up"]);
            assert_eq!(shown, (&"not_tls".into(), &Value::Null, &0.into()), "{}: {record}", said.escape_ascii());
        }
    }
    assert!(bench.others.iter().all(|witness| witness.backend.accepted() == 0), "no backend saw any of it");
}

#[test]
fn what_is_not_certain_in_time_is_not_routed() {
    let bench = Bench::start();
    for said in [&b"G"[..], b"GET", b"SSH", b"\x30"] {
        let begun = Instant::now();
        let (_, record) = bench.send(CLIENT, 444, [said]);
        let took = begun.elapsed().as_millis();
        assert!((1450..4500).contains(&took), "{} took {took} ms", said.escape_ascii());
        assert_eq!((&record["end"], &record["pool"]), (&"hello_timeout".into(), &Value::Null), "{record}");
    }
}

#[test]
fn rules_reject_and_dead_pools_reset() {
    let bench = Bench::start();
    let (answer, record) = bench.send(CLIENT, 444, [SAID[6].1]);
    assert_eq!((answer.unwrap(), &record["end"]), (Vec::new(), &"route_rejected".into()), "{record}");
    // No alert: nobody there would understand it.
    let (answer, record) = bench.send(CLIENT, 444, [SAID[4].1]);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset, "{record}");
    assert_eq!((&record["end"], &record["pool"]), (&"connect_refused".into(), &"dead".into()), "{record}");
}

#[test]
fn silence_goes_to_a_server_that_speaks_first() {
    let bench = Bench::start();
    let _banner = Backend::start((bench.daemon.address, 1007), |mut stream| {
        let mut said = [0; 6];
        if stream.write_all(b"220 hello\r\n").is_ok() && stream.read_exact(&mut said).is_ok() && said == *b"QUIT\r\n" {
            let _ = stream.write_all(b"221 bye\r\n");
        }
    });
    for (source, port, header) in [(CLIENT, 445, &b""[..]), (STRANGER, 446, b"PROXY TCP4 192.0.2.7 192.0.2.1 5 25\r\n")]
    {
        let before = bench.daemon.records().len();
        let begun = Instant::now();
        let mut stream = connect_from(source, bench.daemon.at(port));
        stream.write_all(header).unwrap();
        let mut banner = [0; 11];
        stream.read_exact(&mut banner).unwrap();
        let took = begun.elapsed().as_millis();
        assert!((1450..4500).contains(&took), "took {took} ms");
        assert_eq!(&banner, b"220 hello\r\n");
        stream.write_all(b"QUIT\r\n").unwrap();
        assert_eq!(finish(stream).1.unwrap(), b"221 bye\r\n");
        let record = bench.daemon.wait_for_records(before + 1)[before].clone();
        assert_eq!((&record["pool"], &record["end"]), (&"banner".into(), &"done".into()), "{record}");
    }
    // The same listener takes hellos, and a header's source is the one that counts.
    let (answer, _) = bench.send(CLIENT, 445, [&client_hello(Some("a.test"), &[])[..]]);
    assert_eq!(answer.unwrap(), b"a");
    let http = [&b"PROXY TCP4 192.0.2.7 192.0.2.1 5 80\r\n"[..], SAID[0].1].concat();
    assert_eq!(bench.send(STRANGER, 446, [&http[..]]).0.unwrap(), b"http");
    let http = [&b"PROXY TCP4 198.51.100.7 192.0.2.1 5 80\r\n"[..], SAID[0].1].concat();
    bench.assert_refused(STRANGER, 446, &http, "first bytes are http, not TLS");
    // Who said something is not silent, and silence of others is not wanted.
    assert_eq!(bench.send(CLIENT, 445, [&b"E"[..]]).1["pool"], Value::Null);
    let (answer, record) = bench.send(STRANGER, 445, []);
    assert_eq!((answer.unwrap(), &record["end"]), (Vec::new(), &"hello_timeout".into()), "{record}");
}

#[test]
fn route_explains_first_bytes() {
    let bench = Bench::start();
    let config = bench.daemon.dir().join("sluice.toml").display().to_string();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    for extra in [&[][..], &["-c", &config]] {
        let ask = |arguments: &[&str]| bench.daemon.cli(&[&["route"], arguments, extra].concat());
        for protocol in PROTOCOLS {
            let output = ask(&["--listener", "all", "--first-bytes", protocol]);
            assert!(output.status.success(), "{output:?}");
            let text = text(&output);
            assert!(text.contains(&format!("pool      {protocol}\n")), "{text}");
            assert!(text.contains("rule      ") && text.contains("/sluice.toml:"), "{text}");
        }
        for (listener, protocol, from, why) in [
            ("some", "tds", "127.0.0.1", "no route for first bytes of tds"),
            ("some", "http", "127.0.0.2", "no route for first bytes of http"),
            ("all", "silence", "127.0.0.1", "no route for first bytes of silence"),
            ("some", "rdp", "127.0.0.1", "the rule rejects"),
        ] {
            let output = ask(&["--listener", listener, "--first-bytes", protocol, "--from", from]);
            assert!(!output.status.success(), "{output:?}");
            assert!(text(&output).contains(why), "{output:?}");
        }
        assert!(!ask(&["--listener", "all", "--first-bytes", "proxy"]).status.success(), "no such word");
    }
}

#[test]
fn refused_first_bytes_are_listed_with_the_pieces_in_which_they_came() {
    let bench = Bench::start();
    // A handshake message with a byte too many, in records of 100 bytes and segments of 150.
    let mut long = message(Some("secret.test"), &[], 0);
    long.push(0);
    let length = long.len() as u32 - 4;
    long[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    let bytes = records(&long, 100);
    let sizes: Vec<usize> = bytes.chunks(150).map(<[u8]>::len).collect();
    let in_records: Vec<usize> = long.chunks(100).map(<[u8]>::len).collect();
    let (_, record) = bench.send(CLIENT, 443, bytes.chunks(150));
    assert_eq!(record["end"], "hello_malformed", "{record}");
    let (_, other) = bench.send(STRANGER, 444, [&b"GET / HTTP/1.1\r\n"[..]]);

    let list = bench.daemon.json("/v1/refused");
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");
    let (hello, http) = (&list[0], &list[1]);
    let layout: Vec<Value> =
        in_records.iter().map(|length| json!({ "type": 22, "version": "0x0301", "length": length })).collect();
    for (key, want) in [
        ("session", record["session"].clone()),
        ("client", record["client"].clone()),
        ("detail", record["detail"].clone()),
        ("listener", "all".into()),
        ("end", "hello_malformed".into()),
        ("alert", 50.into()),
        ("bytes", bytes.len().into()),
        ("segments", sizes.len().into()),
        ("segment_bytes", json!(sizes)),
        ("records", layout.into()),
    ] {
        assert_eq!(hello[key], want, "{key} of {hello}");
    }
    let first = hello["first_bytes"].as_str().unwrap();
    assert!(first.starts_with("16030100640100") && first.len() == 64, "32 bytes in hex: {first}");
    assert!(!list.to_string().contains("secret"), "server names stay out of it: {list}");
    assert_eq!((&http["session"], &http["end"]), (&other["session"], &"not_tls".into()));
    assert_eq!((&http["segment_bytes"], &http["alert"]), (&json!([16]), &Value::Null));

    let joined = |sizes: &[usize]| sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    let output = bench.daemon.cli(&["refused", "all"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let want = ["all", record["client"].as_str().unwrap(), "hello_malformed", "50", &bytes.len().to_string()];
    assert_eq!((&words[1..6], words[6]), (&want[..], &*joined(&sizes)), "{text}");
    assert_eq!(words[7], joined(&in_records), "{text}");
    assert_eq!(text.lines().count(), 2, "only of this listener: {text}");
    let output = bench.daemon.cli(&["refused", "some", "--json"]);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]), (1, http));
    assert!(!bench.daemon.cli(&["refused", "nobody"]).status.success());

    // The last 64 of a listener.
    for number in 0..70 {
        assert_eq!(exchange(bench.daemon.at(443), format!("?{number:02}").as_bytes()).unwrap(), b"");
    }
    let list = bench.daemon.ask("refused", &json!({ "listener": "all" }))["result"].clone();
    let list = list.as_array().expect("a list");
    assert_eq!((list.len(), &list[0]["first_bytes"]), (64, &"3f3036".into()));
}
