//! Options of the data path: which way bytes take, connections that are ready before anybody asks, addresses to connect
//! from, and readers that pause.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::hello::client_hello;
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback};

const BULK: usize = 8 << 20;

/// A listener for TLS, one that looks at nothing, and a pool with these lines.
fn body(pool: &str) -> String {
    format!(
        "[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\npool = \"a\"\n\
         [[listener]]\nname = \"tcp\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:444\"]\npool = \"a\"\n\
         [pool.a]\nbackends = [\"{{ip}}:1001\"]\n{pool}\n"
    )
}

/// A backend that answers whatever comes first with `BULK` bytes.
fn bulk(address: impl Into<std::net::SocketAddr>) -> Backend {
    Backend::start(address, |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(&vec![7; BULK]);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    })
}

#[test]
fn bytes_take_the_way_that_the_pool_says() {
    for (relay, down) in [("copy", &["copy"][..]), ("splice", &["splice"]), ("auto", &["mixed"])] {
        let address = own_loopback();
        let _backend = bulk((address, 1001));
        let daemon = Daemon::start_on(address, &body(&format!("relay = \"{relay}\"")), "", |command| command);
        assert_eq!(exchange(daemon.at(443), &client_hello(Some("a.test"), &[])).unwrap().len(), BULK);
        let record = daemon.wait_for_records(1)[0].clone();
        assert!(down.contains(&record["path_down"].as_str().unwrap()), "{relay}: {record}");
        assert_eq!(record["end"], "done", "{record}");
        // The same in bytes: in status and metrics.
        let status = daemon.json("/v1/status");
        let of = |key: &str| -> u64 {
            status["workers"].as_array().unwrap().iter().map(|worker| worker["moved"][key].as_u64().unwrap()).sum()
        };
        let [copied, spliced] = ["copied_down", "spliced_down"].map(of);
        assert_eq!(copied + spliced, BULK as u64, "{status}");
        assert_eq!((copied > 0, spliced > 0), (relay != "splice", relay != "copy"), "{status}");
        let counted = ["copy", "splice"].map(|path| {
            daemon.metric(&format!("sluice_relay_bytes_total{{path=\"{path}\",direction=\"down\"}}")) as u64
        });
        assert_eq!(counted, [copied, spliced]);
    }
    // So many full reads in a row do not come: it is never spliced.
    let address = own_loopback();
    let _backend = Backend::start((address, 1001), |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(&vec![7; 2 << 20]);
        }
    });
    let global = "[global.relay]\nfull-reads = 100\npipe-size = \"64KiB\"\nturn = \"16KiB\"\n";
    let daemon = Daemon::start_on(address, &body(""), global, |command| command);
    assert_eq!(exchange(daemon.at(443), &client_hello(Some("a.test"), &[])).unwrap().len(), 2 << 20);
    assert_eq!(daemon.wait_for_records(1)[0]["path_down"], "copy");
}

fn ready(daemon: &Daemon) -> f64 {
    daemon.metric(&format!("sluice_backend_ready_connections{{pool=\"a\",backend=\"{}\"}}", daemon.at(1001)))
}

fn readied(daemon: &Daemon, result: &str) -> f64 {
    let backend = daemon.at(1001);
    daemon.metric(&format!("sluice_backend_ready_total{{pool=\"a\",backend=\"{backend}\",result=\"{result}\"}}"))
}

#[track_caller]
fn wait_for_ready(daemon: &Daemon, count: f64) {
    eventually(&format!("{count} ready connections"), || (ready(daemon) == count).then_some(()));
}

#[test]
fn ready_connections_are_kept_used_and_replaced() {
    let address = own_loopback();
    let backend = Backend::naming((address, 1001), "a");
    let daemon = Daemon::start_on(address, &body("preconnect = 2"), "workers = 1\n", |command| command);
    wait_for_ready(&daemon, 2.0);
    // The backend's thread may come to its count after the daemon to its own.
    let accepted = |count: u32, what: &str| eventually(what, || (backend.accepted() == count).then_some(()));
    accepted(2, "two before any client");
    let hello = client_hello(Some("a.test"), &[]);
    for turn in 1..=6 {
        assert_eq!(exchange(daemon.at(443), &hello).unwrap(), b"a");
        wait_for_ready(&daemon, 2.0);
        assert_eq!(readied(&daemon, "used"), f64::from(turn));
        accepted(2 + turn as u32, "one is brought for each that is used");
    }
    assert_eq!(readied(&daemon, "discarded"), 0.0);
    // Nobody knows who speaks first there.
    let mut plain = connect(daemon.at(444));
    plain.write_all(b"x").unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    assert_eq!((answer.as_slice(), readied(&daemon, "used")), (&b"a"[..], 6.0));
    drop(plain);
    let loaded = || daemon.json("/v1/backends")[0]["active"].as_u64();
    eventually("ready connections are no load", || (loaded() == Some(0) && ready(&daemon) == 2.0).then_some(()));

    // A reload that wants none lets them go.
    let before = daemon.descriptors();
    daemon.write_config(&body(""), "workers = 1\n");
    daemon.reload();
    eventually("they are closed", || (daemon.descriptors() + 2 <= before).then_some(()));
    wait_for_ready(&daemon, 0.0);
}

#[test]
fn ready_connections_that_the_backend_closed_or_spoke_on_are_not_used() {
    let address = own_loopback();
    // Closes after a short silence, as servers do; a client that has spoken gets its answer.
    let _backend = Backend::start((address, 1001), |mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(b"a");
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let daemon = Daemon::start_on(address, &body("preconnect = 3"), "workers = 1\n", |command| command);
    let hello = client_hello(Some("a.test"), &[]);
    let mut lost = 0;
    for _ in 0..60 {
        // Between the look and the write a server may still close: that is the one way to notice it.
        lost += usize::from(exchange(daemon.at(443), &hello).ok().as_deref() != Some(b"a"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(lost <= 1, "{lost} of 60 clients noticed");
    assert!(readied(&daemon, "discarded") > 0.0, "some were closed before they were used");
    assert!(readied(&daemon, "used") > 0.0, "and some were used");

    // A server that speaks first is found out before a client's byte reaches it on such a connection.
    let address = own_loopback();
    let spoken_on = Arc::new(AtomicUsize::new(0));
    let spoken = Arc::clone(&spoken_on);
    let _greeter = Backend::start((address, 1001), move |mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        spoken.fetch_add(1, Ordering::Relaxed);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let daemon = Daemon::start_on(address, &body("preconnect = 1"), "workers = 1\n", |command| command);
    eventually("they are discarded", || (readied(&daemon, "discarded") >= 2.0).then_some(()));
    // They are looked at twice a second: one that was spoken on just now is there when the client comes.
    let before = spoken_on.load(Ordering::Relaxed);
    eventually("the next one is spoken on", || (spoken_on.load(Ordering::Relaxed) > before).then_some(()));
    let mut client = connect(daemon.at(443));
    client.write_all(&hello).unwrap();
    let mut greeting = [0; 11];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 hello\r\n", "once");
    assert_eq!(readied(&daemon, "used"), 0.0);
}

#[test]
fn ready_connections_leave_places_to_clients() {
    for (pool, backend) in [("", "max-connections = 10\n"), ("max-connections = 10\n", "")] {
        let address = own_loopback();
        let _backend = Backend::echo((address, 1001));
        let body = body(&format!("preconnect = 4\n{pool}")).replace("backends = [\"{ip}:1001\"]\n", "");
        let body = format!("{body}[[pool.a.backend]]\nname = \"b\"\naddress = \"{{ip}}:1001\"\n{backend}");
        let daemon = Daemon::start_on(address, &body, "workers = 1\n", |command| command);
        let metric = "sluice_backend_ready_connections{pool=\"a\",backend=\"b\"}";
        let settled = |want: f64| {
            eventually(&format!("{want} are ready"), || (daemon.metric(metric) == want).then_some(()));
        };
        settled(4.0);
        let hello = client_hello(Some("a.test"), &[]);
        let session = || {
            let mut stream = connect(daemon.at(443));
            stream.write_all(&hello).unwrap();
            stream.read_exact(&mut vec![0; hello.len()]).unwrap();
            stream
        };
        let mut open: Vec<TcpStream> = (0..8).map(|_| session()).collect();
        settled(2.0);
        open.extend([session(), session()]);
        settled(0.0);
        open.truncate(3);
        settled(4.0);
    }
}

#[test]
fn ready_connections_go_when_places_run_short_or_the_backend_is_drained() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let global = "workers = 1\nmax-connections = 20\n";
    let daemon = Daemon::start_on(address, &body("preconnect = 4"), global, |command| command);
    wait_for_ready(&daemon, 4.0);
    let path = format!("a/{}", daemon.at(1001));
    assert!(daemon.cli(&["drain", &path]).status.success());
    wait_for_ready(&daemon, 0.0);
    assert!(daemon.cli(&["enable", &path]).status.success());
    wait_for_ready(&daemon, 4.0);
    let hello = client_hello(Some("a.test"), &[]);
    let open = |count: usize| -> Vec<TcpStream> {
        let session = |_| {
            let mut stream = connect(daemon.at(443));
            stream.write_all(&hello).unwrap();
            stream.read_exact(&mut vec![0; hello.len()]).unwrap();
            stream
        };
        (0..count).map(session).collect()
    };
    let sessions = open(18);
    wait_for_ready(&daemon, 0.0);
    drop(sessions);
    wait_for_ready(&daemon, 4.0);
}

#[test]
fn sources_take_turns_and_one_that_is_not_ours_fails_locally() {
    let address = own_loopback();
    let seen = Arc::<Mutex<BTreeSet<IpAddr>>>::default();
    let peers = Arc::clone(&seen);
    let _backend = Backend::start((address, 1001), move |mut stream| {
        peers.lock().unwrap().insert(stream.peer_addr().unwrap().ip());
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(b"a");
        }
    });
    let pool = "source-address = [\"127.0.0.11\", \"127.0.0.12\"]";
    let daemon = Daemon::start_on(address, &body(pool), "", |command| command);
    let hello = client_hello(Some("a.test"), &[]);
    for _ in 0..40 {
        assert_eq!(exchange(daemon.at(443), &hello).unwrap(), b"a");
    }
    let want: BTreeSet<IpAddr> = ["127.0.0.11", "127.0.0.12"].map(|text| text.parse().unwrap()).into();
    assert_eq!(*seen.lock().unwrap(), want);

    // The next one is tried when one has nothing left; without any, it is no fault of the backend.
    let pool = "source-address = [\"192.0.2.1\", \"127.0.0.12\"]";
    daemon.write_config(&body(pool), "");
    daemon.reload();
    for _ in 0..10 {
        assert_eq!(exchange(daemon.at(443), &hello).unwrap(), b"a");
    }
    daemon.write_config(&body("source-address = \"192.0.2.1\""), "");
    daemon.reload();
    assert_eq!(support::alert_of(&exchange(daemon.at(443), &hello).unwrap()), Some(80));
    let records = daemon.wait_for_records(51);
    let record = records.iter().find(|record| record["end"] == "local_error").expect("a record of it");
    assert!(record["detail"].as_str().unwrap().contains("no port of 192.0.2.1 is left"), "{record}");
    let errors =
        format!("sluice_backend_connect_errors_total{{pool=\"a\",backend=\"{}\",reason=\"local\"}}", daemon.at(1001));
    assert!(daemon.metric(&errors) >= 1.0);
}

/// `TCP_USER_TIMEOUT` would reset it: it answers, and only does not read.
#[test]
fn reader_that_pauses_longer_than_the_user_timeout_loses_nothing() {
    let address = own_loopback();
    let _backend = bulk((address, 1001));
    let daemon = Daemon::start_on(address, &body("user-timeout = \"300ms\""), "", |command| command);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&daemon.at(443).into()).unwrap();
    let mut reader = TcpStream::from(socket);
    reader.set_read_timeout(Some(support::DEADLINE)).unwrap();
    reader.write_all(&client_hello(Some("a.test"), &[])).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    let paused = Instant::now();
    // The point of it: ten times the limit, while the window is closed.
    std::thread::sleep(Duration::from_secs(3));
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() + 1000, BULK, "after a pause of {:?}", paused.elapsed());
    drop(reader);
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "done");
}
