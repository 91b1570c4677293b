//! PROXY headers that come in: who must send one, what is refused and how, and what the addresses in them are used for.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::hello::client_hello;
use crate::support::proxy::{
    ALPN, AUTHORITY, AWS, AZURE, CRC32C, GCP, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, UNIQUE_ID, Witness, connect_from,
    finish, tlv, v2, v2_from, wait_until_read, with_checksum,
};
use crate::support::{Backend, Daemon, alert_of, eventually, own_loopback};
use serde_json::Value;

/// Must send headers.
const FRONT: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Must send headers; its own address is denied.
const DENIED_FRONT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Anybody else.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
hello-timeout = "10s"
accept-proxy = ["127.0.0.1/32", "127.0.0.3/32"]
deny = ["127.0.0.3/32", "203.0.113.0/24", "2001:db8:bad::/48"]
pool = "a"
[[listener.route]]
sni = ["hash.test"]
pool = "hash"
[[listener.route]]
sni = ["from.test"]
from = ["192.0.2.0/24"]
pool = "a"
[[listener.route]]
sni = ["from.test"]
reject = "alert"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{ip}:444"]
accept-proxy = ["127.0.0.1/32"]
deny = ["203.0.113.0/24"]
pool = "a"
[[listener]]
name = "never"
bind = ["{ip}:445"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
[pool.hash]
balance = "consistent-hash"
hash.bounded-load = "off"
backends = ["{ip}:2001", "{ip}:2002", "{ip}:2003"]
"#;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.9 50000 443\r\n";
const NO_V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 1, 0xbb];

fn start() -> (Daemon, Witness) {
    let address = own_loopback();
    let backend = Witness::start((address, 1001), "a");
    (Daemon::start_on(address, CONFIG, "", |command| command), backend)
}

fn hello() -> Vec<u8> {
    client_hello(Some("a.test"), &[])
}

/// Who asked, and the answer to `bytes`; the connection is closed.
fn ask(daemon: &Daemon, source: Ipv4Addr, port: u16, bytes: &[u8]) -> (String, io::Result<Vec<u8>>) {
    let mut stream = connect_from(source, daemon.at(port));
    stream.write_all(bytes).unwrap();
    finish(stream)
}

/// The record of the connection, found by its real peer.
#[track_caller]
fn record_of(daemon: &Daemon, peer: &str) -> Value {
    let is_it = |record: &Value| record.get("via").unwrap_or(&record["client"]) == peer;
    eventually(&format!("a record of {peer}"), || daemon.records().into_iter().find(is_it))
}

/// The connection is refused for its header: RST, and the record says why.
#[track_caller]
fn refused_for_header(daemon: &Daemon, source: Ipv4Addr, bytes: &[u8], detail: &str) {
    let (peer, answer) = ask(daemon, source, 443, bytes);
    let error = answer.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", bytes.escape_ascii());
    let record = record_of(daemon, &peer);
    assert_eq!((&record["end"], &record["detail"]), (&"proxy_header_bad".into(), &detail.into()), "{record}");
    assert_eq!((&record["client"], record.get("via")), (&peer.as_str().into(), None));
}

#[test]
fn header_may_be_split_anywhere() {
    let (daemon, backend) = start();
    let sum = with_checksum(v2_from("192.0.2.7:50000", &[tlv(AUTHORITY, b"x.test"), tlv(CRC32C, &[0; 4])]));
    let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::9 50000 443\r\n".to_vec();
    let hello = hello();
    for (header, client) in [(V1.to_vec(), "192.0.2.7:50000"), (sum, "192.0.2.7:50000"), (v6, "[2001:db8::7]:50000")] {
        let bytes = [&header[..], &hello].concat();
        // One byte into the hello too.
        for cut in 1..=header.len() + 1 {
            let mut stream = connect_from(FRONT, daemon.at(443));
            stream.write_all(&bytes[..cut]).unwrap();
            wait_until_read(&stream);
            stream.write_all(&bytes[cut..]).unwrap();
            assert_eq!(finish(stream).1.unwrap(), b"a", "cut at {cut}");
            assert_eq!(backend.next().all, hello, "cut at {cut}");
        }
        let mut stream = connect_from(FRONT, daemon.at(443));
        for piece in bytes.chunks(8) {
            stream.write_all(piece).unwrap();
            wait_until_read(&stream);
        }
        let (peer, answer) = finish(stream);
        assert_eq!(answer.unwrap(), b"a");
        let record = record_of(&daemon, &peer);
        assert_eq!(record["client"], client, "{record}");
        assert!(record["hello_segments"].as_u64().unwrap() > 5, "it came in pieces: {record}");
        assert_eq!(backend.next().all, hello);
    }
    let believed =
        |version: &str| daemon.metric(&format!("sluice_proxy_headers_total{{listener=\"tls\",version=\"{version}\"}}"));
    assert!(believed("v1") > 80.0 && believed("v2") > 40.0, "{} {}", believed("v1"), believed("v2"));
}

#[test]
fn every_malformed_header_is_refused_with_its_reason() {
    let (daemon, _backend) = start();
    let start = |rest: &[u8]| [SIGNATURE, rest].concat();
    let with = |fields: &[Vec<u8>]| v2_from("192.0.2.7:50000", fields);
    let mut bad_sum = with_checksum(with(&[tlv(CRC32C, &[0; 4])]));
    bad_sum[16] ^= 1;
    let protocol = "PROXY v1 header names a protocol other than TCP4, TCP6 and UNKNOWN";
    let count = "PROXY v1 header does not have two addresses and two ports";
    let address = "PROXY v1 header has an address that does not fit its protocol";
    let port = "PROXY v1 header has a port that is no number from 0 to 65535";
    let end = "PROXY v1 header does not end with CR and LF";
    let long = "PROXY v1 header is longer than 107 bytes";
    let sum = "PROXY v2 header with a wrong checksum";
    let short = "PROXY v2 header too short for its addresses";
    let overrun = "PROXY v2 header with a field that reaches beyond it";
    let table: Vec<(Vec<u8>, &str)> = vec![
        (hello(), "no PROXY header"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no PROXY header"),
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "no PROXY header"),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), protocol),
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), protocol),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n".to_vec(), count),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n".to_vec(), count),
        (b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n".to_vec(), address),
        (b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(), address),
        (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), address),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n".to_vec(), port),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 02\r\n".to_vec(), port),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec(), end),
        (format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes(), long),
        (start(&[0x22]), "PROXY v2 header with version and command 0x22"),
        (start(&[0x11, TCP4, 0, 0]), "PROXY v2 header with version and command 0x11"),
        (v2(PROXY, 0x41, &NO_V4), "PROXY v2 header with family 0x41"),
        (v2(PROXY, 0x13, &NO_V4), "PROXY v2 header with family 0x13"),
        (start(&[PROXY, TCP4, 0x10, 1]), "PROXY v2 header claims 4097 bytes, more than 4096"),
        (v2(PROXY, TCP4, &NO_V4[..11]), short),
        (v2(PROXY, TCP6, &NO_V4), short),
        (bad_sum, sum),
        (with(&[tlv(CRC32C, &[0; 3])]), sum),
        (with(&[vec![AUTHORITY, 0, 9, b'x']]), overrun),
        (with(&[vec![AUTHORITY, 0]]), overrun),
        (with(&[tlv(UNIQUE_ID, &[7; 129])]), "PROXY v2 header with a unique id of more than 128 bytes"),
    ];
    for (bytes, detail) in &table {
        refused_for_header(&daemon, FRONT, bytes, detail);
        // A hello behind it does not help, and what is unread must not turn the reset into an orderly end.
        refused_for_header(&daemon, FRONT, &[&bytes[..], &[0; 128], &hello()].concat(), detail);
    }
    let refused = daemon.metric("sluice_listener_rejected_total{listener=\"tls\",reason=\"proxy_header_bad\"}");
    assert_eq!(refused, 2.0 * table.len() as f64);
}

#[test]
fn half_a_header_ends_after_a_second_however_slowly_it_comes() {
    let (daemon, _backend) = start();
    // Who says nothing at all is only heard of where a server may speak first; elsewhere the kernel keeps it.
    for (port, header, slowly) in [(443, V1, false), (443, SIGNATURE, false), (444, b"\r", false), (443, V1, true)] {
        let begun = Instant::now();
        let mut stream = connect_from(FRONT, daemon.at(port));
        stream
            .set_read_timeout(Some(if slowly { Duration::from_millis(60) } else { crate::support::DEADLINE }))
            .unwrap();
        let mut sent = if slowly { 1 } else { header.len() - 1 };
        stream.write_all(&header[..sent]).unwrap();
        let error = loop {
            match stream.read(&mut [0]) {
                Err(error) if slowly && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    // Stops before the last byte; 60 ms each keep it talking for more than two and a half seconds.
                    let _ = stream.write_all(&header[sent..(sent + 1).min(header.len() - 1)]);
                    sent = (sent + 1).min(header.len() - 1);
                }
                answer => break answer.expect_err("a reset"),
            }
        };
        let took = begun.elapsed().as_millis();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!((900..3000).contains(&took), "took {took} ms");
        let peer = stream.local_addr().unwrap().to_string();
        let record = record_of(&daemon, &peer);
        assert_eq!(record["end"], "proxy_header_bad", "{record}");
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.ends_with(" bytes of a PROXY header after 1000 ms"), "{detail}");
        assert!(slowly || detail.starts_with(&format!("{sent} ")), "{detail}");
    }
}

#[test]
fn addresses_of_the_header_are_allowed_and_denied() {
    let (daemon, _backend) = start();
    let v1 = |source: &str| format!("PROXY TCP4 {source} 198.51.100.9 50000 443\r\n").into_bytes();
    let denied = Err(49);
    let table = [
        (FRONT, v1("203.0.113.7"), denied),
        (FRONT, v2_from("203.0.113.7:1", &[]), denied),
        (FRONT, v2_from("[2001:db8:bad::1]:1", &[]), denied),
        (FRONT, v1("192.0.2.7"), Ok("192.0.2.7:50000")),
        (DENIED_FRONT, v1("192.0.2.7"), Ok("192.0.2.7:50000")),
        (DENIED_FRONT, v2_from("[2001:db8::7]:9", &[]), Ok("[2001:db8::7]:9")),
        // Who speaks for itself is judged by its own address, whatever the header says besides.
        (DENIED_FRONT, v2(LOCAL, 0, &[]), denied),
        (DENIED_FRONT, v2(LOCAL, TCP4, &NO_V4), denied),
        (DENIED_FRONT, b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), denied),
    ];
    for (source, header, want) in table {
        let (peer, answer) = ask(&daemon, source, 443, &[&header[..], &hello()].concat());
        let (answer, record) = (answer.unwrap(), record_of(&daemon, &peer));
        match want {
            Ok(client) => assert_eq!((&answer[..], &record["client"]), (&b"a"[..], &client.into()), "{record}"),
            Err(alert) => {
                assert_eq!((alert_of(&answer), &record["end"]), (Some(alert), &"source_denied".into()), "{record}");
            }
        }
        assert_eq!(record["via"], *peer, "{record}");
    }
    // Routes by source see the client too.
    let hello = client_hello(Some("from.test"), &[]);
    let (_, answer) = ask(&daemon, FRONT, 443, &[&v1("192.0.2.7")[..], &hello].concat());
    assert_eq!(answer.unwrap(), b"a");
    let (_, answer) = ask(&daemon, FRONT, 443, &[&v1("198.18.0.1")[..], &hello].concat());
    assert_eq!(alert_of(&answer.unwrap()), Some(112));
}

#[test]
fn clients_behind_one_proxy_are_hashed_apart_and_stick() {
    let (daemon, _backend) = start();
    let address = daemon.address;
    let _three =
        [(2001, "one"), (2002, "two"), (2003, "three")].map(|(port, name)| Backend::naming((address, port), name));
    let hello = client_hello(Some("hash.test"), &[]);
    let mut homes = HashMap::<u8, Vec<u8>>::new();
    for round in 0..3_u16 {
        for last in 1..=40_u8 {
            let header = v2_from(&format!("192.0.2.{last}:{}", 1000 + round * 77), &[]);
            let (_, answer) = ask(&daemon, FRONT, 443, &[&header[..], &hello].concat());
            let answer = answer.unwrap();
            let home = homes.entry(last).or_insert_with(|| answer.clone());
            assert_eq!(*home, answer, "192.0.2.{last} moved");
        }
    }
    assert_eq!(homes.values().collect::<HashSet<_>>().len(), 3, "40 sources reach every backend");
}

#[test]
fn record_has_the_client_and_what_else_the_header_said() {
    let (daemon, _backend) = start();
    let hello = hello();
    let ask = |header: &[u8]| {
        let (peer, answer) = ask(&daemon, FRONT, 443, &[header, &hello].concat());
        assert_eq!(answer.unwrap(), b"a");
        let record = record_of(&daemon, &peer);
        assert_eq!((&record["end"], &record["sni"]), (&"done".into(), &"a.test".into()), "{record}");
        (peer, record)
    };
    let fields = [
        tlv(ALPN, b"h2"),
        tlv(AUTHORITY, b"shop \"\n\xff.test"),
        tlv(UNIQUE_ID, b"id-1"),
        tlv(AWS, b"\x01vpce-08d2bf15fac5001c9"),
        tlv(0x20, &[1, 0, 0, 0, 0]),
        tlv(0xf7, b"?"),
    ];
    let (peer, record) = ask(&v2_from("[2001:db8::7]:1234", &fields));
    for (key, want) in [
        ("client", "[2001:db8::7]:1234"),
        ("destination", "[2001:db8::9]:443"),
        ("via", &peer),
        ("via_authority", "shop \\\"\\n\\xff.test"),
        ("via_alpn", "h2"),
        ("via_id", "id-1"),
        ("via_endpoint", "aws:vpce-08d2bf15fac5001c9"),
    ] {
        assert_eq!(record[key], want, "{key} of {record}");
    }
    let azure = [tlv(AZURE, &[1, 0x44, 0x33, 0x22, 0x11])];
    assert_eq!(ask(&v2_from("192.0.2.7:1", &azure)).1["via_endpoint"], format!("azure:{}", 0x1122_3344));
    let gcp = [tlv(GCP, &[0, 0, 0, 1, 0, 0, 0, 2])];
    assert_eq!(ask(&v2_from("192.0.2.7:1", &gcp)).1["via_endpoint"], format!("gcp:{}", 0x1_0000_0002_u64));
    // Four KiB of a name do not fill the log.
    let (_, record) = ask(&v2_from("192.0.2.7:1", &[tlv(AUTHORITY, &[b'a'; 4000])]));
    assert_eq!(record["via_authority"].as_str().unwrap().len(), 256, "{record}");

    let local_with_all = v2(LOCAL, TCP4, &[&NO_V4[..], &tlv(AUTHORITY, b"no.test")].concat());
    let unix = v2(PROXY, 0x31, &[b'/'; 216]);
    for header in [b"PROXY UNKNOWN\r\n", &v2(LOCAL, 0, &[])[..], &local_with_all, &v2(PROXY, 0, &[]), &unix] {
        let (peer, record) = ask(header);
        let own = daemon.at(443).to_string();
        assert_eq!((&record["client"], &record["destination"]), (&peer.as_str().into(), &own.into()), "{record}");
        assert_eq!((&record["via"], &record["via_authority"]), (&peer.into(), &Value::Null), "{record}");
    }
}

#[test]
fn what_stands_behind_the_header_is_the_clients() {
    let (daemon, backend) = start();
    let hello = [&hello()[..], b"early data \r\n\r\n\0"].concat();
    let (_, answer) = ask(&daemon, FRONT, 443, &[V1, &hello].concat());
    assert_eq!(answer.unwrap(), b"a");
    assert_eq!(backend.next().all, hello);
}

#[test]
fn second_header_is_what_the_client_says() {
    let (daemon, _backend) = start();
    let hello = hello();
    for second in [V1.to_vec(), v2_from("192.0.2.8:1", &[])] {
        let (peer, answer) = ask(&daemon, FRONT, 443, &[V1, &second, &hello].concat());
        assert_eq!(answer.unwrap(), b"");
        let record = record_of(&daemon, &peer);
        assert_eq!((&record["end"], &record["client"]), (&"not_tls".into(), &"192.0.2.7:50000".into()), "{record}");
    }
}

#[test]
fn header_of_a_stranger_is_not_believed() {
    let (daemon, backend) = start();
    let why = "PROXY header from a source that `accept-proxy` does not name";
    for header in [V1, &v2_from("192.0.2.7:1", &[]), &v2(LOCAL, 0, &[])] {
        let bytes = [header, &hello()].concat();
        refused_for_header(&daemon, STRANGER, &bytes, why);
        let (peer, answer) = ask(&daemon, STRANGER, 445, &bytes);
        assert_eq!(answer.unwrap(), b"");
        let record = record_of(&daemon, &peer);
        assert_eq!(record["detail"], "first bytes are proxy, not TLS", "{record}");
        // A tcp listener looks at nothing.
        let (peer, answer) = ask(&daemon, STRANGER, 444, &bytes);
        assert_eq!(answer.unwrap(), b"a");
        let record = record_of(&daemon, &peer);
        assert_eq!((&record["client"], record.get("via")), (&peer.as_str().into(), None));
        assert_eq!(backend.next().all, bytes);
    }
    // Without one it is a client like any other.
    let (_, answer) = ask(&daemon, STRANGER, 443, &hello());
    assert_eq!(answer.unwrap(), b"a");
}

#[test]
fn tcp_listener_takes_headers_too() {
    let (daemon, backend) = start();
    let mut stream = connect_from(FRONT, daemon.at(444));
    stream.write_all(V1).unwrap();
    wait_until_read(&stream);
    stream.write_all(b"anything").unwrap();
    let (peer, answer) = finish(stream);
    assert_eq!(answer.unwrap(), b"a");
    let record = record_of(&daemon, &peer);
    assert_eq!((&record["client"], &record["destination"]), (&"192.0.2.7:50000".into(), &"198.51.100.9:443".into()));
    assert_eq!(backend.next().all, b"anything");
    for (bytes, end) in [
        (&b"anything"[..], "proxy_header_bad"),
        (b"PROXY TCP4 203.0.113.1 198.51.100.9 50000 443\r\nanything", "source_denied"),
    ] {
        let (peer, answer) = ask(&daemon, FRONT, 444, bytes);
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(record_of(&daemon, &peer)["end"], end);
    }
}
