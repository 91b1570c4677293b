//! PROXY headers for backends: what they say, in one segment with the hello, byte for byte; with and without a header that
//! came in; and on the connections of health checks.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use crate::support::hello::client_hello;
use crate::support::proxy::{
    ALPN, AUTHORITY, AWS, AZURE, Brought, CRC32C, GCP, SIGNATURE, SSL, UNIQUE_ID, Witness, block, connect_from, field,
    fields, tlv, v2_from, v2_length, wait_until_read, with_checksum,
};
use crate::support::{Daemon, own_loopback};

/// Must send headers.
const FRONT: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// A client of its own.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
accept-proxy = ["127.0.0.1/32"]
pool = "v2"
[[listener.route]]
sni = ["v1.test"]
pool = "v1"
[[listener.route]]
sni = ["off.test"]
pool = "off"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{ip}:444"]
accept-proxy = ["127.0.0.1/32"]
pool = "v2"
[[listener]]
name = "tcp1"
protocol = "tcp"
bind = ["{ip}:445"]
accept-proxy = ["127.0.0.1/32"]
pool = "v1"
[pool.v2]
send-proxy = "v2"
backends = ["{ip}:1002"]
[pool.v1]
send-proxy = "v1"
backends = ["{ip}:1001"]
[pool.off]
backends = ["{ip}:1000"]
"#;

struct Bench {
    daemon: Daemon,
    off: Witness,
    v1: Witness,
    v2: Witness,
}

impl Bench {
    #[track_caller]
    fn start() -> Self {
        let address = own_loopback();
        let [off, v1, v2] = [1000, 1001, 1002].map(|port| Witness::start((address, port), "ok"));
        Self { daemon: Daemon::start_on(address, CONFIG, "", |command| command), off, v1, v2 }
    }

    /// Sends `bytes` in one segment; who sent them.
    #[track_caller]
    fn send(&self, source: Ipv4Addr, port: u16, bytes: &[u8]) -> SocketAddr {
        let mut stream = connect_from(source, self.daemon.at(port));
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "ok");
        stream.local_addr().unwrap()
    }

    /// The id of the session of which there is a `count`th record.
    #[track_caller]
    fn session(&self, count: usize) -> String {
        let record = self.daemon.wait_for_records(count)[count - 1].clone();
        record["session"].as_str().unwrap().to_owned()
    }
}

/// Takes apart what a backend got: the header, in the same segment as all of `rest`.
#[track_caller]
fn header_before(brought: &Brought, rest: &[u8]) -> Vec<u8> {
    assert_eq!(brought.first, brought.all, "one segment");
    let header = brought.all[..v2_length(&brought.all)].to_vec();
    assert!(brought.all[header.len()..] == *rest, "what follows the header is what the client sent");
    assert!(header.len() <= 232, "{} bytes", header.len());
    assert_eq!(with_checksum(header.clone()), header, "the checksum is right");
    assert_eq!(field(&header, SSL), None, "TLS does not end here");
    header
}

#[track_caller]
fn assert_addresses(header: &[u8], source: SocketAddr, destination: SocketAddr) {
    let (command_and_family, block) =
        (if source.is_ipv4() { [0x21, 0x11] } else { [0x21, 0x21] }, block(source, destination));
    assert_eq!((&header[12..14], &header[16..16 + block.len()]), (&command_and_family[..], &block[..]));
}

#[test]
fn backend_gets_header_and_hello_in_one_segment() {
    let bench = Bench::start();
    let own = bench.daemon.at(443);
    let mut count = 0;
    for (name, alpn, only) in [
        (Some("Shop.V2.Test"), &["h2"][..], Some(&b"h2"[..])),
        (Some("a.test"), &["h2", "http/1.1"], None),
        (Some("a.test"), &[], None),
        (None, &["postgresql"], Some(b"postgresql")),
    ] {
        let hello = client_hello(name, alpn);
        let client = bench.send(CLIENT, 443, &hello);
        let header = header_before(&bench.v2.next(), &hello);
        assert_addresses(&header, client, own);
        assert_eq!(field(&header, AUTHORITY).as_deref(), name.map(str::as_bytes), "exactly as it was sent");
        assert_eq!(field(&header, ALPN).as_deref(), only);
        count += 1;
        assert_eq!(field(&header, UNIQUE_ID), Some(bench.session(count).into_bytes()));
        assert_eq!(bench.session(count).len(), 16);
    }
    let hello = client_hello(Some("v1.test"), &["h2"]);
    let client = bench.send(CLIENT, 443, &hello);
    let want = format!("PROXY TCP4 {} {} {} {}\r\n", client.ip(), own.ip(), client.port(), own.port());
    let brought = bench.v1.next();
    assert_eq!(brought.first, [want.as_bytes(), &hello].concat());
    assert_eq!(brought.all, brought.first);
    let hello = client_hello(Some("off.test"), &[]);
    bench.send(CLIENT, 443, &hello);
    assert_eq!(bench.off.next().all, hello);
}

#[test]
fn hello_in_pieces_arrives_as_it_was_behind_one_header() {
    let bench = Bench::start();
    let hello = crate::support::hello::records(&crate::support::hello::message(Some("a.test"), &["h2"], 3000), 500);
    let mut stream = connect_from(CLIENT, bench.daemon.at(443));
    for piece in hello.chunks(700) {
        stream.write_all(piece).unwrap();
        wait_until_read(&stream);
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    drop(stream);
    header_before(&bench.v2.next(), &hello);
}

#[test]
fn name_that_does_not_fit_is_left_out_and_the_header_stays_small() {
    let bench = Bench::start();
    for length in [1, 60, 174, 175, 176, 200, 253] {
        let mut name = "abcdefgh.".repeat(32)[..length].to_owned();
        if name.ends_with('.') {
            name.replace_range(length - 1.., "x");
        }
        let hello = client_hello(Some(&name), &["h2"]);
        bench.send(CLIENT, 443, &hello);
        let header = header_before(&bench.v2.next(), &hello);
        // 16 + 12 of addresses, 7 of the checksum, 19 of the id, 3 before the name.
        let fits = 16 + 12 + 7 + 19 + 3 + length <= 232;
        assert_eq!(field(&header, AUTHORITY), fits.then(|| name.into_bytes()), "{length}");
    }
}

#[test]
fn header_that_came_in_decides_what_goes_out() {
    let bench = Bench::start();
    let (source, destination) = ("192.0.2.7:50000".parse().unwrap(), "198.51.100.9:443".parse().unwrap());
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 50000 443\r\n";
    let hello = client_hello(Some("Mine.test"), &["h2"]);
    bench.send(FRONT, 443, &[v1, &hello[..]].concat());
    let header = header_before(&bench.v2.next(), &hello);
    assert_addresses(&header, source, destination);
    assert_eq!(field(&header, UNIQUE_ID), Some(bench.session(1).into_bytes()));

    // The hello says name and protocol better; the id is ours; TLS is not claimed; the cloud's endpoint is passed on.
    let others =
        [tlv(AUTHORITY, b"theirs"), tlv(ALPN, b"http/1.1"), tlv(UNIQUE_ID, b"theirs"), tlv(SSL, &[7; 5])].concat();
    let mut count = 1;
    for (kind, value) in [
        (AWS, &b"\x01vpce-08d2bf15fac5001c9"[..]),
        (AZURE, &[1, 0x44, 0x33, 0x22, 0x11]),
        (GCP, &[0, 0, 0, 1, 0, 0, 0, 2]),
    ] {
        let incoming =
            with_checksum(v2_from("[2001:db8::7]:7", &[others.clone(), tlv(kind, value), tlv(CRC32C, &[0; 4])]));
        bench.send(FRONT, 443, &[&incoming[..], &hello].concat());
        let header = header_before(&bench.v2.next(), &hello);
        assert_addresses(&header, "[2001:db8::7]:7".parse().unwrap(), "[2001:db8::9]:443".parse().unwrap());
        count += 1;
        let mut found = fields(&header);
        found.retain(|(kind, _)| *kind != CRC32C);
        found.sort();
        let id = bench.session(count).into_bytes();
        let want = [(ALPN, &b"h2"[..]), (AUTHORITY, b"Mine.test"), (UNIQUE_ID, &id), (kind, value)];
        assert_eq!(found, want.map(|(kind, value)| (kind, value.to_vec())));
    }

    // Version 2 to version 1; the other way round is above.
    let hello = client_hello(Some("v1.test"), &[]);
    bench.send(FRONT, 443, &[&v2_from("[2001:db8::7]:7", &[]), &hello[..]].concat());
    assert_eq!(bench.v1.next().first, [b"PROXY TCP6 2001:db8::7 2001:db8::9 7 443\r\n", &hello[..]].concat());
    // Mapped addresses are IPv4.
    let mapped = crate::support::proxy::v2(
        0x21,
        0x21,
        &block("[::ffff:192.0.2.7]:50000".parse().unwrap(), "[::ffff:198.51.100.9]:443".parse().unwrap()),
    );
    bench.send(FRONT, 443, &[&mapped, &hello[..]].concat());
    assert_eq!(bench.v1.next().first, [v1, &hello[..]].concat());
    // Who speaks for itself has its own address.
    let peer = bench.send(FRONT, 443, &[b"PROXY UNKNOWN\r\n", &client_hello(Some("a.test"), &[])[..]].concat());
    let header = header_before(&bench.v2.next(), &client_hello(Some("a.test"), &[]));
    assert_addresses(&header, peer, bench.daemon.at(443));
}

#[test]
fn tcp_listener_sends_the_header_at_once() {
    let bench = Bench::start();
    for (port, witness) in [(444, &bench.v2), (445, &bench.v1)] {
        // Says nothing: the backend may be one that speaks first.
        let stream = connect_from(CLIENT, bench.daemon.at(port));
        let (client, own) = (stream.local_addr().unwrap(), bench.daemon.at(port));
        let mut answer = String::new();
        (&stream).read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "ok", "the backend answers the header");
        drop(stream);
        let brought = witness.next();
        if port == 444 {
            assert_addresses(&header_before(&brought, b""), client, own);
        } else {
            let want = format!("PROXY TCP4 {} {} {} {}\r\n", client.ip(), own.ip(), client.port(), own.port());
            assert_eq!(brought.all, want.as_bytes());
        }
    }
    // Nothing is known better than what the header said that came in.
    let fields = [tlv(AUTHORITY, b"theirs.test"), tlv(ALPN, b"h2"), tlv(AWS, b"\x01vpce-1"), tlv(SSL, &[7; 5])];
    bench.send(FRONT, 444, &v2_from("192.0.2.7:50000", &fields));
    let header = header_before(&bench.v2.next(), b"");
    assert_addresses(&header, "192.0.2.7:50000".parse().unwrap(), "198.51.100.9:443".parse().unwrap());
    for (kind, value) in [(AUTHORITY, &b"theirs.test"[..]), (ALPN, b"h2"), (AWS, b"\x01vpce-1")] {
        assert_eq!(field(&header, kind).as_deref(), Some(value));
    }
}

#[test]
fn health_checks_say_that_they_speak_for_themselves() {
    let address = own_loopback();
    let [off, v1, v2] = [1000, 1001, 1002].map(|port| Witness::start((address, port), "ok"));
    let health = |pool: &str| format!("[pool.{pool}.health]\ncheck = \"tcp\"\ninterval = \"100ms\"\n");
    let body = [CONFIG, &health("off"), &health("v1"), &health("v2")].concat();
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    for (witness, port) in [(&off, 1000), (&v1, 1001), (&v2, 1002)] {
        daemon.wait_for_state(&format!("{address}:{port}"), "up");
        for _ in 0..3 {
            let brought = witness.next().all;
            match port {
                1000 => assert_eq!(brought, b""),
                1001 => {
                    let text = String::from_utf8(brought).unwrap();
                    let words: Vec<&str> = text.split(' ').collect();
                    assert_eq!(
                        (&words[..2], words[3], words[5]),
                        (&["PROXY", "TCP4"][..], &*address.to_string(), "1001\r\n")
                    );
                    assert!(words[2].parse::<Ipv4Addr>().unwrap().is_loopback(), "{text}");
                    assert!(words[4].parse::<u16>().unwrap() > 0, "{text}");
                }
                _ => assert_eq!(brought, [SIGNATURE, b"\x20\0\0\0"].concat()),
            }
        }
    }
}
