//! Every connection that does not get through: the client is told with the right alert, FIN or RST, and there is
//! exactly one record that says why.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::hello::{client_hello, extension, message, padded_hello, record, records, vector, with_extensions};
use support::{Backend, Daemon, alert_of, connect, eventually, exchange};

const ROUTES: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
hello-timeout = "400ms"
deny = ["127.0.0.2/32"]
[[listener.route]]
sni = ["a.test"]
pool = "a"
[[listener.route]]
sni = ["h2.test"]
alpn = ["h2"]
pool = "a"
[[listener.route]]
sni = ["new.test"]
tls-min = "1.3"
pool = "a"
[[listener.route]]
sni = ["reset.test"]
reject = "reset"
[[listener.route]]
sni = ["close.test"]
reject = "close"
[[listener.route]]
sni = ["alert.test"]
reject = "alert"
[[listener.route]]
sni = ["dead.test"]
pool = "dead"
[[listener.route]]
sni = ["unchecked.test"]
pool = "unchecked"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "dead"
[[listener]]
name = "few"
bind = ["{ip}:445"]
max-connections = 1
pool = "a"

[pool.a]
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
[pool.dead]
backends = ["{ip}:1002"]
[pool.dead.health]
check = "tcp"
interval = "100ms"
[pool.unchecked]
backends = ["{ip}:1003", "{ip}:1004"]
"#;

fn start() -> (Daemon, Backend) {
    let address = support::own_loopback();
    let backend = Backend::naming((address, 1001), "a");
    let daemon = Daemon::start_on(address, ROUTES, "", |command| command);
    (daemon, backend)
}

/// What one client meets: an alert or none, and what its record says.
#[track_caller]
fn check(daemon: &Daemon, bytes: &[u8], alert: Option<u8>, end: &str, detail: impl Into<Value>) -> Value {
    let before = daemon.records().len();
    let answer = exchange(daemon.at(443), bytes).unwrap();
    assert_eq!(alert_of(&answer), alert, "{end}: {answer:02x?}");
    assert!(alert.is_some() || answer.is_empty(), "{end}: {answer:02x?}");
    let record = daemon.wait_for_records(before + 1)[before].clone();
    assert_eq!(record["end"], end, "{record}");
    assert_eq!(record["detail"], detail.into(), "{record}");
    record
}

#[test]
fn each_refusal_has_its_alert_and_its_record() {
    let (daemon, _backend) = start();
    let hello = |sni: &str| client_hello(Some(sni), &[]);
    let with = |kind: u16, data: &[u8]| {
        let mut extensions = Vec::new();
        extension(&mut extensions, kind, data);
        record(&with_extensions(&extensions))
    };
    let sni_list = |entries: &[u8]| with(0, &vector(2, entries));
    let entry = |name: &[u8]| [&[0][..], &vector(2, name)].concat();

    check(&daemon, &hello("nobody.test"), Some(112), "no_route", "no route for this server name");
    check(&daemon, &client_hello(None, &[]), Some(112), "no_route", "no route for this server name");
    check(
        &daemon,
        &hello("h2.test"),
        Some(120),
        "no_route",
        "no route for this server name with these application protocols",
    );
    let old = record(&{
        let mut extensions = Vec::new();
        extension(&mut extensions, 0, &vector(2, &entry(b"new.test")));
        with_extensions(&extensions)
    });
    check(&daemon, &old, Some(70), "no_route", "no route for this server name with this TLS version");
    let rejected = check(&daemon, &hello("alert.test"), Some(112), "route_rejected", Value::Null);
    assert_eq!(rejected["route"], format!("{}/sluice.toml:30", daemon.dir().display()));

    check(&daemon, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None, "not_tls", "first bytes are http, not TLS");
    check(&daemon, b"SSH-2.0-OpenSSH_9\r\n", None, "not_tls", "first bytes are ssh, not TLS");
    check(&daemon, &[0x80, 0x2e, 1, 3, 1, 0, 0], Some(70), "not_tls", "SSL 2.0 hello");
    check(&daemon, &[0x16, 2, 0, 0, 5], Some(70), "hello_malformed", "record with major version 2 instead of 3");
    check(&daemon, &[20, 3, 3, 0, 1, 1], Some(10), "hello_malformed", "record of type 20 where the hello was expected");
    check(&daemon, &[0x16, 3, 1, 0x40, 1], Some(22), "hello_malformed", "record of 16385 bytes, more than 16384");
    check(
        &daemon,
        &record(&[2, 0, 0, 0]),
        Some(10),
        "hello_malformed",
        "handshake message of type 2 instead of ClientHello",
    );
    check(
        &daemon,
        &[0x16, 3, 1, 2, 0, 1, 1, 0, 0],
        Some(80),
        "hello_too_large",
        "hello claims 65540 bytes, more than 65536",
    );
    let mut trailing = message(Some("a.test"), &[], 0);
    trailing.push(0);
    let length = trailing.len() as u32 - 4;
    trailing[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    check(&daemon, &record(&trailing), Some(50), "hello_malformed", "wrong length of extensions");
    let twice = {
        let mut extensions = Vec::new();
        extension(&mut extensions, 0, &vector(2, &entry(b"a.test")));
        extension(&mut extensions, 0, &vector(2, &entry(b"a.test")));
        record(&with_extensions(&extensions))
    };
    check(&daemon, &twice, Some(47), "hello_malformed", "extension 0 stands twice");
    let two = [entry(b"a.test"), entry(b"b.test")].concat();
    check(&daemon, &sni_list(&two), Some(50), "hello_malformed", "server name list has more than one entry");
    check(&daemon, &sni_list(&[]), Some(50), "hello_malformed", "server name list is empty");
    check(&daemon, &sni_list(&entry(b"a\0.test")), Some(47), "hello_malformed", "server name has a NUL byte");
    check(&daemon, &with(16, &vector(2, &[])), Some(50), "hello_malformed", "wrong length of application protocols");

    // Each has a counter of its own.
    for (reason, count) in [("sslv2", 1.0), ("http", 1.0), ("ssh", 1.0), ("name_list", 2.0), ("record_too_long", 1.0)] {
        let name = format!("sluice_tls_hello_refused_total{{listener=\"tls\",reason=\"{reason}\"}}");
        assert_eq!(daemon.metric(&name), count, "{reason}");
    }

    check(&daemon, &hello("dead.test"), Some(80), "no_backend", "no backend of pool dead takes connections");
    let before = daemon.records().len();
    let answer = exchange(daemon.at(443), &hello("unchecked.test")).unwrap();
    assert_eq!(alert_of(&answer), Some(80));
    let failed = daemon.wait_for_records(before + 1)[before].clone();
    assert_eq!(failed["end"], "connect_refused", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.ends_with(": Connection refused (os error 111) (try 2 of 3)"), "{detail}");
    assert_eq!(failed["tries"], 2, "both backends were tried: {failed}");
    assert_eq!(daemon.metric("sluice_listener_rejected_total{listener=\"tls\",reason=\"no_backend\"}"), 1.0);
    assert_eq!(daemon.metric("sluice_pool_unavailable_total{pool=\"dead\"}"), 1.0);
}

#[test]
fn large_hello_goes_through_and_a_larger_one_is_refused() {
    let (daemon, _backend) = start();
    assert_eq!(exchange(daemon.at(443), &padded_hello("a.test", 60_000)).unwrap(), b"a");
    let answer = exchange(daemon.at(443), &padded_hello("a.test", 65_500)).unwrap();
    assert_eq!(alert_of(&answer), Some(80));
    // Records of one byte cost six raw bytes for each: over the raw limit for a large hello, fine for a small one.
    let tiny = records(&message(Some("a.test"), &[], 0), 1);
    assert_eq!(exchange(daemon.at(443), &tiny).unwrap(), b"a");
    let answer = exchange(daemon.at(443), &records(&message(Some("a.test"), &[], 40_000), 1)).unwrap();
    assert_eq!(alert_of(&answer), Some(80));
    // Two workers write their records in whatever order.
    let records = daemon.wait_for_records(4);
    let mut ends: Vec<&str> = records.iter().filter_map(|record| record["end"].as_str()).collect();
    ends.sort_unstable();
    assert_eq!(ends, ["done", "done", "hello_too_large", "hello_too_large"]);
}

#[test]
fn denied_source_gets_access_denied() {
    let (daemon, _backend) = start();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&daemon.at(443).into()).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(&client_hello(Some("a.test"), &[])).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(49));
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "source_denied");
}

#[test]
fn routes_reject_by_reset_and_by_close() {
    let (daemon, _backend) = start();
    let error = exchange(daemon.at(443), &client_hello(Some("reset.test"), &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(exchange(daemon.at(443), &client_hello(Some("close.test"), &[])).unwrap(), b"");
    for record in daemon.wait_for_records(2) {
        assert_eq!(record["end"], "route_rejected");
    }
}

#[test]
fn tcp_listener_without_backend_resets() {
    let (daemon, _backend) = start();
    let error = exchange(daemon.at(444), b"anything").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "no_backend");
}

#[test]
fn half_a_hello_ends_at_the_deadline_however_slowly_it_comes() {
    let (daemon, _backend) = start();
    let hello = client_hello(Some("a.test"), &[]);
    let mut stream = connect(daemon.at(443));
    let begun = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 16];
    // One byte every 20 ms keeps the client talking past the deadline, which is absolute.
    let ended = hello.iter().find_map(|byte| {
        let _ = stream.write_all(&[*byte]);
        match stream.read(&mut buffer) {
            Ok(count) => Some(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(_) => Some(0),
        }
    });
    assert_eq!(ended, Some(0), "closed without an alert");
    let took = begun.elapsed();
    assert!((380..4000).contains(&took.as_millis()), "400 ms deadline, took {took:?}");
    let record = daemon.wait_for_records(1)[0].clone();
    assert_eq!(record["end"], "hello_timeout", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("bytes of the hello after"), "{record}");
}

#[test]
fn client_that_leaves_during_the_hello_is_recorded_as_gone() {
    let (daemon, _backend) = start();
    let mut stream = connect(daemon.at(443));
    stream.write_all(&client_hello(Some("a.test"), &[])[..50]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "client_gone");
}

#[test]
fn listener_over_its_limit_refuses_and_recovers() {
    let (daemon, _backend) = start();
    let mut first = connect(daemon.at(445));
    first.write_all(&client_hello(Some("a.test"), &[])[..20]).unwrap();
    eventually("the first is counted", || {
        (daemon.metric("sluice_listener_connections_active{listener=\"few\"}") >= 1.0).then_some(())
    });
    let answer = exchange(daemon.at(445), &client_hello(Some("a.test"), &[])).unwrap();
    assert_eq!(alert_of(&answer), Some(80));
    first.write_all(&client_hello(Some("a.test"), &[])[20..]).unwrap();
    let mut answer = Vec::new();
    first.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"a");
    drop(first);
    eventually("there is room again", || {
        exchange(daemon.at(445), &client_hello(Some("a.test"), &[])).ok().filter(|answer| answer == b"a")
    });
    eventually("a record of the refusal", || {
        daemon.records().iter().any(|record| record["end"] == "limit_reached").then_some(())
    });
}
