//! Servers that do not consent to TLS: the client goes to the next one and notices nothing, or is told with an alert;
//! what it said reaches only a server that consented. And the listener with a single pool, where the server's own
//! answers reach the client.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fmt::Write;

use crate::support::hello::client_hello;
use crate::support::scripted::{Answer, Client, GSS_REQUEST, SSL_REQUEST, START_UP, Scripted, cancel_request};
use crate::support::{Daemon, alert_of, own_loopback};
use serde_json::Value;

/// A server's error packet.
const ERROR: &[u8] = b"E\0\0\0\x37SFATAL\0C57P03\0Mthe database system is starting up\0\0";

/// How a server answers, and what becomes of it: the end, what its record says, and the reason in the metric.
struct Refuser {
    name: &'static str,
    answer: Answer,
    end: &'static str,
    detail: &'static str,
    reason: &'static str,
}

const REFUSERS: [Refuser; 9] = [
    refuser("no", Answer::Says(b"N"), "backend_refused_tls", "answered N to SSLRequest: it has no TLS", "no_tls"),
    refuser(
        "error",
        Answer::Says(ERROR),
        "connect_refused",
        "answered SSLRequest with: the database system is starting up (SQLSTATE 57P03)",
        "error_response",
    ),
    // Of a server that cannot fork: text and NUL, as in protocol 2.
    refuser(
        "old-error",
        Answer::Says(b"Ecould not fork new process\n\0"),
        "connect_refused",
        "answered SSLRequest with: could not fork new process",
        "error_response",
    ),
    refuser(
        "surplus",
        Answer::Says(b"SR\0\0\0\x08\0\0\0\0"),
        "backend_refused_tls",
        "sent 9 unencrypted bytes behind its answer to SSLRequest",
        "bad_answer",
    ),
    refuser(
        "no-surplus",
        Answer::Says(b"NE"),
        "backend_refused_tls",
        "sent 1 unencrypted bytes behind its answer to SSLRequest",
        "bad_answer",
    ),
    refuser(
        "garbage",
        Answer::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        "backend_refused_tls",
        "answered SSLRequest with byte 0x48: not PostgreSQL",
        "bad_answer",
    ),
    refuser("closing", Answer::Closes, "connect_refused", "closed instead of answering SSLRequest", "closed"),
    refuser("resetting", Answer::Resets, "connect_refused", "instead of an answer to SSLRequest", "closed"),
    refuser("silent", Answer::Says(b""), "connect_timeout", "answer to SSLRequest timed out after 1500 ms", "timeout"),
];

const fn refuser(
    name: &'static str,
    answer: Answer,
    end: &'static str,
    detail: &'static str,
    reason: &'static str,
) -> Refuser {
    Refuser { name, answer, end, detail, reason }
}

/// A refuser's port on the address of the test; the server that consents has port 1000.
fn ports() -> impl Iterator<Item = (u16, &'static Refuser)> {
    (1001..).zip(&REFUSERS)
}

/// For each refuser the name `NAME.test`, which leads to it alone, and `NAME.or.test`, which leads to one that consents
/// when it does not.
fn body() -> String {
    let mut body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\n".to_owned();
    let mut pools = String::new();
    for (port, Refuser { name, .. }) in ports() {
        for (sni, pool) in
            [(format!("{name}.test"), (*name).to_owned()), (format!("{name}.or.test"), format!("{name}-or"))]
        {
            // Writing into a string cannot fail.
            let _ = write!(body, "[[listener.route]]\nsni = [\"{sni}\"]\npool = \"{pool}\"\n");
            let _ = write!(pools, "[pool.{pool}]\nconnect-timeout = \"1500ms\"\n[[pool.{pool}.backend]]\n");
            let _ = write!(pools, "name = \"{name}\"\naddress = \"{{ip}}:{port}\"\n");
        }
        let _ =
            write!(pools, "[[pool.{name}-or.backend]]\nname = \"good\"\naddress = \"{{ip}}:1000\"\nbackup = true\n");
    }
    body + &pools
}

#[test]
fn server_that_does_not_consent_to_tls_gets_none_of_the_clients_bytes() {
    let address = own_loopback();
    let servers: Vec<Scripted> =
        ports().map(|(port, refuser)| Scripted::start((address, port), refuser.answer)).collect();
    let good = Scripted::start((address, 1000), Answer::Serves("good"));
    let daemon = Daemon::start_on(address, &body(), "workers = 1", |command| command);
    let hello = |name: &str| client_hello(Some(name), &["postgresql"]);

    for (index, ((port, refuser), server)) in ports().zip(&servers).enumerate() {
        let Refuser { name, end, detail, reason, .. } = refuser;
        let mut client = Client::new(daemon.at(5432)).asked();
        client.say(&hello(&format!("{name}.test")));
        let told = client.rest();
        assert_eq!(alert_of(&told), Some(80), "{name}: {told:02x?}");
        drop(client);
        let told = daemon.wait_for_records(2 * index + 1)[2 * index].clone();

        let sni = format!("{name}.or.test");
        let mut client = Client::new(daemon.at(5432)).asked();
        client.say(&hello(&sni));
        client.expect(b"good");
        drop(client);

        let served = daemon.wait_for_records(2 * index + 2)[2 * index + 1].clone();
        let said = told["detail"].as_str().unwrap();
        let (from, to) = (format!("connect to {address}:{port}: "), " (try 1 of 3)");
        assert!(said.starts_with(&from) && said.contains(detail) && said.ends_with(to), "{name}: {said}");
        assert_eq!((&told["end"], &told["tries"]), (&(*end).into(), &1.into()), "{told}");
        assert_eq!((&told["backend"], &told["bytes_up"]), (&(*name).into(), &0.into()), "{told}");
        assert_eq!((&served["end"], &served["tries"]), (&"done".into(), &2.into()), "{served}");
        assert_eq!((&served["backend"], &served["sni"]), (&"good".into(), &sni.into()), "{served}");
        for pool in [(*name).to_owned(), format!("{name}-or")] {
            let labels = format!("{{pool=\"{pool}\",backend=\"{name}\",reason=\"{reason}\"}}");
            assert_eq!(daemon.metric(&format!("sluice_backend_connect_errors_total{labels}")), 1.0, "{labels}");
        }
        assert_eq!(server.heard_all(2), [SSL_REQUEST, SSL_REQUEST], "{name}");
    }
    let heard = good.heard_all(REFUSERS.len());
    for (bytes, refuser) in heard.iter().zip(&REFUSERS) {
        assert!(*bytes == [&SSL_REQUEST[..], &hello(&format!("{}.or.test", refuser.name))].concat());
    }
}

/// A listener with one pool of one server.
#[track_caller]
fn relayed(answer: Answer) -> (Daemon, Scripted) {
    let address = own_loopback();
    let server = Scripted::start((address, 1000), answer);
    let body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\npool = \"one\"\n\
        [[listener.route]]\nsni = [\"a.test\"]\npool = \"one\"\n\
        [pool.one]\n[[pool.one.backend]]\nname = \"one\"\naddress = \"{ip}:1000\"\n";
    (Daemon::start_on(address, body, "workers = 2", |command| command), server)
}

#[test]
fn with_a_single_pool_the_servers_own_answer_reaches_the_client() {
    // The client speaks first; what it says and what it is told pass as they are.
    for said in [&SSL_REQUEST[..], &GSS_REQUEST, &START_UP, b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0, 9, 9, 9, 9]] {
        for answer in [&b"N"[..], b"G", ERROR, b"S and more"] {
            let (daemon, server) = relayed(Answer::Says(answer));
            let mut client = Client::new(daemon.at(5432));
            client.say(said);
            client.expect(answer);
            client.say(b"and more");
            drop(client);
            assert_eq!(server.heard_all(1), [[said, b"and more"].concat()]);
            let record = daemon.wait_for_records(1)[0].clone();
            assert_eq!((&record["end"], &record["pool"]), (&"done".into(), &"one".into()), "{record}");
            assert_eq!(record["bytes_down"], answer.len(), "{record}");
        }
    }
}

#[test]
fn with_a_single_pool_a_cancel_request_still_finds_the_sessions_of_its_source() {
    let (daemon, server) = relayed(Answer::Serves("one"));
    let cancel = |source: u8| {
        let mut client = Client::from([127, 0, 0, source], daemon.at(5432));
        client.say(&cancel_request(4));
        client.expect_silence();
    };
    let mut session = Client::new(daemon.at(5432));
    session.say(&START_UP);
    session.expect(b"one");
    cancel(2);
    cancel(1);
    let heard: Vec<_> = server.heard().into_iter().map(|one| one.bytes).collect();
    assert_eq!(heard, [START_UP.to_vec(), cancel_request(4)]);
    let count = |result: &str| {
        daemon.metric(&format!("sluice_postgres_cancels_total{{listener=\"databases\",result=\"{result}\"}}"))
    };
    assert_eq!((count("sent"), count("no_session")), (1.0, 1.0));
}

#[test]
fn cancel_request_finds_sessions_whose_pool_a_reload_renamed() {
    let address = own_loopback();
    let backend = Scripted::start((address, 1001), Answer::Serves("a"));
    let body = |pool: &str| {
        format!(
            "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{{ip}}:5432\"]\n\
             [[listener.route]]\nsni = [\"a.test\"]\npool = \"{pool}\"\n[pool.{pool}]\nbackends = [\"{{ip}}:1001\"]\n"
        )
    };
    let daemon = Daemon::start_on(address, &body("old"), "", |command| command);
    let mut session = Client::new(daemon.at(5432)).asked();
    session.say(&client_hello(Some("a.test"), &[]));
    session.expect(b"a");
    daemon.write_config(&body("new"), "");
    daemon.reload();
    let mut client = Client::new(daemon.at(5432));
    client.say(&cancel_request(4));
    client.expect_silence();
    assert_eq!(backend.heard().iter().filter(|one| one.bytes == cancel_request(4)).count(), 1);
}

#[test]
fn text_of_an_error_that_comes_in_pieces_is_whole_in_the_record() {
    let address = own_loopback();
    let (front, back) = ERROR.split_at(7);
    let _server = Scripted::start((address, 1001), Answer::SaysInPieces(front, back));
    let body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\n\
         [[listener.route]]\nsni = [\"a.test\"]\npool = \"a\"\n[pool.a]\nbackends = [\"{ip}:1001\"]\n";
    let daemon = Daemon::start_on(address, body, "", |command| command);
    let mut client = Client::new(daemon.at(5432)).asked();
    client.say(&client_hello(Some("a.test"), &[]));
    assert_eq!(alert_of(&client.rest()), Some(80));
    let record = daemon.wait_for_records(1)[0].clone();
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("the database system is starting up (SQLSTATE 57P03)"), "{record}");
}

/// Who asked for TLS and was told `S` gets no further without it, whatever routes there are for sessions without TLS.
#[test]
fn plain_text_after_consent_to_tls_is_refused() {
    let address = own_loopback();
    let (tls, plain) = (
        Scripted::start((address, 1001), Answer::Serves("tls")),
        Scripted::start((address, 1002), Answer::Serves("plain")),
    );
    let body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\n\
         [[listener.route]]\nsni = [\"a.test\"]\npool = \"tls\"\n\
         [[listener.route]]\nfirst-bytes = [\"postgres\"]\npool = \"plain\"\n\
         [pool.tls]\nbackends = [\"{ip}:1001\"]\n[pool.plain]\nbackends = [\"{ip}:1002\"]\n";
    let daemon = Daemon::start_on(address, body, "workers = 1\n", |command| command);
    for (count, packet) in [&START_UP[..], &SSL_REQUEST, &cancel_request(4)].into_iter().enumerate() {
        let mut client = Client::new(daemon.at(5432)).asked();
        client.say(packet);
        assert!(client.rest().is_empty(), "no answer of either protocol fits");
        let record = daemon.wait_for_records(count + 1)[count].clone();
        assert_eq!((&record["end"], &record["pool"]), (&"not_tls".into(), &Value::Null), "{record}");
    }
    assert!(tls.heard().is_empty() && plain.heard().is_empty());
    // Without asking first, the route for it takes it.
    let mut client = Client::new(daemon.at(5432));
    client.say(&START_UP);
    client.expect(b"plain");
}

/// A route for sessions without TLS restricts them, although everything leads to one pool.
#[test]
fn restricted_sessions_without_tls_are_not_relayed_past_their_route() {
    let address = own_loopback();
    let server = Scripted::start((address, 1001), Answer::Serves("a"));
    let body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\npool = \"a\"\n\
         [[listener.route]]\nfirst-bytes = [\"postgres\"]\nfrom = [\"127.0.0.2/32\"]\npool = \"a\"\n\
         [pool.a]\nbackends = [\"{ip}:1001\"]\n";
    let daemon = Daemon::start_on(address, body, "", |command| command);
    let mut stranger = Client::from([127, 0, 0, 3], daemon.at(5432));
    stranger.say(&START_UP);
    assert!(stranger.rest().starts_with(b"E"));
    assert!(server.heard().is_empty());
    let mut known = Client::from([127, 0, 0, 2], daemon.at(5432));
    known.say(&START_UP);
    known.expect(b"a");
}

/// A server that does not close after a cancel request holds nothing up for long, least of all the end of the process.
#[test]
fn stop_does_not_wait_for_a_cancel_request() {
    let address = own_loopback();
    let server = Scripted::start((address, 1001), Answer::Serves("a"));
    let body = "[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{ip}:5432\"]\n\
         [[listener.route]]\nsni = [\"a.test\"]\npool = \"a\"\n[pool.a]\nbackends = [\"{ip}:1001\"]\n";
    let mut daemon = Daemon::start_on(address, body, "shutdown-grace = \"200ms\"\n", |command| command);
    let mut session = Client::new(daemon.at(5432)).asked();
    session.say(&client_hello(Some("a.test"), &[]));
    session.expect(b"a");
    // Takes the place of the server: accepts by its backlog and never closes.
    drop(server);
    let _deaf = std::net::TcpListener::bind((address, 1001)).unwrap();
    let mut client = Client::new(daemon.at(5432));
    client.say(&cancel_request(4));
    crate::support::eventually("the cancel request is there", || {
        (daemon.metric("sluice_listener_connections_active{listener=\"databases\"}") >= 2.0).then_some(())
    });
    let begun = std::time::Instant::now();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
}
