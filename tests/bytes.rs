//! Never lose or alter a byte: thousands of random sessions, orderly and broken off, through one daemon, every byte
//! compared and every end judged, with pipes and while the kernel gives none.
//! `SLUICE_TEST_SEED` repeats a run; `SLUICE_TEST_SESSIONS` and `SLUICE_TEST_SHORT_SESSIONS` lengthen it: sessions are
//! judged and forgotten as they end, so millions fit.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, pipe2};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use support::judge::{Judge, Verdict};
use support::log_tail::LogTail;
use support::plan::{KINDS, Plan, read_preamble};
use support::pump::play;
use support::{Backend, DEADLINE, Daemon, eventually, own_loopback, through};

const SESSIONS: u64 = 20_000;
/// Sessions of the run without pipes now and then.
const SHORT_SESSIONS: u64 = 4000;
/// Memory of the daemon that may be left after any number of sessions. Measured: 0.9 to 1.4 MiB, after 4 000 as after
/// 50 000.
const MOST_LEFT: u64 = 3 << 20;
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
    let sessions = from_env("SLUICE_TEST_SESSIONS").unwrap_or(SESSIONS);
    let verdict = run(sessions, Pipes::Enough);
    if sessions >= SESSIONS {
        assert!(KINDS.iter().all(|(kind, _)| verdict.ends.keys().any(|(seen, _)| seen == kind)), "{:?}", verdict.ends);
        for paths in &verdict.paths {
            assert!(paths.contains("copy") && (paths.contains("splice") || paths.contains("mixed")), "{paths:?}");
        }
    }
}

#[test]
fn while_pipes_run_short_every_byte_arrives_too() {
    let sessions = from_env("SLUICE_TEST_SHORT_SESSIONS").unwrap_or(SHORT_SESSIONS);
    let verdict = run(sessions, Pipes::Short);
    if sessions >= SHORT_SESSIONS {
        for paths in &verdict.paths {
            assert!(paths.contains("copy") && paths.contains("mixed"), "{paths:?}");
        }
    }
}

/// Whether the kernel gives the daemon what it asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pipes {
    Enough,
    /// Only half of the time; otherwise those of two pages, which are of no use.
    Short,
}

/// Plays so many sessions through a daemon; every byte, every end and every record must be right.
#[track_caller]
fn run(sessions: u64, pipes: Pipes) -> Verdict {
    let seed = from_env("SLUICE_TEST_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 % 1_000_000_000)
    });
    eprintln!("SLUICE_TEST_SEED={seed}, {sessions} sessions");
    let ledger = Arc::new(Ledger::new(seed, sessions));
    let address = own_loopback();
    let backend = Backend::start((address, 1001), {
        let ledger = Arc::clone(&ledger);
        move |stream| ledger.serve(stream)
    });
    let mut daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| match pipes {
        Pipes::Enough => command,
        Pipes::Short => without_privilege(command),
    });
    let base = (daemon.descriptors(), daemon.private_memory());
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let tail = thread::scope(|scope| {
        let tail = scope.spawn(|| ledger.judge_records(&daemon, &over));
        if pipes == Pipes::Short {
            scope.spawn(|| take_pipes_away(&over));
        }
        // Also when this thread panics, or the others would run for ever.
        let end = SetAtEnd(&over);
        ledger.run_clients(&daemon);
        let accepted = u64::from(backend.accepted());
        eventually("the backend's sessions end", || (ledger.ended.load(Ordering::SeqCst) == accepted).then_some(()));
        ledger.judge_servers();
        ledger.assert_no_failures();
        // The verdict tells what is missing if they do not all come.
        let waits = Instant::now();
        while ledger.judge.count() < sessions && waits.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(5));
        }
        drop(end);
        tail.join().unwrap()
    });
    let took = begun.elapsed();
    assert_clean(&daemon, base);
    let fallbacks = daemon.metric("sluice_relay_fallbacks_total{reason=\"no_pipe\"}");
    assert_eq!(fallbacks > 0.5, pipes == Pipes::Short, "{fallbacks} times without a pipe");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
    tail.read_rest(|line| ledger.judge.line(line));
    let verdict = ledger.judge.close();
    eprintln!("{sessions} sessions, {} MiB in {took:?}, {fallbacks} times without a pipe", verdict.moved >> 20);
    eprintln!("ends: {:#?}", verdict.ends);
    let Verdict { wrong, wrong_count, .. } = &verdict;
    assert!(wrong.is_empty(), "seed {seed}, {wrong_count} wrong records:\n{}", wrong.join("\n"));
    assert_eq!(verdict.judged, sessions, "seed {seed}: exactly one record per connection");
    assert_eq!(verdict.planned, verdict.recorded, "seed {seed}: bytes of orderly sessions");
    verdict
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What the ends report.
struct Ledger {
    seed: u64,
    sessions: u64,
    next: AtomicU64,
    judge: Judge,
    /// A bit for every session that a server saw to its end.
    served: Vec<AtomicU64>,
    /// Backend connections over.
    ended: AtomicU64,
    /// Backend connections that ended before they said which session they were.
    nameless: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Ledger {
    fn new(seed: u64, sessions: u64) -> Self {
        Self {
            seed,
            sessions,
            next: AtomicU64::new(0),
            judge: Judge::default(),
            served: (0..sessions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            ended: AtomicU64::new(0),
            nameless: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

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
    fn assert_no_failures(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "seed {}, {} failures:\n{}", self.seed, failures.len(), failures.join("\n"));
    }

    /// Plays every session from the client's side.
    fn run_clients(&self, daemon: &Daemon) {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    loop {
                        let number = self.next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.sessions || self.failures.lock().unwrap().len() >= ENOUGH_FAILURES {
                            return;
                        }
                        let plan = Plan::draw(self.seed, number);
                        let source = source_of(number);
                        let result =
                            connect_from(source, daemon.at(if plan.tls { 443 } else { 444 }), plan.client_window)
                                .map_err(|error| format!("connect: {error}"))
                                .and_then(|stream| play(stream, &plan.client));
                        match result.and_then(|outcome| plan.check_client(outcome).map(|()| outcome)) {
                            Ok(outcome) => self.judge.client(source, plan, outcome),
                            Err(what) => self.fail(Some(&plan), &format!("client: {what}")),
                        }
                    }
                });
            }
        });
    }

    /// One connection at the backend.
    fn serve(&self, mut stream: TcpStream) {
        match read_preamble(&mut stream) {
            Ok((hello, number)) => {
                let plan = Plan::draw(self.seed, number);
                if hello != plan.hello {
                    self.fail(Some(&plan), "the hello is altered");
                }
                if let Some(window) = plan.server_window {
                    SockRef::from(&stream).set_recv_buffer_size(window as usize).unwrap();
                }
                match play(stream, &plan.server).and_then(|outcome| plan.check_server(outcome)) {
                    Ok(()) if !self.mark_served(number) => {}
                    Ok(()) => self.fail(Some(&plan), "a second connection for this session"),
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

    /// Notes that a server saw a session to its end; says whether one did before.
    fn mark_served(&self, number: u64) -> bool {
        let bit = 1 << (number % 64);
        self.served[(number / 64) as usize].fetch_or(bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether the servers saw all sessions that they should have seen.
    fn judge_servers(&self) {
        let mut missing = 0;
        for number in 0..self.next.load(Ordering::SeqCst).min(self.sessions) {
            if self.served[(number / 64) as usize].load(Ordering::SeqCst) >> (number % 64) & 1 == 1 {
                continue;
            }
            let plan = Plan::draw(self.seed, number);
            if plan.early {
                missing += 1;
            } else {
                self.fail(Some(&plan), "the server never saw this session to its end");
            }
        }
        let nameless = self.nameless.load(Ordering::SeqCst);
        if nameless > missing {
            self.fail(None, &format!("{nameless} resets at the backend before the session was known, of {missing}"));
        }
    }

    /// Judges records as they come until the run is over.
    fn judge_records(&self, daemon: &Daemon, over: &AtomicBool) -> LogTail {
        let mut tail = LogTail::new(daemon);
        let mut told = Instant::now();
        while !over.load(Ordering::SeqCst) {
            tail.read(|line| self.judge.line(line));
            if told.elapsed() > Duration::from_mins(1) {
                told = Instant::now();
                eprintln!("{} sessions so far, {} KiB", self.judge.count(), daemon.private_memory() >> 10);
            }
            thread::sleep(Duration::from_millis(5));
        }
        tail
    }
}

/// The same command as a user whom the kernel gives no more pipes than anybody else (`pipe(7)`).
fn without_privilege(command: &mut Command) -> &mut Command {
    if Uid::effective().is_root() {
        through(command, "setpriv", &["--bounding-set=-sys_resource,-sys_admin"])
    } else {
        command
    }
}

/// Takes this user's whole budget of pages for pipes, again and again.
fn take_pipes_away(over: &AtomicBool) {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap().trim().parse::<usize>().unwrap();
    let (budget, most) = (read("pipe-user-pages-soft"), read("pipe-max-size"));
    assert!(budget > 0, "no budget, no shortage: set fs.pipe-user-pages-soft");
    while !over.load(Ordering::SeqCst) {
        // Without privilege the last one fails, as the daemon's will.
        let hoard: Vec<_> = (0..=budget.div_ceil(most / 4096))
            .map_while(|_| {
                let pipe = pipe2(OFlag::O_CLOEXEC).ok()?;
                fcntl(&pipe.0, FcntlArg::F_SETPIPE_SZ(most as i32)).ok().map(|_| pipe)
            })
            .collect();
        // Not to wait for something: the rhythm of the shortage.
        thread::sleep(Duration::from_millis(100));
        drop(hoard);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Nothing is left over in the daemon.
#[track_caller]
fn assert_clean(daemon: &Daemon, (descriptors, memory): (usize, u64)) {
    assert!(daemon.metric("sluice_pipes_in_use").abs() < 0.5, "pipes in use");
    for listener in ["tls", "tcp"] {
        let name = format!("sluice_listener_connections_active{{listener=\"{listener}\"}}");
        assert!(daemon.metric(&name).abs() < 0.5, "{name}");
    }
    // Spare pipes are closed at the next heartbeat.
    eventually("descriptors are back", || (daemon.descriptors() <= descriptors).then_some(()));
    let left = daemon.private_memory().saturating_sub(memory);
    eprintln!("{} KiB of private memory more than at the start", left >> 10);
    assert!(left <= MOST_LEFT, "{left} bytes of memory more than at the start");
}

fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A source address for every session, so that records are told apart. Used again only long after.
fn source_of(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f80_0001 + (number % 8_000_000) as u32)
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
