//! Never lose or alter a byte: thousands of random sessions, orderly and broken off, through one daemon, every byte
//! compared and every end judged.
//! `SLUICE_TEST_SEED` and `SLUICE_TEST_SESSIONS` repeat or lengthen a run.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use support::plan::{KINDS, Kind, Plan, read_preamble};
use support::pump::{Outcome, play};
use support::{Backend, DEADLINE, Daemon, eventually, own_loopback};

const SESSIONS: u64 = 6000;
/// Sessions at once.
const THREADS: usize = 48;
/// Failures after which no more sessions are begun.
const ENOUGH_FAILURES: usize = 10;

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
[[listener.route]]
sni = ["bytes.test"]
pool = "all"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "all"
[pool.all]
backends = ["{ip}:1001"]
"#;

#[test]
fn every_byte_and_every_end_arrives_as_it_was_sent() {
    let seed = from_env("SLUICE_TEST_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 % 1_000_000_000)
    });
    let sessions = from_env("SLUICE_TEST_SESSIONS").unwrap_or(SESSIONS);
    eprintln!("SLUICE_TEST_SEED={seed} SLUICE_TEST_SESSIONS={sessions}");
    let ledger = Arc::new(Ledger::default());
    let address = own_loopback();
    let backend = Backend::start((address, 1001), {
        let ledger = Arc::clone(&ledger);
        move |stream| ledger.serve(seed, stream)
    });
    let mut daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| command);
    let base = daemon.descriptors();
    let begun = Instant::now();

    let clients = ledger.run_clients(seed, sessions, &daemon);
    let accepted = u64::from(backend.accepted());
    eventually("the backend's sessions end", || (ledger.ended.load(Ordering::SeqCst) == accepted).then_some(()));
    let took = begun.elapsed();
    ledger.judge_servers(seed, sessions);
    ledger.assert_no_failures(seed);

    let records = daemon.wait_for_records(sessions as usize);
    judge_records(seed, &records, &clients);
    let moved: u64 = records.iter().map(|record| number(record, "bytes_up") + number(record, "bytes_down")).sum();
    eprintln!("{sessions} sessions, {} MiB in {took:?}", moved >> 20);

    assert_clean(&daemon, base);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
    assert_eq!(daemon.records().len() as u64, sessions, "exactly one record per connection");
}

/// What the ends report.
#[derive(Default)]
struct Ledger {
    next: AtomicU64,
    servers: Mutex<HashMap<u64, Outcome>>,
    /// Backend connections over.
    ended: AtomicU64,
    /// Backend connections that ended before they said which session they were.
    nameless: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Ledger {
    fn fail(&self, plan: Option<&Plan>, what: &str) {
        let whose = plan.map_or("a session without a name".to_owned(), |plan| {
            format!(
                "{:?} session {} (tls: {})\n    {:?}\n    {:?}",
                plan.kind, plan.number, plan.tls, plan.client, plan.server
            )
        });
        self.failures.lock().unwrap().push(format!("{what}: {whose}"));
    }

    #[track_caller]
    fn assert_no_failures(&self, seed: u64) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "seed {seed}, {} failures:\n{}", failures.len(), failures.join("\n"));
    }

    /// Plays every session from the client's side and returns them by source address.
    fn run_clients(&self, seed: u64, sessions: u64, daemon: &Daemon) -> HashMap<Ipv4Addr, (Plan, Outcome)> {
        let played = Mutex::new(HashMap::new());
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let number = self.next.fetch_add(1, Ordering::Relaxed);
                        if number >= sessions || self.failures.lock().unwrap().len() >= ENOUGH_FAILURES {
                            return;
                        }
                        let plan = Plan::draw(seed, number);
                        let source = source_of(number);
                        let result =
                            connect_from(source, daemon.at(if plan.tls { 443 } else { 444 }), plan.client_window)
                                .map_err(|error| format!("connect: {error}"))
                                .and_then(|stream| play(stream, &plan.client));
                        match result.and_then(|outcome| plan.check_client(outcome).map(|()| outcome)) {
                            Ok(outcome) => drop(played.lock().unwrap().insert(source, (plan, outcome))),
                            Err(what) => self.fail(Some(&plan), &format!("client: {what}")),
                        }
                    }
                });
            }
        });
        played.into_inner().unwrap()
    }

    /// One connection at the backend.
    fn serve(&self, seed: u64, mut stream: TcpStream) {
        match read_preamble(&mut stream) {
            Ok((hello, number)) => {
                let plan = Plan::draw(seed, number);
                if hello != plan.hello {
                    self.fail(Some(&plan), "the hello is altered");
                }
                if let Some(window) = plan.server_window {
                    SockRef::from(&stream).set_recv_buffer_size(window as usize).unwrap();
                }
                match play(stream, &plan.server) {
                    Ok(outcome) => drop(self.servers.lock().unwrap().insert(number, outcome)),
                    Err(what) => self.fail(Some(&plan), &format!("server: {what}")),
                }
            }
            // A client that resets at once; it never sent FIN, so the backend must not see one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.nameless.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.fail(None, &format!("server: preamble: {error}")),
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Compares what the servers saw with the plans.
    fn judge_servers(&self, seed: u64, sessions: u64) {
        let begun = self.next.load(Ordering::Relaxed).min(sessions);
        let mut missing = 0;
        for number in 0..begun {
            let plan = Plan::draw(seed, number);
            match self.servers.lock().unwrap().get(&number) {
                Some(outcome) => {
                    if let Err(what) = plan.check_server(*outcome) {
                        self.fail(Some(&plan), &what);
                    }
                }
                None if plan.early => missing += 1,
                None => self.fail(Some(&plan), "the server never saw this session to its end"),
            }
        }
        let nameless = self.nameless.load(Ordering::Relaxed);
        if nameless > missing {
            self.fail(None, &format!("{nameless} resets at the backend before the session was known, of {missing}"));
        }
    }
}

/// Every connection has one record that says what happened.
fn judge_records(seed: u64, records: &[Value], clients: &HashMap<Ipv4Addr, (Plan, Outcome)>) {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let mut ends = BTreeMap::<(Kind, &str), u64>::new();
    let (mut sent, mut recorded) = ((0, 0), (0, 0));
    for record in records {
        let client: SocketAddr = record["client"].as_str().unwrap().parse().unwrap();
        let SocketAddr::V4(client) = client else { panic!("{client}") };
        let Some((plan, outcome)) = clients.get(client.ip()) else {
            wrong.push(format!("nobody's record: {record}"));
            continue;
        };
        if !seen.insert(*client.ip()) {
            wrong.push(format!("second record: {record}"));
        }
        let end = record["end"].as_str().unwrap_or("none");
        *ends.entry((plan.kind, end)).or_default() += 1;
        let (up, down) = (number(record, "bytes_up"), number(record, "bytes_down"));
        let bytes_fit = if plan.is_orderly() {
            sent = (sent.0 + plan.up(), sent.1 + plan.down());
            recorded = (recorded.0 + up, recorded.1 + down);
            (up, down) == (plan.up(), plan.down())
        } else {
            up <= outcome.sent && down >= outcome.received && down <= plan.down()
        };
        // The time of the first byte is known whenever there was one.
        let timed = record["first_byte_ms"].is_number() == (down > 0);
        if !plan.ends().contains(&end) || !bytes_fit || !timed {
            let (kind, Outcome { sent, received, .. }) = (plan.kind, *outcome);
            wrong.push(format!("{kind:?} sent {sent}, got {received}, first byte timed: {timed}: {record}"));
        }
    }
    eprintln!("ends: {ends:#?}");
    assert!(wrong.is_empty(), "seed {seed}, {} wrong records:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen.len(), clients.len(), "seed {seed}: a record per connection");
    assert_eq!(sent, recorded, "seed {seed}: bytes of orderly sessions");
    if clients.len() as u64 >= SESSIONS {
        assert!(KINDS.iter().all(|(kind, _)| ends.keys().any(|(seen, _)| seen == kind)), "seed {seed}: {ends:?}");
        for direction in ["path_up", "path_down"] {
            let paths: BTreeSet<&str> = records.iter().filter_map(|record| record[direction].as_str()).collect();
            assert!(paths.contains("copy"), "seed {seed}: {direction} {paths:?}");
            assert!(paths.contains("splice") || paths.contains("mixed"), "seed {seed}: {direction} {paths:?}");
        }
    }
}

/// Nothing is left over in the daemon.
#[track_caller]
fn assert_clean(daemon: &Daemon, base: usize) {
    assert!(daemon.metric("sluice_pipes_in_use").abs() < 0.5, "pipes in use");
    for listener in ["tls", "tcp"] {
        let name = format!("sluice_listener_connections_active{{listener=\"{listener}\"}}");
        assert!(daemon.metric(&name).abs() < 0.5, "{name}");
    }
    // Spare pipes are closed at the next heartbeat.
    eventually("descriptors are back", || (daemon.descriptors() <= base).then_some(()));
}

fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap()
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A source address for every session, so that records are told apart.
fn source_of(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f80_0001 + number as u32)
}

fn connect_from(source: Ipv4Addr, to: SocketAddr, window: Option<u64>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    if let Some(window) = window {
        socket.set_recv_buffer_size(window as usize)?;
    }
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), DEADLINE)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
