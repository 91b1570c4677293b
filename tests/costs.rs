//! What a worker's work costs, in counts and not in times: system calls per connection, per exchange and per MiB, and
//! private memory of an idle session and after a burst. Each has a recorded bound with little slack: whoever exceeds it
//! has made every session dearer. Run with `--nocapture` to see the figures.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use support::hello::padded_hello;
use support::pump::Content;
use support::strace::{Bound, Calls};
use support::{Backend, DEADLINE, Daemon, connect, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
idle-timeout = "1h"
pool = "all"
[pool.all]
backends = ["{ip}:1001"]
"#;

/// What current browsers send.
const HELLO: usize = 517;
const ANSWER: Content = Content { offset: 99, length: 1024 };
const REQUEST: Content = Content { offset: 7, length: 200 };

/// The first message of a session says what the backend is to do: its last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Play {
    /// One answer, then wait for the client's end.
    Answer = 1,
    /// An answer for every request.
    Exchange = 2,
    /// Send [`BULK`].
    Download = 3,
    /// Receive [`BULK`], answer once.
    Upload = 4,
    /// One answer; the backend keeps the connection and does nothing.
    Idle = 5,
}

const BULK: Content = Content { offset: 1234, length: 64 << 20 };
/// How often bulk is measured at most: a sender that is slower than the worker makes it move less per call, so only the
/// best round says what the worker does.
const ROUNDS: usize = 12;
const MIB: u64 = 1 << 20;

/// Measured: 20.9 to 21.0, as listed in ARCHITECTURE.md with one vain `accept4` and, for the record of a connection that
/// comes alone, a wake-up of the timer and two of the log's writer. Waits: 6.1 to 6.7, up to 7.5 on a busy machine.
const CONNECTION: Bound = Bound { calls: 21.5, waits: 9.0 };
/// Measured: 4.00, and 2.00 waits.
const EXCHANGE: Bound = Bound { calls: 4.1, waits: 2.2 };
/// Measured: 2.4 to 2.5 when the sender keeps up, a fill and a drain of 1 MiB and the session's beginning and end; up to
/// 14 when it does not. Copying takes 32.
const MEBIBYTE: Bound = Bound { calls: 2.6, waits: 1.0 };
/// Measured: 7.0, as listed in ARCHITECTURE.md for ready connections, and 0.2 waits; a look at each of them at every tick
/// would be 4 more.
const RENEWAL: Bound = Bound { calls: 7.3, waits: 1.0 };
/// Measured: 1 781 bytes; 1 534 to 1 620 in a release build.
const IDLE_BYTES: u64 = 1850;
/// Measured: 196 to 208 KiB after a burst of 64 bulk sessions.
const LEFT_BYTES: u64 = 300 << 10;

#[test]
fn a_connection_costs_no_more_system_calls_than_recorded() {
    const COUNT: u64 = 300;
    let world = World::new();
    world.connection();
    let calls = Calls::of_worker(&world.daemon, || {
        for number in 0..COUNT {
            world.connection();
            // The record: the session is over, and nothing of it falls into the next one.
            world.wait_for_ended(number + 2);
        }
    });
    calls.judge("connection", COUNT as f64, CONNECTION);
}

#[test]
fn an_exchange_costs_no_more_system_calls_than_recorded() {
    const COUNT: u64 = 2000;
    let world = World::new();
    let mut session = world.begin(Play::Exchange);
    let calls = Calls::of_worker(&world.daemon, || {
        for _ in 0..COUNT {
            session.write_all(REQUEST.at(0, 200)).unwrap();
            expect(&mut session, ANSWER);
        }
    });
    calls.judge("exchange", COUNT as f64, EXCHANGE);
}

#[test]
fn a_mebibyte_down_costs_no_more_system_calls_than_recorded() {
    let world = World::new();
    world.bulk_within_bound("MiB down", || {
        let mut session = world.begin(Play::Download);
        session.write_all(b"?").unwrap();
        expect(&mut session, BULK);
    });
}

#[test]
fn a_mebibyte_up_costs_no_more_system_calls_than_recorded() {
    let world = World::new();
    world.bulk_within_bound("MiB up", || {
        let mut session = world.begin(Play::Upload);
        send(&mut session, BULK);
        expect(&mut session, ANSWER);
    });
}

#[test]
fn a_ready_connection_costs_nothing_until_it_is_renewed() {
    const READY: u64 = 100;
    let world = World::with(&format!("preconnect = {READY}\npreconnect-idle = \"2s\"\n"));
    let backend = world.daemon.at(1001);
    let metric = |name: &str, more: &str| {
        world.daemon.metric(&format!("sluice_backend_{name}{{pool=\"all\",backend=\"{backend}\"{more}}}")) as u64
    };
    let wait_for_renewed = |count: u64| {
        eventually(&format!("{count} are renewed"), || {
            let there = metric("ready_connections", "") == READY;
            (there && metric("ready_total", ",result=\"discarded\"") >= count).then_some(())
        });
    };
    wait_for_renewed(READY);
    let calls = Calls::of_worker(&world.daemon, || wait_for_renewed(4 * READY));
    calls.judge("renewal", 3.0 * READY as f64, RENEWAL);
}

#[test]
fn an_idle_session_owns_no_more_memory_than_recorded() {
    const WARM: usize = 1000;
    const MORE: usize = 4000;
    raise_descriptors(2 * (WARM + MORE) as u64 + 500);
    let world = World::new();
    let open = |count: usize| -> Vec<TcpStream> { (0..count).map(|_| world.begin(Play::Idle)).collect() };
    let warm = open(WARM);
    let before = world.steady_memory();
    let more = open(MORE);
    let each = world.steady_memory().saturating_sub(before) / MORE as u64;
    eprintln!("{each} bytes of private memory per idle session");
    drop((warm, more));
    world.kept.lock().unwrap().clear();
    world.wait_for_ended((WARM + MORE) as u64);
    let left = world.steady_memory();
    eprintln!("{} KiB with {WARM} sessions, {} KiB after all of them", before >> 10, left >> 10);
    assert!(left < before, "{left} bytes are left of a burst, more than {before} with {WARM} sessions");
    assert!(each <= IDLE_BYTES, "{each} bytes per idle session");
    // Given back to the system, so that each wave takes it anew: as much as the one before, and no more. How the
    // allocator places one wave is chance; what is lost in each would show in all.
    let mut over = (WARM + MORE) as u64;
    let mut wave = || {
        let sessions = open(WARM + MORE);
        let memory = world.steady_memory();
        eprintln!("{} KiB with {} sessions", memory >> 10, sessions.len());
        drop(sessions);
        world.kept.lock().unwrap().clear();
        over += (WARM + MORE) as u64;
        world.wait_for_ended(over);
        world.steady_memory();
        memory
    };
    let bound = wave() + LEFT_BYTES;
    let least = (0..3).map(|_| wave()).find(|memory| *memory <= bound);
    assert!(least.is_some(), "three waves of sessions took more than {bound} bytes, which the one before took at most");
}

#[test]
fn a_burst_of_bulk_leaves_no_memory_behind() {
    const SESSIONS: usize = 64;
    let world = World::new();
    for _ in 0..SESSIONS {
        world.connection();
    }
    world.wait_for_ended(SESSIONS as u64);
    let before = world.steady_memory();
    let most = thread::scope(|scope| {
        let world = &world;
        let threads: Vec<_> = (0..SESSIONS).map(|number| scope.spawn(move || world.bulk(number % 2 == 0))).collect();
        let mut most = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            most = most.max(world.daemon.private_memory());
        }
        most
    });
    world.wait_for_ended(2 * SESSIONS as u64);
    eventually("no pipe is in use", || (world.daemon.metric("sluice_pipes_in_use").abs() < 0.5).then_some(()));
    let after = world.steady_memory();
    let [before, most, after] = [before, most, after].map(|bytes| bytes >> 10);
    eprintln!("private memory: {before} KiB, {most} KiB in the burst, {after} KiB after it");
    assert!(after <= before + (LEFT_BYTES >> 10), "{before} KiB before, {after} KiB after");
}

/// A daemon with one worker, and a backend that does as it is told. One at a time, so that none disturbs another.
struct World {
    daemon: Daemon,
    kept: Arc<Mutex<Vec<TcpStream>>>,
    _backend: Backend,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    /// With more keys for the pool.
    fn with(pool: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let address = own_loopback();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keeps = Arc::clone(&kept);
        let backend = Backend::start((address, 1001), move |stream| serve(stream, &keeps));
        // Pages of a program that was built just now count as changed until they are on disk.
        std::fs::File::open(env!("CARGO_BIN_EXE_sluice")).and_then(|file| file.sync_all()).unwrap();
        let daemon = Daemon::start_on(address, &format!("{CONFIG}{pool}"), "workers = 1\n", |command| command);
        Self { daemon, kept, _backend: backend, _alone: alone }
    }

    /// A session of its own from the first byte to the last; the client closes first.
    fn connection(&self) {
        drop(self.begin(Play::Answer));
    }

    /// A session whose backend has answered the hello.
    fn begin(&self, play: Play) -> TcpStream {
        let mut session = connect(self.daemon.at(443));
        session.set_nodelay(true).unwrap();
        session.write_all(&hello(play)).unwrap();
        expect(&mut session, ANSWER);
        session
    }

    /// A bulk session that is reset in the end.
    fn bulk(&self, down: bool) {
        let mut session = self.begin(if down { Play::Download } else { Play::Upload });
        if down {
            session.write_all(b"?").unwrap();
            // Whoever stops in the middle leaves a buffer or a pipe full.
            expect(&mut session, Content { length: BULK.length / 2, ..BULK });
        } else {
            send(&mut session, Content { length: BULK.length / 2, ..BULK });
        }
        SockRef::from(&session).set_linger(Some(Duration::ZERO)).unwrap();
    }

    #[track_caller]
    fn wait_for_ended(&self, count: u64) {
        eventually(&format!("{count} sessions are over"), || {
            let log = self.daemon.log();
            (log.matches("\"end\":").count() as u64 >= count).then_some(())
        });
    }

    /// Does the same bulk until one round stays within the bound.
    #[track_caller]
    fn bulk_within_bound(&self, unit: &str, work: impl Fn()) {
        let units = (BULK.length / MIB) as f64;
        for round in 1..=ROUNDS {
            let calls = Calls::of_worker(&self.daemon, &work);
            if round == ROUNDS || calls.is_within(units, MEBIBYTE) {
                return calls.judge(unit, units, MEBIBYTE);
            }
        }
    }

    /// The daemon's own memory once it has not changed for two heartbeats, with which pipes and heap are trimmed.
    fn steady_memory(&self) -> u64 {
        let (mut last, mut since) = (0, Instant::now());
        eventually("memory is steady", || {
            let now = self.daemon.private_memory();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_millis(2500)).then_some(now)
        })
    }
}

/// A hello of [`HELLO`] bytes whose last one is the play.
fn hello(play: Play) -> Vec<u8> {
    let bare = padded_hello("costs.test", 1).len() - 1;
    let mut hello = padded_hello("costs.test", HELLO - bare);
    *hello.last_mut().unwrap() = play as u8;
    hello
}

/// One connection at the backend.
fn serve(mut stream: TcpStream, kept: &Mutex<Vec<TcpStream>>) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut first = [0; HELLO];
    if stream.read_exact(&mut first).is_err() || stream.write_all(ANSWER.at(0, 1024)).is_err() {
        return;
    }
    match first[HELLO - 1] {
        play if play == Play::Exchange as u8 => {
            let mut request = [0; REQUEST.length as usize];
            while stream.read_exact(&mut request).is_ok() && stream.write_all(ANSWER.at(0, 1024)).is_ok() {}
        }
        play if play == Play::Download as u8 => {
            if stream.read_exact(&mut [0]).is_ok() {
                let mut sent = 0;
                while let Ok(count @ 1..) = stream.write(BULK.at(sent, 256 * 1024)) {
                    sent += count as u64;
                }
            }
        }
        play if play == Play::Upload as u8 => {
            let mut buffer = vec![0; 256 * 1024];
            let mut received = 0;
            while received < BULK.length {
                let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
                received += count as u64;
            }
            let _ = stream.write_all(ANSWER.at(0, 1024));
        }
        play if play == Play::Idle as u8 => kept.lock().unwrap().push(stream),
        // The client ends the session.
        _ => {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}

/// Reads `content`.
#[track_caller]
fn expect(stream: &mut TcpStream, content: Content) {
    let mut buffer = vec![0; content.length.min(256 * 1024) as usize];
    let mut received = 0;
    while received < content.length {
        let most = (content.length - received).min(buffer.len() as u64) as usize;
        let count = stream.read(&mut buffer[..most]).expect("the backend's bytes");
        assert!(count > 0, "it ended after {received} bytes");
        content.check(received, &buffer[..count]).unwrap();
        received += count as u64;
    }
}

/// Writes `content`.
#[track_caller]
fn send(stream: &mut TcpStream, content: Content) {
    let mut sent = 0;
    while sent < content.length {
        sent += stream.write(content.at(sent, 256 * 1024)).expect("the backend takes bytes") as u64;
    }
}

/// Lets this process have so many descriptors.
#[track_caller]
fn raise_descriptors(needed: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= needed, "{needed} descriptors are needed, {hard} allowed: raise `ulimit -Hn`");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(needed), hard).unwrap();
}
