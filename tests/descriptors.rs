//! A daemon that runs out of descriptors pauses accepting and refuses what it cannot connect; open sessions move on,
//! no CPU is burnt, and with the descriptors everything comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::unistd::{SysconfVar, sysconf};
use serde_json::Value;
use support::hello::client_hello;
use support::pump::Content;
use support::{Backend, DEADLINE, Daemon, alert_of, connect, eventually, own_loopback, through};

/// Descriptors that the daemon may have. It needs about 30 for itself.
const LIMIT: usize = 80;
/// Clients of each listener: together far more than fit.
const CLIENTS: usize = 60;

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "echo"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "echo"
[pool.echo]
backends = ["{ip}:1001"]
"#;

#[test]
fn out_of_descriptors_accepting_pauses_and_recovers() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", limited);
    eventually("a low limit is announced", || daemon.log().contains("raise LimitNOFILE").then_some(()));
    let mut opened = 1;
    assert!(is_served(&daemon));
    daemon.wait_for_records(opened);
    let base = steady_descriptors(&daemon);
    assert!(base + 20 < LIMIT, "{base} of {LIMIT} descriptors are gone at the start");
    let mut old = connect(daemon.at(444));
    opened += 1;
    echo(&mut old, Content { offset: 1, length: 1 });

    let mut clients = crowd(&daemon);
    opened += clients.len();
    // Two descriptors become free: enough to accept somebody, not enough to connect everybody.
    let served = eventually("somebody is served", || {
        let mut fates = clients.iter_mut().map(Client::fate);
        fates.position(|fate| fate == Fate::Served)
    });
    drop(clients.swap_remove(served));
    eventually("somebody is refused", || clients.iter_mut().any(|client| client.fate() == Fate::Refused).then_some(()));

    // A client of the status socket waits as the others do.
    let mut status = UnixStream::connect(daemon.socket()).unwrap();
    status.set_read_timeout(Some(DEADLINE)).unwrap();
    status.write_all(b"GET /metrics HTTP/1.1\r\nHost: sluice\r\n\r\n").unwrap();
    // Bulk, so that splicing is tried, for which there are no pipes.
    echo(&mut old, Content { offset: 2, length: 8 << 20 });
    let share = cpu_share(&daemon, Duration::from_secs(1));
    assert!(share < 0.3, "{:.0} % of a CPU while there is nothing to do but to wait", share * 100.0);
    echo(&mut old, Content { offset: 3, length: 100_000 });

    let fates = clients.iter_mut().fold(BTreeMap::<Fate, u32>::new(), |mut fates, client| {
        *fates.entry(client.fate()).or_default() += 1;
        fates
    });
    eprintln!("{base} descriptors at the start, clients: {fates:?}, {:.1} % CPU", share * 100.0);
    drop(clients);
    let mut answer = String::new();
    status.read_to_string(&mut answer).expect("the status socket answers in the end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(status);
    eventually("a new client is served", || {
        opened += 1;
        is_served(&daemon).then_some(())
    });
    echo(&mut old, Content { offset: 4, length: 100_000 });
    drop(old);
    assert_recovered(&daemon, base, opened);
}

/// A check that could not be made says nothing about the backend: no session may be closed for it.
#[test]
fn out_of_descriptors_no_backend_goes_down() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let health = "on-down = \"close\"\n[pool.echo.health]\ncheck = \"tcp\"\ninterval = \"20ms\"\n";
    let daemon = Daemon::start_on(address, &[CONFIG, health].concat(), "workers = 2\n", limited);
    let mut old = connect(daemon.at(444));
    echo(&mut old, Content { offset: 1, length: 1 });
    let clients = crowd(&daemon);
    // Not to wait for something: the time in which some fifty checks cannot be made.
    thread::sleep(Duration::from_secs(1));
    echo(&mut old, Content { offset: 2, length: 100_000 });
    drop(clients);
    eventually("a new client is served", || is_served(&daemon).then_some(()));
    echo(&mut old, Content { offset: 3, length: 100_000 });
    drop(old);
    let records = daemon.wait_for_records(CLIENTS * 2 + 2);
    let wrong = |record: &&Value| record["end"] == "backend_down" || record["end"] == "no_backend";
    assert_eq!(records.iter().filter(wrong).count(), 0, "sessions ended for a backend that is well");
}

/// More clients than the daemon has descriptors for; returns once it has noticed.
#[track_caller]
fn crowd(daemon: &Daemon) -> Vec<Client> {
    let clients = (0..CLIENTS).flat_map(|_| [Client::tls(daemon), Client::tcp(daemon)]).collect();
    eventually("the shortage is noticed", || {
        daemon.log().contains("cannot accept: out of descriptors or memory; pausing").then_some(())
    });
    clients
}

/// Nothing is left over, and every connection has its one record.
#[track_caller]
fn assert_recovered(daemon: &Daemon, base: usize, opened: usize) {
    let records = daemon.wait_for_records(opened);
    assert_eq!(records.len(), opened, "exactly one record per connection");
    let mut ends = BTreeMap::<&str, u32>::new();
    for record in &records {
        let end = record["end"].as_str().unwrap();
        *ends.entry(end).or_default() += 1;
        if end == "local_error" {
            assert_eq!(record["blame"], "local", "{record}");
            assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("Too many open files")), "{record}");
        }
    }
    eprintln!("ends: {ends:?}");
    assert!(ends.contains_key("local_error"), "{ends:?}");
    // Those that were accepted after they had left may have sent nothing but FIN.
    let known = ["done", "local_error", "client_gone", "client_reset"];
    assert!(ends.keys().all(|end| known.contains(end)), "{ends:?}");

    assert!(daemon.metric("sluice_listener_accept_errors_total{errno=\"EMFILE\"}") > 0.5);
    for gauge in [
        "sluice_listener_connections_active{listener=\"tls\"}",
        "sluice_listener_connections_active{listener=\"tcp\"}",
        "sluice_pool_connections_active{pool=\"echo\"}",
        "sluice_pipes_in_use",
    ] {
        assert!(daemon.metric(gauge).abs() < 0.5, "{gauge}");
    }
    assert_eq!(daemon.json("/v1/sessions"), Value::Array(Vec::new()), "no session is left");
    // Spare pipes are closed at the next heartbeat.
    eventually("descriptors are back", || (daemon.descriptors() <= base).then_some(()));
}

/// What became of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Waits,
    /// Got its own bytes back.
    Served,
    /// An alert and FIN with TLS, RST without.
    Refused,
}

struct Client {
    /// Until it was reset.
    stream: Option<TcpStream>,
    sent: Vec<u8>,
    received: Vec<u8>,
    fate: Fate,
}

impl Client {
    fn tls(daemon: &Daemon) -> Self {
        Self::send(daemon.at(443), client_hello(Some("echo.test"), &[]))
    }

    fn tcp(daemon: &Daemon) -> Self {
        Self::send(daemon.at(444), b"ping".to_vec())
    }

    fn send(address: SocketAddr, sent: Vec<u8>) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).and_then(|mut stream| {
            stream.write_all(&sent)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let fate = match &stream {
            Ok(_) => Fate::Waits,
            // Without TLS a client may be reset before it has said anything; the error is reported only once.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && sent[0] != 0x16 => Fate::Refused,
            Err(error) => panic!("{error}"),
        };
        Self { stream: stream.ok(), sent, received: Vec::new(), fate }
    }

    /// Looks at what has come; anything but an echo or a clean refusal is a fault.
    fn fate(&mut self) -> Fate {
        let Some(stream) = self.stream.as_mut().filter(|_| self.fate == Fate::Waits) else { return self.fate };
        let end = stream.read_to_end(&mut self.received).map_err(|error| error.kind());
        let tls = self.sent[0] == 0x16;
        self.fate = match end {
            Err(ErrorKind::WouldBlock) if self.received == self.sent => Fate::Served,
            Err(ErrorKind::WouldBlock) => Fate::Waits,
            Err(ErrorKind::ConnectionReset) if !tls && self.received.is_empty() => Fate::Refused,
            Ok(_) if tls && alert_of(&self.received) == Some(80) => Fate::Refused,
            end => panic!("tls: {tls}, {end:?} after {:?}", self.received),
        };
        if self.fate == Fate::Refused {
            // As a client does that is told so.
            self.stream = None;
        }
        self.fate
    }
}

/// The same command under a low limit of descriptors.
fn limited(command: &mut Command) -> &mut Command {
    through(command, "prlimit", &[&format!("--nofile={LIMIT}:{LIMIT}")])
}

/// Whether a new connection gets its bytes back.
fn is_served(daemon: &Daemon) -> bool {
    let answer = TcpStream::connect_timeout(&daemon.at(444), DEADLINE).and_then(|mut stream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"ping")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    });
    answer.is_ok_and(|answer| answer == b"ping")
}

/// Sends `content` and reads it back at the same time.
#[track_caller]
fn echo(stream: &mut TcpStream, content: Content) {
    let mut sender = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while sent < content.length {
                let chunk = content.at(sent, 64 * 1024);
                sender.write_all(chunk).expect("an open session takes bytes");
                sent += chunk.len() as u64;
            }
        });
        let mut buffer = vec![0; 64 * 1024];
        let mut received = 0;
        while received < content.length {
            let count = stream.read(&mut buffer).expect("an open session moves on");
            assert!(count > 0, "an open session ended after {received} bytes");
            content.check(received, &buffer[..count]).unwrap();
            received += count as u64;
        }
    });
}

/// Descriptors once nothing changes any more.
fn steady_descriptors(daemon: &Daemon) -> usize {
    let (mut last, mut times) = (0, 0);
    eventually("descriptors are steady", || {
        let count = daemon.descriptors();
        times = if count == last { times + 1 } else { 0 };
        last = count;
        (times > 50).then_some(count)
    })
}

/// CPU time of the daemon over `period`, as a share of one CPU.
fn cpu_share(daemon: &Daemon, period: Duration) -> f64 {
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        // After the command's name in brackets: state is field 3, user and system time are 14 and 15 (proc(5)).
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    let (before, begun) = (ticks(), Instant::now());
    // Not to wait for something: the time over which is measured.
    thread::sleep(period);
    (ticks() - before) as f64 / per_second as f64 / begun.elapsed().as_secs_f64()
}
