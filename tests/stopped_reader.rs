//! A reader that stops: the sender is held back, the daemon keeps one buffer or pipe per direction and no more, and a
//! sender that resets meanwhile is noticed. `SLUICE_TEST_STOP_SECONDS` lengthens the stop.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use socket2::SockRef;
use support::namespace::Namespace;
use support::pump::Content;
use support::{Backend, DEADLINE, Daemon, connect, eventually, own_loopback};

/// More than all socket buffers on the way hold.
const PUSHED: Content = Content { offset: 12_345, length: 96 << 20 };

/// How long readers stop once everything stands still.
const STOP: Duration = Duration::from_secs(3);
/// What the daemon may grow by once everything stands still. Measured: nothing.
const MOST_GROWTH: u64 = 128 << 10;

const CONFIG: &str = r#"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "all"
[pool.all]
backends = ["{ip}:1001"]
"#;

/// A daemon and a backend that hands its ends over.
struct World {
    daemon: Daemon,
    ends: mpsc::Receiver<TcpStream>,
    _backend: Backend,
}

impl World {
    fn new() -> Self {
        Self::with("workers = 2\n", "")
    }

    fn with(global: &str, pool: &str) -> Self {
        let address = own_loopback();
        let (end, ends) = mpsc::channel();
        let end = Mutex::new(end);
        let backend = Backend::start((address, 1001), move |stream| {
            let _ = end.lock().unwrap().send(stream);
        });
        let daemon = Daemon::start_on(address, &format!("{CONFIG}{pool}"), global, |command| command);
        Self { daemon, ends, _backend: backend }
    }

    /// A session over which one byte has gone each way: who is to push, and who is not to read.
    fn session(&self, pushes: Pushes) -> (TcpStream, TcpStream) {
        let mut client = connect(self.daemon.at(444));
        client.write_all(b"?").unwrap();
        let mut server = self.ends.recv_timeout(DEADLINE).expect("a session at the backend");
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server.set_write_timeout(Some(DEADLINE)).unwrap();
        // It may send as much as it likes, whatever the machine says.
        SockRef::from(&server).set_tcp_notsent_lowat(u32::MAX).unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        if pushes == Pushes::Client { (client, server) } else { (server, client) }
    }
}

#[test]
fn a_stopped_reader_holds_the_sender_back_and_costs_no_memory() {
    let world = World::new();
    let stop = env::var("SLUICE_TEST_STOP_SECONDS").map_or(STOP, |text| Duration::from_secs(text.parse().unwrap()));
    let pairs: Vec<_> = [Pushes::Client, Pushes::Server].map(|pushes| world.session(pushes)).into();
    let base = world.daemon.private_memory();
    let pushing = pairs.into_iter().map(|(sender, reader)| {
        sender.set_write_timeout(Some(stop + DEADLINE)).unwrap();
        sender.set_read_timeout(Some(stop + DEADLINE)).unwrap();
        (Pushing::start(sender, PUSHED), reader)
    });
    let pushing: Vec<(Pushing, TcpStream)> = pushing.collect();
    let sent = wait_for_standstill(&pushing);
    assert!(sent.iter().all(|sent| *sent < PUSHED.length), "somebody swallowed all bytes: {sent:?}");
    let stopped = world.daemon.private_memory();
    let grown = stopped.saturating_sub(base);
    eprintln!("the daemon grew by {grown} bytes");
    assert!(grown < 4 << 20, "the daemon grew by {grown} bytes");
    let since = Instant::now();
    let mut most = stopped;
    while since.elapsed() < stop {
        most = most.max(world.daemon.private_memory());
        // Not to wait for something: the time over which is measured.
        thread::sleep(Duration::from_millis(100));
    }
    eprintln!("and by {} bytes more in {stop:?}", most - stopped);
    assert!(most - stopped <= MOST_GROWTH, "the daemon grew by {} bytes while nothing moved", most - stopped);
    let later = pushing.iter().map(|(pushing, _)| pushing.sent.load(Ordering::SeqCst));
    assert_eq!(later.collect::<Vec<_>>(), sent, "nothing moves while readers have stopped");
    for (pushing, reader) in pushing {
        receive_all(reader, 0);
        pushing.thread.join().unwrap();
    }
    for record in world.daemon.wait_for_records(2) {
        assert_eq!(record["end"], "done", "{record}");
        assert_eq!(number(&record, "bytes_up") + number(&record, "bytes_down"), PUSHED.length + 2, "{record}");
    }
}

/// Pipes are few: a user without privilege may have 64 of 1 MiB (`pipe(7)`).
#[test]
fn stopped_readers_leave_the_pipes_to_others() {
    leave_the_pipes(&World::new());
}

/// A popular setting, with which a socket takes less than its buffer has room for.
#[test]
fn stopped_readers_leave_the_pipes_to_others_where_little_may_wait_to_be_sent() {
    Namespace::new().enter(|| {
        fs::write("/proc/sys/net/ipv4/tcp_notsent_lowat", "131072").unwrap();
        leave_the_pipes(&World::new());
    });
}

fn leave_the_pipes(world: &World) {
    const READERS: u64 = 40;
    const READ: u64 = 8 << 20;
    /// Measured: 1 for each worker.
    const MOST_HELD: f64 = 8.0;
    let stopped: Vec<_> = (0..READERS)
        .map(|_| {
            let (sender, mut reader) = world.session(Pushes::Server);
            let pushing = Pushing::start(sender, PUSHED);
            // Until its direction is spliced.
            receive(&mut reader, 0, READ);
            (pushing, reader)
        })
        .collect();
    for sent in wait_for_standstill(&stopped) {
        assert!(sent < PUSHED.length, "somebody swallowed all bytes");
    }
    let held = world.daemon.metric("sluice_pipes_in_use");
    eprintln!("{held} pipes are held by {READERS} stopped readers");
    assert!(held <= MOST_HELD, "{held} pipes are held by {READERS} stopped readers");
    let spliced = || world.daemon.metric("sluice_relay_bytes_total{path=\"splice\",direction=\"down\"}");
    let before = spliced();
    let (sender, reader) = world.session(Pushes::Server);
    let pushing = Pushing::start(sender, PUSHED);
    receive_all(reader, 0);
    pushing.thread.join().unwrap();
    world.daemon.wait_for_records(1);
    let share = (spliced() - before) / PUSHED.length as f64;
    assert!(share > 0.9, "only {share:.2} of a bulk session was spliced beside them");
    let fallbacks = world.daemon.metric("sluice_relay_fallbacks_total{reason=\"no_pipe\"}");
    assert!(fallbacks < 0.5, "{fallbacks} times without a pipe");
    let reading: Vec<_> = stopped
        .into_iter()
        .map(|(pushing, reader)| {
            thread::spawn(move || {
                receive_all(reader, READ);
                pushing.thread.join().unwrap();
            })
        })
        .collect();
    for thread in reading {
        thread.join().unwrap();
    }
    for record in world.daemon.wait_for_records(READERS as usize + 1) {
        assert_eq!(record["end"], "done", "{record}");
        assert_eq!(number(&record, "bytes_down"), PUSHED.length + 1, "{record}");
    }
    assert!(world.daemon.metric("sluice_pipes_in_use") < 0.5);
}

/// The end of a source that is empty needs no room: the kernel delivers what is left, and the backend's place is free.
#[test]
fn an_end_passes_a_sink_without_room() {
    const STEP: u64 = 64 << 10;
    let world = World::with("workers = 1\n", "relay = \"splice\"\n");
    // Holds a pipe, so that the others are asked for room.
    let (sender, _stopped) = world.session(Pushes::Server);
    sender.set_nonblocking(true).unwrap();
    push_until_full(&sender);
    assert!(world.daemon.metric("sluice_pipes_in_use") > 0.5);
    let relayed = || {
        let sessions = world.daemon.json("/v1/sessions");
        sessions.as_array().unwrap().iter().map(|session| number(session, "bytes_down")).sum::<u64>()
    };
    // Steps that are relayed one after the other, to a reader that does not read; the one after the last is not.
    let fill = |sender: &mut TcpStream, most: u64, patience: Duration| {
        let mut last = relayed();
        for step in 0..most {
            sender.write_all(PUSHED.at(step * STEP, STEP as usize)).unwrap();
            let until = Instant::now() + patience;
            while relayed() - last < STEP {
                if Instant::now() > until {
                    return step;
                }
                thread::sleep(Duration::from_millis(2));
            }
            last += STEP;
        }
        most
    };
    let (mut sender, _full) = world.session(Pushes::Server);
    let steps = fill(&mut sender, PUSHED.length / STEP, Duration::from_secs(1));
    let (mut sender, mut reader) = world.session(Pushes::Server);
    reader.shutdown(Shutdown::Write).unwrap();
    assert_eq!(fill(&mut sender, steps, DEADLINE), steps);
    sender.shutdown(Shutdown::Write).unwrap();
    let records = world.daemon.wait_for_records(1);
    assert_eq!(records[0]["end"], "done", "{records:?}");
    receive(&mut reader, 0, steps * STEP);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_sender_that_resets_is_noticed_while_the_reader_has_stopped() {
    let world = World::new();
    for (count, pushes, end) in [(1, Pushes::Client, "client_reset"), (2, Pushes::Server, "backend_reset")] {
        let (sender, mut reader) = world.session(pushes);
        SockRef::from(&sender).set_linger(Some(Duration::ZERO)).unwrap();
        sender.set_nonblocking(true).unwrap();
        push_until_full(&sender);
        drop(sender);
        // The reader goes on doing nothing: without reading, it is told.
        eventually("the reader's socket is in error", || {
            let mut descriptors = [PollFd::new(reader.as_fd(), PollFlags::empty())];
            poll(&mut descriptors, PollTimeout::from(50_u8)).unwrap();
            descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)).then_some(())
        });
        let mut rest = Vec::new();
        let error = reader.read_to_end(&mut rest).expect_err("no clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        for (number, piece) in rest.chunks(64 * 1024).enumerate() {
            PUSHED.check(number as u64 * 64 * 1024, piece).unwrap();
        }
        let records = world.daemon.wait_for_records(count);
        assert!(records.iter().any(|record| record["end"] == end), "{end}: {records:?}");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pushes {
    Client,
    Server,
}

/// A thread that sends as fast as it is let, and then FIN.
struct Pushing {
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Pushing {
    fn start(mut stream: TcpStream, content: Content) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let thread = thread::spawn(move || {
            let mut position = 0;
            while position < content.length {
                position += stream.write(content.at(position, 64 * 1024)).expect("write") as u64;
                counter.store(position, Ordering::SeqCst);
            }
            stream.shutdown(Shutdown::Write).unwrap();
            // Closing before the other side has read would be no fault, but this way a reset would be noticed.
            assert_eq!(stream.read(&mut [0]).expect("no reset"), 0);
        });
        Self { sent, thread }
    }
}

/// Waits until every sender has begun and nothing has moved for two seconds; what each has sent.
fn wait_for_standstill(senders: &[(Pushing, TcpStream)]) -> Vec<u64> {
    let (mut last, mut since) = (Vec::new(), Instant::now());
    eventually("the senders stand still", || {
        let sent: Vec<u64> = senders.iter().map(|(pushing, _)| pushing.sent.load(Ordering::SeqCst)).collect();
        if sent != last {
            (last, since) = (sent.clone(), Instant::now());
        }
        (!sent.contains(&0) && since.elapsed() > Duration::from_secs(2)).then_some(sent)
    })
}

/// Reads and compares everything that is pushed behind `position`, and ends the session.
fn receive_all(mut reader: TcpStream, position: u64) {
    receive(&mut reader, position, PUSHED.length);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "more than was pushed");
    reader.shutdown(Shutdown::Write).unwrap();
}

/// Reads and compares what is pushed from one position to another.
fn receive(reader: &mut TcpStream, mut position: u64, end: u64) {
    reader.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    while position < end {
        let most = buffer.len().min((end - position) as usize);
        let count = reader.read(&mut buffer[..most]).unwrap();
        assert!(count > 0, "the end came after {position} bytes");
        PUSHED.check(position, &buffer[..count]).unwrap();
        position += count as u64;
    }
}

/// Writes until nothing has been taken for half a second.
fn push_until_full(mut stream: &TcpStream) {
    let (mut sent, mut since) = (0, Instant::now());
    eventually("the way is full", || {
        while let Ok(count) = stream.write(PUSHED.at(sent, 64 * 1024)) {
            assert!(count > 0, "somebody swallowed all {sent} bytes");
            sent += count as u64;
            since = Instant::now();
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(())
    });
}

fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap()
}
