//! What comes before TLS on a listener that speaks PostgreSQL, byte by byte: requests and their answers, clients
//! without TLS, cancel requests, servers that answer something else, and the listener with a single pool.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::hello::client_hello;
use crate::support::scripted::{
    Answer, Client, GSS_REQUEST, SSL_REQUEST, START_UP, Scripted, cancel_request, error_of,
};
use crate::support::{Daemon, alert_of, own_loopback};
use serde_json::Value;

/// Listener, and servers `a`, `b` and `plain` behind it. 127.0.0.3 finds no route that takes TLS, 127.0.0.4 no route
/// for anything, 127.0.0.5 is denied.
const ROUTES: &str = r#"
[[listener]]
name = "databases"
protocol = "postgres"
bind = ["{ip}:5432"]
hello-timeout = "60s"
deny = ["127.0.0.5/32"]
[[listener.route]]
sni = ["a.test"]
from = ["127.0.0.1/32", "127.0.0.2/32"]
pool = "a"
[[listener.route]]
sni = ["b.test"]
from = ["127.0.0.1/32", "127.0.0.2/32"]
pool = "b"
[[listener.route]]
first-bytes = ["postgres"]
from = ["127.0.0.2/31"]
pool = "plain"

[pool.a]
[[pool.a.backend]]
name = "a"
address = "{ip}:1001"
[pool.b]
[[pool.b.backend]]
name = "b"
address = "{ip}:1002"
[pool.plain]
[[pool.plain.backend]]
name = "plain"
address = "{ip}:1003"
"#;

const TLS_REQUIRED: &str = "TLS required: connect with sslmode=require or stronger";
const UNEXPECTED: &str = "unexpected bytes before the start of TLS";

struct Bench {
    daemon: Daemon,
    at: SocketAddr,
    a: Scripted,
    b: Scripted,
    plain: Scripted,
}

impl Bench {
    #[track_caller]
    fn start(global: &str) -> Self {
        let address = own_loopback();
        let [a, b, plain] = [(1001, "a"), (1002, "b"), (1003, "plain")]
            .map(|(port, name)| Scripted::start((address, port), Answer::Serves(name)));
        let daemon = Daemon::start_on(address, ROUTES, global, |command| command);
        Self { at: daemon.at(5432), daemon, a, b, plain }
    }

    /// The record that the next connection leaves, with its end and detail.
    #[track_caller]
    fn next_record(&self, known: usize, end: &str, detail: impl Into<Value>) -> Value {
        let record = self.daemon.wait_for_records(known + 1)[known].clone();
        assert_eq!((&record["end"], &record["detail"]), (&end.into(), &detail.into()), "{record}");
        record
    }

    /// One connection that says all this at once is told so in an error packet, without delay.
    #[track_caller]
    fn check_error(&self, source: u8, said: &[&[u8]], error: (&str, &str), end: &str, detail: &str) {
        let known = self.daemon.records().len();
        let mut client = Client::from([127, 0, 0, source], self.at);
        let begun = Instant::now();
        client.say(&said.concat());
        let (state, message) = error_of(&client.rest());
        let took = begun.elapsed();
        assert_eq!((&*state, &*message), error);
        // Not even the second that a lingering close takes.
        assert!(took < Duration::from_millis(950), "{took:?}");
        drop(client);
        self.next_record(known, end, detail);
    }

    fn cancels(&self, result: &str) -> f64 {
        cancels(&self.daemon, result)
    }
}

fn cancels(daemon: &Daemon, result: &str) -> f64 {
    daemon.metric(&format!("sluice_postgres_cancels_total{{listener=\"databases\",result=\"{result}\"}}"))
}

fn hello(name: &str) -> Vec<u8> {
    client_hello(Some(name), &["postgresql"])
}

#[test]
fn each_request_is_answered_with_exactly_one_byte_and_the_server_is_asked_the_same() {
    let bench = Bench::start("");
    // Ends the session. A record each time: those of two workers may come in any order.
    let end = |client: Client, known: usize, name: &str| {
        drop(client);
        let record = bench.daemon.wait_for_records(known + 1)[known].clone();
        assert_eq!(record["sni"], format!("{name}.test"), "{record}");
        assert_eq!((&record["pool"], &record["backend"]), (&name.into(), &name.into()), "{record}");
        assert_eq!((&record["tries"], &record["alpn"]), (&1.into(), &"postgresql".into()), "{record}");
        // One byte of the server's is all that went down: neither its `S` nor ours counts, being no client's.
        assert_eq!((&record["bytes_down"], &record["end"]), (&1.into(), &"done".into()), "{record}");
    };
    // With nothing between `S` and what the server says, the answer was one byte.
    let mut client = Client::new(bench.at).asked();
    client.say(&hello("a.test"));
    client.expect(b"a");
    end(client, 0, "a");

    let mut client = Client::new(bench.at);
    client.say(&GSS_REQUEST);
    client.expect(b"N");
    let mut client = client.asked();
    client.say(&hello("B.test."));
    client.expect(b"b");
    end(client, 1, "b");

    // As of PostgreSQL 17, without a request.
    let mut client = Client::new(bench.at);
    client.say(&hello("a.test"));
    client.expect(b"a");
    end(client, 2, "a");

    let ours = [&SSL_REQUEST[..], &hello("a.test")].concat();
    assert_eq!(bench.a.heard_all(2), [ours, hello("a.test")]);
    assert_eq!(bench.b.heard_all(1), [[&SSL_REQUEST[..], &hello("B.test.")].concat()]);
}

#[test]
fn request_in_two_segments_is_the_same_request_wherever_it_is_cut() {
    let bench = Bench::start("");
    for cut in 1..SSL_REQUEST.len() {
        let mut client = Client::new(bench.at);
        client.say(&SSL_REQUEST[..cut]);
        client.wait_until_read();
        client.say(&SSL_REQUEST[cut..]);
        client.expect(b"S");
        client.say(&hello("a.test"));
        client.expect(b"a");
    }
    // And all of it byte by byte, the hello too.
    let mut client = Client::new(bench.at);
    for byte in SSL_REQUEST {
        client.say(&[byte]);
        client.wait_until_read();
    }
    client.expect(b"S");
    for byte in hello("a.test") {
        client.say(&[byte]);
    }
    client.expect(b"a");
    drop(client);
    let want = [&SSL_REQUEST[..], &hello("a.test")].concat();
    let heard = bench.a.heard_all(SSL_REQUEST.len());
    assert!(heard.iter().all(|bytes| *bytes == want), "{heard:02x?}");
}

#[test]
fn unencrypted_bytes_behind_a_request_are_refused() {
    let bench = Bench::start("");
    let behind = |request: &str| format!("unencrypted bytes behind {request}");
    let malformed = |said: &[&[u8]], request: &str| {
        bench.check_error(1, said, ("08P01", UNEXPECTED), "hello_malformed", &behind(request));
    };
    malformed(&[&SSL_REQUEST, &hello("a.test")], "SSLRequest");
    malformed(&[&SSL_REQUEST, &[0x16]], "SSLRequest");
    malformed(&[&SSL_REQUEST, &SSL_REQUEST], "SSLRequest");
    malformed(&[&SSL_REQUEST, &START_UP], "SSLRequest");
    malformed(&[&GSS_REQUEST, &SSL_REQUEST], "GSSENCRequest");
    assert_eq!(bench.a.heard(), []);
}

#[test]
fn requests_come_once_and_what_follows_them_must_fit() {
    let bench = Bench::start("");
    let detail = |index: usize, end: &str, detail: &str| drop(bench.next_record(index, end, detail));
    let answered = |source: u8, request: &[u8], answer: &[u8], then: &[u8]| {
        let mut client = Client::from([127, 0, 0, source], bench.at);
        client.say(request);
        client.expect(answer);
        client.say(then);
        client.rest()
    };
    let protocol = ("08P01".to_owned(), UNEXPECTED.to_owned());
    // Who has been told `S` expects TLS, and an error packet would be none.
    assert!(answered(1, &SSL_REQUEST, b"S", &SSL_REQUEST).is_empty());
    detail(0, "not_tls", "first bytes are postgres, not TLS");
    assert_eq!(error_of(&answered(1, &GSS_REQUEST, b"N", &GSS_REQUEST)), protocol);
    detail(1, "hello_malformed", "GSSENCRequest twice");
    // No route could take TLS from here, as a server without TLS says it.
    assert_eq!(error_of(&answered(3, &SSL_REQUEST, b"N", &SSL_REQUEST)), protocol);
    detail(2, "hello_malformed", "SSLRequest twice");
    assert_eq!(error_of(&answered(3, &SSL_REQUEST, b"N", &hello("a.test"))), protocol);
    detail(3, "hello_malformed", "TLS record after a request was answered with N");
    assert_eq!(alert_of(&answered(1, &SSL_REQUEST, b"S", &hello("nobody.test"))), Some(112));
    detail(4, "no_route", "no route for this server name");
    assert_eq!([bench.a.heard(), bench.b.heard(), bench.plain.heard()], [vec![], vec![], vec![]]);
}

#[test]
fn clients_without_tls_are_told_at_once() {
    let bench = Bench::start("");
    let required = ("28000", TLS_REQUIRED);
    bench.check_error(1, &[&START_UP], required, "not_tls", "start-up packet without TLS");
    // Protocol 3.2, and a packet of which the rest never comes.
    bench.check_error(1, &[&[0, 0, 1, 0, 0, 3, 0, 2]], required, "not_tls", "start-up packet without TLS");
    // Where TLS would not help either, it is not asked for.
    let nowhere = ("28000", "no route for this connection");
    bench.check_error(4, &[&START_UP], nowhere, "no_route", "no route for this server name from this source");
    let denied = ("28000", "connections from this address are not allowed");
    bench.check_error(5, &[&SSL_REQUEST], denied, "source_denied", "denied by `allow` and `deny`");

    // Neither PostgreSQL nor TLS: no language to answer in.
    for (index, (said, detail)) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "first bytes are http, neither PostgreSQL nor TLS"),
        (&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2d], "start-up packet with code 0x04d2162d"),
        (&[0, 0, 0, 9, 0x04, 0xd2, 0x16, 0x2f], "start-up packet of 9 bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::new(bench.at);
        client.say(said);
        client.expect_silence();
        drop(client);
        bench.next_record(4 + index, "not_tls", detail);
    }
    assert_eq!([bench.a.heard(), bench.b.heard(), bench.plain.heard()], [vec![], vec![], vec![]]);
}

#[test]
fn clients_without_tls_reach_the_pool_of_a_route_for_them_unchanged() {
    let bench = Bench::start("");
    let more = b"Q\0\0\0\x0dSELECT 1\0";
    // The second asks for TLS first, as sslmode=prefer does where no route could take it.
    for (source, asks) in [(2, false), (3, true)] {
        let mut client = Client::from([127, 0, 0, source], bench.at);
        if asks {
            client.say(&SSL_REQUEST);
            client.expect(b"N");
        }
        client.say(&START_UP);
        client.expect(b"plain");
        client.say(more);
    }
    let want = [&START_UP[..], more].concat();
    assert_eq!(bench.plain.heard_all(2), [want.clone(), want]);
    for record in bench.daemon.wait_for_records(2) {
        assert_eq!((&record["pool"], &record["end"]), (&"plain".into(), &"done".into()), "{record}");
    }
}

#[test]
fn cancel_request_goes_to_each_server_on_which_its_source_has_sessions() {
    let bench = Bench::start("workers = 2");
    let session = |source: u8, name: &str| {
        let mut client = Client::from([127, 0, 0, source], bench.at).asked();
        client.say(&hello(&format!("{name}.test")));
        client.expect(name.as_bytes());
        client
    };
    // Two on the same server, one on another, and a third server on which only somebody else has one.
    let sessions = [session(1, "a"), session(1, "a"), session(1, "b")];
    let mut other = Client::from([127, 0, 0, 2], bench.at);
    other.say(&START_UP);
    other.expect(b"plain");
    for key in [4, 256] {
        let request = cancel_request(key);
        let mut client = Client::new(bench.at);
        client.say(&request);
        client.expect_silence();
        let got = |server: &Scripted| server.heard().iter().filter(|one| one.bytes == request && one.ended).count();
        // Closed only after the servers have: clients wait for that, to know that it is done.
        assert_eq!((got(&bench.a), got(&bench.b)), (1, 1), "{key}: {:?} {:?}", bench.a.heard(), bench.b.heard());
    }
    assert_eq!(bench.a.heard().len(), 4);
    assert_eq!(bench.b.heard().len(), 3);
    assert_eq!(bench.plain.heard().len(), 1);
    assert_eq!((bench.cancels("sent"), bench.cancels("no_session")), (2.0, 0.0));
    for record in bench.daemon.wait_for_records(2) {
        assert_eq!((&record["end"], &record["backend"]), (&"done".into(), &Value::Null), "{record}");
        assert_eq!(record["detail"], "cancel request sent to 2 of 2 backends", "{record}");
    }
    drop((sessions, other));
}

#[test]
fn cancel_request_counts_as_sent_when_one_server_takes_it_and_goes_to_eight_at_most() {
    let address = own_loopback();
    let mut body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\n".to_owned();
    let mut servers = Vec::new();
    let mut pools = String::new();
    for port in 1001..=1011 {
        // Writing into a string cannot fail.
        let _ = write!(body, "[[listener.route]]\nsni = [\"{port}.test\"]\npool = \"{port}\"\n");
        let _ = write!(pools, "[pool.{port}]\nbackends = [\"{{ip}}:{port}\"]\n");
        servers.push(Scripted::start((address, port), Answer::Serves("server")));
    }
    let daemon = Daemon::start_on(address, &(body + &pools), "workers = 2", |command| command);
    let session = |port: u16| {
        let mut client = Client::new(daemon.at(5432)).asked();
        client.say(&hello(&format!("{port}.test")));
        client.expect(b"server");
        client
    };
    let cancel = |known: usize| {
        let mut client = Client::new(daemon.at(5432));
        client.say(&cancel_request(4));
        client.expect_silence();
        drop(client);
        let record = daemon.wait_for_records(known + 1)[known].clone();
        (record["end"].as_str().unwrap().to_owned(), record["detail"].as_str().unwrap().to_owned())
    };
    let mut sessions = vec![session(1001), session(1002)];
    servers[0].stop();
    assert_eq!(cancel(0), ("done".to_owned(), "cancel request sent to 1 of 2 backends".to_owned()));
    servers[1].stop();
    assert_eq!(cancel(1), ("connect_refused".to_owned(), "cancel request: none of 2 backends took it".to_owned()));
    assert_eq!((cancels(&daemon, "sent"), cancels(&daemon, "failed")), (1.0, 1.0));
    // Their sessions go; one with each of the nine others comes.
    drop(sessions);
    daemon.wait_for_records(4);
    servers.drain(..2);
    sessions = (1003..=1011).map(session).collect();
    assert_eq!(cancel(4), ("done".to_owned(), "cancel request sent to 8 of 9 backends".to_owned()));
    let heard: Vec<usize> = servers.iter().map(|server| server.heard().len()).collect();
    assert_eq!(heard.iter().sum::<usize>(), 9 + 8, "{heard:?}");
    drop(sessions);
}

#[test]
fn cancel_request_without_sessions_contacts_nobody_and_too_many_are_not_looked_at() {
    // The rate is the source's, however many workers its connections meet.
    let bench = Bench::start("workers = 4");
    // One whose sessions are over has none.
    let mut client = Client::new(bench.at).asked();
    client.say(&hello("a.test"));
    client.expect(b"a");
    drop(client);
    bench.daemon.wait_for_records(1);
    let mut client = Client::new(bench.at);
    client.say(&cancel_request(4));
    client.expect_silence();
    drop(client);
    bench.next_record(1, "no_route", "cancel request of a source that has no sessions here");
    assert_eq!(bench.cancels("no_session"), 1.0);

    let most = 180;
    let begun = Instant::now();
    let mut flood: Vec<Client> = (0..most).map(|_| Client::new(bench.at)).collect();
    for client in &mut flood {
        client.say(&cancel_request(4));
    }
    assert!(flood.iter_mut().all(|client| client.rest().is_empty()));
    drop(flood);
    let (took, limited) = (begun.elapsed().as_secs_f64(), bench.cancels("rate_limited"));
    let looked_at = bench.cancels("no_session");
    // 100 at once and 50 each second.
    assert_eq!(looked_at + limited, f64::from(most + 1));
    assert!(limited >= 1.0 && looked_at >= 100.0 && looked_at <= 102.0 + took * 50.0, "{looked_at} in {took} s");
    let records = bench.daemon.wait_for_records(most as usize + 2);
    let ended = records.iter().filter(|record| record["end"] == "rate_limited").count();
    assert_eq!(ended as f64, limited);

    // Somebody else is not held up by it.
    let mut other = Client::from([127, 0, 0, 2], bench.at);
    other.say(&cancel_request(4));
    other.expect_silence();
    assert_eq!(bench.cancels("no_session"), looked_at + 1.0);
    assert_eq!([bench.a.heard().len(), bench.b.heard().len(), bench.plain.heard().len()], [1, 0, 0]);
}
