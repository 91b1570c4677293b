//! `max-connections` of pools and backends hold exactly, over two workers, whatever clients, backends and reloads do.
//! Those who wait for a place are in `queue.rs`.

#![allow(clippy::unwrap_used, clippy::float_cmp, clippy::print_stdout)]

mod many;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, thread};

use socket2::SockRef;
use support::counting::Counting;
use support::hello::client_hello;
use support::{Daemon, alert_of, connect, eventually, own_loopback};

/// Thousands of connections at once: one test at a time, for the sake of descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tls listener in front of backends on ports 1001, 1002 and so on, with a limit or `None` each.
fn config(pool: &str, limits: &[Option<u32>]) -> String {
    let mut body = "[[listener]]\nname = \"l\"\nbind = [\"{ip}:443\"]\npool = \"p\"\n[pool.p]\n".to_owned();
    writeln!(body, "{pool}\npassive.failures = 0").unwrap();
    for (at, limit) in limits.iter().enumerate() {
        write!(body, "[[pool.p.backend]]\naddress = \"{{ip}}:{0}\"\nname = \"b{0}\"\n", 1001 + at).unwrap();
        if let Some(limit) = limit {
            writeln!(body, "max-connections = {limit}").unwrap();
        }
    }
    body
}

fn start(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, "workers = 2\n", |command| command)
}

fn hello() -> Vec<u8> {
    client_hello(Some("any.test"), &[])
}

/// What became of a client.
enum Fate {
    /// A backend has it.
    Seated(TcpStream),
    /// It was told alert 80 and the end.
    Refused,
}

/// A client that waits until it is seated or refused.
#[track_caller]
fn client(at: SocketAddr) -> Fate {
    let mut stream = connect(at);
    stream.write_all(&hello()).unwrap();
    fate(stream)
}

#[track_caller]
fn fate(mut stream: TcpStream) -> Fate {
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    if first[0] != 0x15 {
        assert!(first[0].is_ascii_lowercase(), "{first:?}");
        return Fate::Seated(stream);
    }
    let mut answer = first.to_vec();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(80), "{answer:x?}");
    Fate::Refused
}

/// Ends a session cleanly: the backend has counted it out when this returns.
#[track_caller]
fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

/// `count` clients at once from eight threads: those who are seated stay. Returns them, and how many were refused.
#[track_caller]
fn wave(at: SocketAddr, count: usize) -> (Vec<TcpStream>, usize) {
    let (mut seated, mut refused) = (Vec::new(), 0);
    thread::scope(|scope| {
        let clients = |_| (0..count / 8).map(|_| client(at)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..8).map(|part| scope.spawn(move || clients(part))).collect();
        for fate in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            match fate {
                Fate::Seated(stream) => seated.push(stream),
                Fate::Refused => refused += 1,
            }
        }
    });
    (seated, refused)
}

fn active(daemon: &Daemon) -> u64 {
    daemon.json("/v1/status")["pools"][0]["active"].as_u64().unwrap()
}

#[track_caller]
fn wait_until_empty(daemon: &Daemon) {
    eventually("every place is given back", || (active(daemon) == 0).then_some(()));
    let rows = daemon.json("/v1/backends");
    assert!(rows.as_array().unwrap().iter().all(|row| row["active"] == 0), "{rows:#}");
}

#[track_caller]
fn wait_until_there(daemon: &Daemon, clients: usize) {
    let active = "sluice_listener_connections_active{listener=\"l\"}";
    eventually("all are there", || (daemon.metric(active) == clients as f64).then_some(()));
}

fn full(daemon: &Daemon) -> f64 {
    daemon.metric("sluice_pool_full_total{pool=\"p\"}")
}

#[test]
fn ten_thousand_clients_get_as_many_places_as_the_pool_has() {
    let _alone = alone();
    let address = own_loopback();
    let backends = Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
    let daemon = start(address, &config("max-connections = 700", &[None, None]));
    let mut all_refused = 0;
    for _ in 0..4 {
        let (seated, refused) = wave(daemon.at(443), 2504);
        assert_eq!((seated.len(), refused), (700, 1804));
        all_refused += refused;
        assert_eq!(active(&daemon), 700);
        let workers = daemon.json("/v1/status")["workers"].clone();
        assert!(
            workers.as_array().unwrap().iter().all(|worker| worker["connections"].as_i64() > Some(100)),
            "{workers}"
        );
        seated.into_iter().for_each(end);
        wait_until_empty(&daemon);
    }
    assert_eq!(backends.all().most(), 700, "reached, and never passed");
    assert_eq!(full(&daemon), all_refused as f64);
    let rejected = "sluice_listener_rejected_total{listener=\"l\",reason=\"limit_reached\"}";
    assert_eq!(daemon.metric(rejected), all_refused as f64);
    let record = eventually("a record", || daemon.records().into_iter().find(|line| line["end"] == "limit_reached"));
    assert_eq!(record["blame"], "local", "{record}");
    assert!(record["detail"].as_str().unwrap().contains("pool p has its 700 connections"), "{record}");
}

#[test]
fn limits_of_backends_hold_by_every_method() {
    let _alone = alone();
    let address = own_loopback();
    let backends = Counting::start(&[(address, 1001).into(), (address, 1002).into(), (address, 1003).into()]);
    let methods = [
        "least-connections",
        "round-robin",
        "random-two",
        "consistent-hash\"\nhash.key = [\"sni\"]\n#",
        "consistent-hash",
    ];
    for method in methods {
        let limits = [Some(100), Some(150), Some(50)];
        let daemon = start(address, &config(&format!("balance = \"{method}\""), &limits));
        let (seated, refused) = wave(daemon.at(443), 1200);
        assert_eq!((seated.len(), refused), (300, 900), "{method}");
        assert_eq!(full(&daemon), 900.0, "{method}");
        let record =
            eventually("a record", || daemon.records().into_iter().find(|line| line["end"] == "limit_reached"));
        assert!(record["detail"].as_str().unwrap().contains("every backend of pool p"), "{method}: {record}");
        seated.into_iter().for_each(end);
        wait_until_empty(&daemon);
        let most: Vec<u32> = (0..3).map(|backend| backends.of(backend).take_most()).collect();
        assert_eq!(most, [100, 150, 50], "{method}");
    }
}

fn seed() -> u64 {
    let seed = env::var("SLUICE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_261_128);
    println!("SLUICE_TEST_SEED={seed}");
    seed
}

/// Clients that come and go in every way, until told to stop: they end cleanly, reset, or leave before they are served.
fn churn(at: SocketAddr, seed: u64, stop: &AtomicBool, served: &AtomicU64) {
    let mut state = seed;
    let mut held: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        state = sluice::decide::balance::next_random(state);
        let mut stream = connect(at);
        let reset = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        match state % 8 {
            0 => reset(&stream),
            1 => {
                stream.write_all(&hello()).unwrap();
                reset(&stream);
            }
            2 => {
                stream.write_all(&hello()).unwrap();
                let _ = stream.shutdown(Shutdown::Write);
            }
            _ => {
                stream.write_all(&hello()).unwrap();
                match fate(stream) {
                    Fate::Seated(stream) => {
                        served.fetch_add(1, Ordering::SeqCst);
                        held.push(stream);
                    }
                    // Otherwise those who hold places without wanting more could lock the others out.
                    Fate::Refused => drop(held.pop()),
                }
            }
        }
        if held.len() > 12 {
            let stream = held.swap_remove((state >> 32) as usize % held.len());
            if state & 0x200 == 0 {
                end(stream);
            } else {
                reset(&stream);
            }
        }
    }
}

#[test]
fn limits_hold_while_clients_leave_backends_refuse_and_limits_change() {
    let _alone = alone();
    let seed = seed();
    // The last one is nobody: its port is closed.
    let methods = ["least-connections", "round-robin", "random-two", "consistent-hash"];
    for (number, method) in methods.into_iter().enumerate() {
        let address = own_loopback();
        let backends = Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
        let body = |pool: u32, one: u32, two: u32| {
            let keys = format!("balance = \"{method}\"\nmax-connections = {pool}");
            config(&keys, &[Some(one), Some(two), Some(5)])
        };
        let daemon = start(address, &body(40, 20, 30));
        let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for part in 0..8 {
                let (stop, served, at) = (&stop, &served, daemon.at(443));
                scope.spawn(move || churn(at, seed + 100 * number as u64 + part, stop, served));
            }
            let _stop = StopAtEnd(&stop);
            let busy = |what: &str| {
                let before = served.load(Ordering::SeqCst);
                eventually(what, || (served.load(Ordering::SeqCst) >= before + 300).then_some(()));
            };
            busy("served within the first limits");
            let most = [backends.all().take_most(), backends.of(0).take_most(), backends.of(1).take_most()];
            assert!(most[0] <= 40 && most[1] <= 20 && most[2] <= 30, "{method}: {most:?}");
            assert!(most[0] >= 38, "{method}: the limit is reached: {most:?}");

            daemon.write_config(&body(70, 30, 60), "workers = 2\n");
            daemon.reload();
            busy("served within higher limits");
            let most = [backends.all().take_most(), backends.of(0).take_most(), backends.of(1).take_most()];
            assert!(most[0] <= 70 && most[1] <= 30 && most[2] <= 60, "{method}: {most:?}");
            assert!(most[0] > 40, "{method}: the higher limit counts: {most:?}");

            daemon.write_config(&body(25, 10, 20), "workers = 2\n");
            daemon.reload();
            // Who is there stays; once there are few enough, there are never more. Places are taken before a backend
            // knows, and it knows of an end before they are free.
            eventually("the lower limits", || {
                let rows = daemon.json("/v1/backends");
                let known = rows.as_array()?.iter().map(|row| row["active"].as_u64().unwrap()).collect::<Vec<_>>();
                (known.iter().sum::<u64>() <= 25 && known[0] <= 10 && known[1] <= 20).then_some(())
            });
            eventually("the backends know", || {
                let few = backends.all().open() <= 25 && backends.of(0).open() <= 10 && backends.of(1).open() <= 20;
                few.then_some(())
            });
            let _ = [backends.all().take_most(), backends.of(0).take_most(), backends.of(1).take_most()];
            busy("served within lower limits");
            let most = [backends.all().take_most(), backends.of(0).take_most(), backends.of(1).take_most()];
            assert!(most[0] <= 25 && most[1] <= 10 && most[2] <= 20, "{method}: {most:?}");
        });
        wait_until_empty(&daemon);
        let nobody = "sluice_backend_connect_errors_total{pool=\"p\",backend=\"b1003\",reason=\"refused\"}";
        assert!(daemon.metric(nobody) > 0.0, "{method}: the dead one was tried");
    }
}

/// Ends the clients however the test ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn raised_limit_holds_for_who_came_before() {
    let _alone = alone();
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into()]);
    for (before, after) in [("max-connections = 8", "max-connections = 11"), ("", "")] {
        let limit = |limit| if before.is_empty() { Some(limit) } else { None };
        let daemon = start(address, &config(before, &[limit(8)]));
        let (seated, _) = wave(daemon.at(443), 8);
        // Half a hello: they came under the old limit, and ask under the new one.
        let early: Vec<TcpStream> = (0..8).map(|_| connect(daemon.at(443))).collect();
        for mut stream in &early {
            stream.write_all(&hello()[..20]).unwrap();
        }
        wait_until_there(&daemon, 16);
        daemon.write_config(&config(after, &[limit(11)]), "workers = 2\n");
        daemon.reload();
        for mut stream in &early {
            stream.write_all(&hello()[20..]).unwrap();
        }
        let fates: Vec<Fate> = early.into_iter().map(fate).collect();
        assert_eq!(fates.iter().filter(|fate| matches!(fate, Fate::Seated(_))).count(), 3, "with {after:?}");
        drop((seated, fates));
        wait_until_empty(&daemon);
    }
}

#[test]
fn lowered_limit_holds_for_who_came_before() {
    let _alone = alone();
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into()]);
    for (pool, backend) in [("max-connections = 4", None), ("", Some(4))] {
        let daemon = start(address, &config("", &[None]));
        let (seated, _) = wave(daemon.at(443), 8);
        let mut early = connect(daemon.at(443));
        early.write_all(&hello()[..20]).unwrap();
        wait_until_there(&daemon, 9);
        daemon.write_config(&config(pool, &[backend]), "workers = 2\n");
        daemon.reload();
        early.write_all(&hello()[20..]).unwrap();
        let Fate::Refused = fate(early) else { panic!("seated in spite of {pool} and {backend:?}") };
        seated.into_iter().for_each(end);
        wait_until_empty(&daemon);
    }
}
