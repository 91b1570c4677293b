//! Plays the sessions of `tests/bytes.rs` from both ends and keeps what they report. Records are judged in
//! `support/judge.rs`; what a run must come to is said in `bytes.rs`.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fmt, io, thread};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::judge::Judge;
use crate::support::log_tail::LogTail;
use crate::support::plan::{Plan, Relay, read_preamble};
use crate::support::pump::play;
use crate::support::{DEADLINE, Daemon};

/// Sessions at once.
const THREADS: usize = 48;
/// Failures after which no more sessions are begun.
const ENOUGH_FAILURES: usize = 10;
/// Most sessions of a run that ends by the clock: a bit is kept for each.
const MOST: u64 = 100_000_000;

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    sessions: u64,
    until: Option<Instant>,
}

impl Goal {
    /// So many sessions as the variable says, or as many as `SLUICE_TEST_SECONDS` leave time for; `usual` without both.
    pub fn from_env(name: &str, usual: u64) -> Self {
        let until = from_env("SLUICE_TEST_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let sessions = from_env(name).unwrap_or(if until.is_some() { MOST } else { usual });
        Self { sessions, until }
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// A number from the environment.
pub fn from_env(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What the ends report.
pub struct Ledger {
    pub seed: u64,
    pub judge: Judge,
    goal: Goal,
    next: AtomicU64,
    /// A bit for every session that a server saw to its end.
    served: Vec<AtomicU64>,
    /// Backend connections over.
    ended: AtomicU64,
    /// Backend connections that ended before they said which session they were.
    nameless: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Ledger {
    pub fn new(seed: u64, goal: Goal) -> Self {
        Self {
            seed,
            judge: Judge::default(),
            goal,
            next: AtomicU64::new(0),
            served: (0..goal.sessions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            ended: AtomicU64::new(0),
            nameless: AtomicU64::new(0),
            failures: Mutex::default(),
        }
    }

    fn fail(&self, plan: Option<&Plan>, what: &str) {
        let whose = plan.map_or("a session without a name".to_owned(), |plan| {
            format!(
                "{:?} session {} (tls: {}, relay: {:?})\n    {:?}\n    {:?}",
                plan.kind, plan.number, plan.tls, plan.relay, plan.client, plan.server
            )
        });
        self.failures.lock().unwrap().push(format!("{what}: {whose}"));
    }

    #[track_caller]
    pub fn assert_no_failures(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "seed {}, {} failures:\n{}", self.seed, failures.len(), failures.join("\n"));
    }

    /// Sessions begun.
    pub fn begun(&self) -> u64 {
        self.next.load(Ordering::SeqCst).min(self.goal.sessions)
    }

    /// Connections of the backend that are over.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Plays every session from the client's side.
    pub fn run_clients(&self, daemon: &Daemon) {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !self.goal.is_over() && self.failures.lock().unwrap().len() < ENOUGH_FAILURES {
                        let number = self.next.fetch_add(1, Ordering::SeqCst);
                        if number >= self.goal.sessions {
                            return;
                        }
                        self.run_client(daemon, number);
                    }
                });
            }
        });
    }

    fn run_client(&self, daemon: &Daemon, number: u64) {
        let plan = Plan::draw(self.seed, number);
        let source = source_of(number);
        let result = connect_from(source, daemon.at(port_of(&plan)), plan.client_window)
            .map_err(|error| format!("connect: {error}"))
            .and_then(|stream| play(stream, &plan.client))
            .and_then(|outcome| plan.check_client(outcome).map(|()| outcome));
        match result {
            Ok(outcome) => self.judge.client(source, plan, outcome),
            Err(what) => self.fail(Some(&plan), &format!("client: {what}")),
        }
    }

    /// One connection at the backend.
    pub fn serve(&self, mut stream: TcpStream) {
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
    pub fn judge_servers(&self) {
        let mut missing = 0;
        for number in 0..self.begun() {
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
    pub fn judge_records(&self, daemon: &Daemon, mut tail: LogTail, over: &AtomicBool) -> LogTail {
        let mut told = Instant::now();
        while !over.load(Ordering::SeqCst) {
            tail.read(|line| self.judge.line(line));
            if told.elapsed() > Duration::from_mins(1) {
                told = Instant::now();
                eprintln!("{} sessions so far, {}", self.judge.count(), Holdings::of(daemon));
            }
            thread::sleep(Duration::from_millis(5));
        }
        tail
    }
}

/// What a daemon holds at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    pub descriptors: usize,
    pub pipes: f64,
    /// Bytes of private memory.
    pub memory: u64,
}

impl Holdings {
    pub fn of(daemon: &Daemon) -> Self {
        let pipes = daemon.metric("sluice_pipes_in_use");
        Self { descriptors: daemon.descriptors(), pipes, memory: daemon.private_memory() }
    }
}

impl fmt::Display for Holdings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, pipes, memory } = self;
        write!(out, "{descriptors} descriptors, {pipes} pipes in use, {} KiB of private memory", memory >> 10)
    }
}

/// Where a session goes: to the TLS listener, which tells pools by name, or to that of its pool.
const fn port_of(plan: &Plan) -> u16 {
    match (plan.tls, plan.relay) {
        (true, _) => 443,
        (false, Relay::Auto) => 444,
        (false, Relay::Copy) => 445,
        (false, Relay::Splice) => 446,
    }
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
