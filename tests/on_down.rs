//! `on-down = "close"` with thousands of sessions: they are reset little by little, and no more once their backend is back.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use support::{Backend, Daemon, connect, eventually, own_loopback};

/// Sessions are on one port, checks on another: what is checked goes, and the sessions would go on.
const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
on-down = "close"
[[pool.p.backend]]
name = "a"
address = "{ip}:1001"
[pool.p.health]
check = "tcp"
port = 1002
interval = "50ms"
fast-interval = "20ms"
down-interval = "50ms"
rise = 1
fall = 2
"#;

struct World {
    daemon: Daemon,
    checked: Backend,
    clients: Vec<TcpStream>,
    servers: Arc<Mutex<Vec<TcpStream>>>,
}

impl World {
    /// So many sessions are established, to a server that keeps them.
    fn new(address: Ipv4Addr, workers: usize, sessions: usize) -> Self {
        let listener = TcpListener::bind((address, 1001)).unwrap();
        // The standard library's backlog of 128 is short for so many at once.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
        let servers = Arc::<Mutex<Vec<TcpStream>>>::default();
        let kept = Arc::clone(&servers);
        thread::spawn(move || {
            for stream in listener.incoming().take(sessions).flatten() {
                kept.lock().unwrap().push(stream);
            }
        });
        let checked = Backend::naming((address, 1002), "a");
        let daemon = Daemon::start_on(address, CONFIG, &format!("workers = {workers}\n"), |command| command);
        let clients = (0..sessions).map(|_| connect(daemon.at(443))).collect();
        let world = Self { daemon, checked, clients, servers };
        eventually("all are established", || {
            let connected = world.daemon.metric("sluice_pool_connections_total{pool=\"p\"}") as usize;
            let accepted = world.servers.lock().unwrap().len();
            (connected == sessions && accepted == sessions).then_some(())
        });
        world
    }

    fn active(&self) -> usize {
        self.daemon.metric("sluice_backend_connections_active{pool=\"p\",backend=\"a\"}") as usize
    }

    /// The check fails from now on; back when the backend is down.
    fn go_down(&mut self) {
        self.checked.stop();
        self.daemon.wait_for_state("a", "down");
    }
}

#[test]
fn sessions_of_a_backend_that_is_down_are_reset_at_a_pace() {
    const SESSIONS: usize = 2000;
    let mut world = World::new(own_loopback(), 2, SESSIONS);
    world.go_down();
    eventually("all are reset", || (world.active() == 0).then_some(()));
    let records = world.daemon.wait_for_records(SESSIONS);
    let moments = records.iter().map(|record| record["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
    let (first, last) = (moments.clone().min().unwrap(), moments.max().unwrap());
    let took = last.duration_since(first).unsigned_abs();
    eprintln!("{SESSIONS} sessions of two workers were reset in {took:?}");
    assert!((Duration::from_millis(500)..Duration::from_secs(6)).contains(&took), "{took:?}");
    let ended = records.iter().filter(|record| record["end"] == "backend_down" && record["blame"] == "backend").count();
    assert_eq!(ended, SESSIONS);
    for client in &mut world.clients {
        assert!(client.read(&mut [0]).is_err(), "reset");
    }
    for server in &mut *world.servers.lock().unwrap() {
        assert!(server.read(&mut [0]).is_err(), "reset");
    }
}

#[test]
fn resets_stop_when_the_backend_is_back() {
    const SESSIONS: usize = 3000;
    let address = own_loopback();
    // At about a thousand a second: time to bring the backend back.
    let mut world = World::new(address, 1, SESSIONS);
    world.go_down();
    eventually("the first are reset", || (world.active() < SESSIONS - 100).then_some(()));
    world.checked = Backend::naming((address, 1002), "a");
    world.daemon.wait_for_state("a", "up");
    // What was told already is ended; after as many pauses as anybody wants there are no more.
    let checks = || world.daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"a\",result=\"ok\"}");
    let (mut left, mut since) = (world.active(), checks());
    eventually("nothing changes over ten checks", || {
        if world.active() != left {
            (left, since) = (world.active(), checks());
        }
        (checks() >= since + 10.0).then_some(())
    });
    eprintln!("{left} of {SESSIONS} sessions are left");
    assert!((100..SESSIONS - 100).contains(&left), "{left}");
    // They are as well as ever.
    let mut servers = world.servers.lock().unwrap();
    for server in &mut *servers {
        let _ = server.write_all(b"!");
    }
    let alive = world.clients.iter_mut().filter_map(|client| client.read_exact(&mut [0]).is_ok().then_some(())).count();
    assert_eq!(alive, left);
}
