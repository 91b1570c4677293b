//! Faults of the network that loopback alone cannot show, in network namespaces of our own: peers that vanish without a
//! word, and a machine that has no ports left. Needs root; namespaces are removed whatever happens.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use std::{env, thread};

use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use support::hello::client_hello;
use support::namespace::{FAR, NEAR, Namespace};
use support::{Backend, DEADLINE, Daemon, alert_of, connect, eventually, own_loopback};

/// Ports for connections of one address to one other.
const PORTS: usize = 100;
/// Clients: more than there are ports for.
const CLIENTS: usize = 130;

const PORTS_CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "all"
[pool.all]
backends = ["{ip}:1001"]
on-down = "close"
[pool.all.health]
check = "tcp"
interval = "1s"
"#;

const VANISHING: &str = r#"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{near}:444"]
pool = "all"
idle-timeout = "1h"
half-close-timeout = "1h"
{keys}
[pool.all]
backends = ["{backend}:1001"]
{keys}
"#;

#[test]
fn without_ports_the_surplus_fails_by_itself_and_the_backend_stays_up() {
    let space = Namespace::new();
    space.enter(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("40000 {}", 40_000 + PORTS - 1)).unwrap();
        let address = own_loopback();
        let _backend = Backend::naming((address, 1001), "a");
        let daemon = Daemon::start_on(address, PORTS_CONFIG, "workers = 2\n", |command| command);
        let name = daemon.at(1001).to_string();
        let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, &daemon)).collect();
        let served = clients.iter_mut().filter_map(|client| client.is_served().then_some(())).count();
        eprintln!("{served} of {CLIENTS} clients are served over {PORTS} ports");
        // Checks take ports too, and keep them for a while.
        assert!((PORTS - 5..=PORTS).contains(&served), "{served} of {CLIENTS} are served");

        let refused = daemon.wait_for_records(CLIENTS - served);
        for record in &refused {
            assert_eq!((&record["end"], &record["blame"]), (&"local_error".into(), &"local".into()), "{record}");
            let detail = record["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("Cannot assign requested address"), "{record}");
        }
        daemon.wait_for_state(&name, "up");
        // Those that have a port go on; nobody was closed for a backend that is well.
        assert_eq!(daemon.json("/v1/sessions").as_array().unwrap().len(), served);

        drop(clients);
        let mut number = CLIENTS;
        eventually("clients are served again", || {
            number += 1;
            Client::new(number, &daemon).is_served().then_some(())
        });
        let records = daemon.wait_for_records(CLIENTS);
        let known = ["local_error", "client_reset", "done"];
        assert!(records.iter().all(|record| known.contains(&record["end"].as_str().unwrap())), "{records:?}");
        daemon.wait_for_state(&name, "up");
        let log = daemon.log();
        assert!(!log.contains("\"down\""), "the backend was taken down:\n{log}");
    });
}

/// A port is taken for one address at both ends, not for all: `IP_BIND_ADDRESS_NO_PORT`, ip(7).
#[test]
fn source_addresses_and_backends_multiply_the_ports() {
    const EACH: usize = 50;
    const ALL: usize = 2 * 2 * EACH;
    let space = Namespace::new();
    space.enter(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("40000 {}", 40_000 + EACH - 1)).unwrap();
        let address = own_loopback();
        let backends = [1001, 1002].map(|port| Backend::naming((address, port), "a"));
        let body = "[[listener]]\nname = \"tls\"\nbind = [\"{ip}:443\"]\npool = \"all\"\n[pool.all]\n\
                    backends = [\"{ip}:1001\", \"{ip}:1002\"]\nsource-address = [\"127.0.0.21\", \"127.0.0.22\"]\n";
        let daemon = Daemon::start_on(address, body, "workers = 2\n", |command| command);
        let mut clients: Vec<Client> = (0..ALL + 20).map(|number| Client::new(number, &daemon)).collect();
        let served = clients.iter_mut().filter_map(|client| client.is_served().then_some(())).count();
        eprintln!("{served} clients are served over {EACH} ports, 2 source addresses and 2 backends");
        assert!((ALL - 4..=ALL).contains(&served), "{served} of {ALL}");
        for backend in &backends {
            assert!(backend.accepted() as usize >= 2 * EACH - 4, "{} of {}", backend.accepted(), 2 * EACH);
        }
        let refused = daemon.wait_for_records(ALL + 20 - served);
        assert!(refused.iter().all(|record| record["end"] == "local_error"), "{refused:?}");
    });
}

#[test]
fn a_client_that_vanishes_while_idle_is_found() {
    vanish(Leg::Client, Traffic::Idle);
}

#[test]
fn a_client_that_vanishes_with_bytes_on_the_way_is_found() {
    vanish(Leg::Client, Traffic::Bulk);
}

#[test]
fn a_backend_that_vanishes_while_idle_is_found() {
    vanish(Leg::Backend, Traffic::Idle);
}

#[test]
fn a_backend_that_vanishes_with_bytes_on_the_way_is_found() {
    vanish(Leg::Backend, Traffic::Bulk);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leg {
    Client,
    Backend,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Idle,
    /// Towards the side that vanishes.
    Bulk,
}

/// One side of a session loses its cable: the session is ended within the times of `keepalive` and `user-timeout`, and
/// the other side is told by a reset.
#[track_caller]
fn vanish(leg: Leg, traffic: Traffic) {
    let Some((keys, deadline)) = keys(traffic) else {
        return eprintln!("not tested with SLUICE_TEST_DEFAULT_TIMES: it takes a quarter of an hour");
    };
    let (near, far) = (Namespace::new(), Namespace::new());
    near.link(&far);
    let (client_side, backend_side) = if leg == Leg::Client { (&far, &near) } else { (&near, &far) };
    let backend = if leg == Leg::Client { NEAR } else { FAR };
    // A socket stays where it was made, whoever uses it.
    let listener = backend_side.enter(|| TcpListener::bind((backend, 1001)).unwrap());
    let config = VANISHING.replace("{near}", &NEAR.to_string()).replace("{backend}", &backend.to_string());
    let config = config.replace("{keys}", keys);
    let daemon = near.enter(|| Daemon::start_with(&config, "", |command| command));
    let mut client = client_side.enter(|| connect((NEAR, 444).into()));
    client.write_all(b"?").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut server, _) = eventually("the backend has the session", || listener.accept().ok());
    server.set_nonblocking(false).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server.read_exact(&mut [0]).unwrap();
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (gone, mut left) = if leg == Leg::Client { (client, server) } else { (server, client) };

    far.unplug();
    let begun = Instant::now();
    left.set_nonblocking(true).unwrap();
    if traffic == Traffic::Bulk {
        // More than the kernel holds without the peer; whatever is taken is on the way for ever.
        let _ = left.write(&vec![7; 100_000]).unwrap();
    }
    let error = loop {
        match left.read(&mut [0]) {
            Ok(count) => panic!("{count} bytes, or a clean end, from a side that is gone"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => break error,
        }
        assert!(begun.elapsed() < deadline, "not found within {deadline:?}");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let record = daemon.wait_for_records(1)[0].clone();
    eprintln!("found after {:?}: {} {}", begun.elapsed(), record["end"], record["detail"]);
    let (blame, ends) = match leg {
        Leg::Client => ("client", ["client_reset", "client_gone"]),
        Leg::Backend => ("backend", ["backend_reset", "backend_gone"]),
    };
    assert_eq!(record["blame"], blame, "{record}");
    assert!(ends.contains(&record["end"].as_str().unwrap()), "{record}");
    assert_eq!(daemon.json("/v1/sessions"), Value::Array(Vec::new()));
    drop(gone);
}

/// Times for both legs, and how long it may take until somebody is missed. `SLUICE_TEST_DEFAULT_TIMES` waits for the
/// built-in times instead: 60 s and six probes, 10 s apart.
fn keys(traffic: Traffic) -> Option<(&'static str, Duration)> {
    if env::var_os("SLUICE_TEST_DEFAULT_TIMES").is_some() {
        // Without a user timeout the kernel sends again for a quarter of an hour.
        return (traffic == Traffic::Idle).then_some(("", Duration::from_mins(3)));
    }
    Some(("keepalive = \"1s\"\nuser-timeout = \"3s\"", DEADLINE))
}

/// One that wants a word from the backend and then stays; from an address of its own and a port outside the range:
/// a port that is bound in it could not be taken by anybody who connects.
struct Client(TcpStream);

impl Client {
    #[track_caller]
    fn new(number: usize, daemon: &Daemon) -> Self {
        let source = Ipv4Addr::new(127, 201, (number >> 8) as u8, number as u8);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.bind(&SocketAddr::from((source, 30_000)).into()).unwrap();
        socket.connect_timeout(&daemon.at(443).into(), DEADLINE).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&client_hello(Some("a.test"), &[])).unwrap();
        // So that ports are free at once.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        Self(stream)
    }

    /// Whether it got the backend's word; otherwise it was told of an internal error.
    #[track_caller]
    fn is_served(&mut self) -> bool {
        let mut word = [0; 7];
        let count = self.0.read(&mut word).expect("an answer");
        if &word[..count] == b"a" {
            return true;
        }
        let mut rest = word[..count].to_vec();
        self.0.read_to_end(&mut rest).expect("FIN after an alert");
        assert_eq!(alert_of(&rest), Some(80), "{rest:?}");
        false
    }
}
