//! Signals in an order that `lifecycle.rs` does not have: the first is INT, one meets the delay of readiness, one comes while
//! the process starts, TERM comes after QUIT. And the watchdog: a worker that is stuck is not hidden from the service manager.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::hello::client_hello;
use support::strace::Held;
use support::{Backend, DEADLINE, Daemon, TempDir, connect, deaf, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
"#;

fn start(global: &str) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    (Daemon::start_on(address, CONFIG, global, |command| command), backend)
}

fn open_session(daemon: &Daemon) -> TcpStream {
    let mut stream = connect(daemon.at(443));
    let hello = client_hello(Some("any.test"), &[]);
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).unwrap();
    stream
}

fn is_draining(daemon: &Daemon) -> Option<()> {
    (daemon.get("/readyz")?.0 == 503).then_some(())
}

/// The daemon ends now, however long it was told that it may take; its session is reset and recorded, its socket is gone.
#[track_caller]
fn ends_at_once(mut daemon: Daemon, mut session: TcpStream) {
    let begun = Instant::now();
    assert!(daemon.wait_for_exit().success());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(session.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let ends: Vec<_> = daemon.records().iter().map(|record| record["end"].clone()).collect();
    assert_eq!(ends.iter().filter(|end| **end == "shutdown").count(), 1, "{ends:?}");
    assert!(!daemon.socket().exists());
}

#[test]
fn int_waits_neither_for_readiness_nor_for_sessions() {
    let (daemon, _backend) = start("shutdown-grace = \"1h\"\nready-delay = \"1h\"\n");
    let session = open_session(&daemon);
    daemon.signal(Signal::SIGINT);
    ends_at_once(daemon, session);
}

#[test]
fn second_word_ends_the_delay_of_readiness_too() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let (daemon, _backend) = start("shutdown-grace = \"1h\"\nready-delay = \"1h\"\n");
        let session = open_session(&daemon);
        daemon.signal(Signal::SIGTERM);
        eventually("not ready", || is_draining(&daemon));
        drop(open_session(&daemon));
        daemon.wait_for_records(1);
        daemon.signal(second);
        ends_at_once(daemon, session);
    }
}

#[test]
fn listeners_stay_open_for_all_of_the_delay_and_close_after_it() {
    let (mut daemon, _backend) = start("shutdown-grace = \"1h\"\nready-delay = \"3s\"\n");
    let session = open_session(&daemon);
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    eventually("not ready", || is_draining(&daemon));
    let turned = begun.elapsed();
    let closed = eventually("the listener closes", || {
        // Said before the attempt, so that a late answer does not pass for an early one.
        let at = begun.elapsed();
        TcpStream::connect(daemon.at(443)).is_err().then_some(at)
    });
    assert!(turned < Duration::from_millis(2900), "told at once: {turned:?}");
    assert!((Duration::from_secs(3)..Duration::from_secs(9)).contains(&closed), "{closed:?}");
    drop(session);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn term_after_quit_begins_a_grace_of_its_own() {
    let (daemon, _backend) = start("shutdown-grace = \"500ms\"\n");
    let session = open_session(&daemon);
    daemon.signal(Signal::SIGQUIT);
    eventually("draining", || is_draining(&daemon));
    let quiet = Instant::now();
    eventually("longer than the grace", || {
        assert!(is_draining(&daemon).is_some());
        (quiet.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    ends_at_once(daemon, session);
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn every_word_to_stop_is_heard_while_the_process_starts() {
    for word in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let address = own_loopback();
        // The first check would keep the start waiting for as long as checks may.
        let _silent = deaf((address, 1001));
        let body = format!("{CONFIG}[pool.a.health]\ncheck = \"tcp\"\ntimeout = \"10s\"\n");
        let mut daemon = Daemon::start_unready(address, &body, "");
        daemon.signal(word);
        assert!(daemon.wait_for_exit().success(), "{word}");
        assert!(!daemon.socket().exists());
        let log = daemon.log();
        assert!(log.contains("\"stopped\"") && !log.contains("\"ready\""), "{word}: {log}");
    }
}

#[test]
fn a_stuck_worker_stops_the_feeding_of_the_watchdog() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let inbox = UnixDatagram::bind(&path).unwrap();
    let is_fed = |within: Duration| {
        inbox.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 256];
        let mut next = || inbox.recv(&mut buffer).map(|count| buffer[..count].starts_with(b"WATCHDOG=1"));
        loop {
            match next() {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
        }
    };
    // Fed twice a second; systemd would end the process after two seconds without.
    let limit = Duration::from_secs(2);
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", limit.as_micros().to_string())
    });
    assert!(is_fed(limit));
    let held = Held::worker(&daemon);
    let begun = Instant::now();
    while is_fed(limit) {
        assert!(begun.elapsed() < DEADLINE, "it is fed although a worker is stuck");
    }
    assert_eq!(daemon.get("/healthz").unwrap().0, 200, "the control plane itself is well");
    drop(held);
    assert!(is_fed(DEADLINE), "fed again once the worker goes on");
    drop(open_session(&daemon));
}
