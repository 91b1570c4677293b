//! Faults of sluice itself: a panic in a session's task ends that session and no other, one anywhere else the process; a
//! stuck worker is told of.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;
use serde_json::json;
use support::hello::client_hello;
use support::strace::Held;
use support::{Backend, Daemon, connect, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
backends = ["{ip}:1001"]
"#;

fn start(fault: &str) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 1\n", |command| command.env("SLUICE_TEST_FAULT", fault));
    (daemon, backend)
}

/// A client whose hello came back.
#[track_caller]
fn session(daemon: &Daemon, name: &str) -> TcpStream {
    let mut stream = connect(daemon.at(443));
    let hello = client_hello(Some(name), &[]);
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).unwrap();
    stream
}

#[track_caller]
fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here");
}

#[test]
fn panic_in_a_session_ends_it_alone() {
    const FAULTS: usize = 30;
    for stage in ["connecting", "flowing"] {
        let (daemon, _backend) = start(&format!("{stage}:fault.test"));
        let mut others: Vec<TcpStream> = (0..10).map(|_| session(&daemon, "a.test")).collect();
        let before = daemon.descriptors();
        for _ in 0..FAULTS {
            let mut stream = connect(daemon.at(443));
            stream.write_all(&client_hello(Some("fault.test"), &[])).unwrap();
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest);
            // What flowed may not be all that was to come, so the end must not look like one.
            assert!(rest.is_empty() && (stage == "connecting" || ended.is_err()), "{stage}: {ended:?} {rest:?}");
        }
        for record in daemon.wait_for_records(FAULTS) {
            let told = (&record["end"], &record["blame"], &record["detail"], &record["sni"]);
            let want = (
                &json!("local_error"),
                &json!("local"),
                &json!("a fault of sluice, see the log"),
                &json!("fault.test"),
            );
            assert_eq!(told, want, "{stage}: {record}");
        }
        assert_eq!(daemon.metric("sluice_worker_faults_total{worker=\"0\"}"), FAULTS as f64);
        daemon.wait_for_log("a fault of sluice: please report it");
        let log = daemon.log();
        assert!(log.contains("a fault that a test wants") && log.contains("src/proxy/"), "{log}");
        // Nothing is left of them, and everything else goes on: the others, new ones, and an upgrade.
        eventually("descriptors are given back", || (daemon.descriptors() == before).then_some(()));
        assert_eq!(daemon.json("/v1/status")["pools"][0]["active"], 10);
        others.iter_mut().for_each(echoes);
        others.push(session(&daemon, "a.test"));
        daemon.upgrade();
        others.iter_mut().for_each(echoes);
        assert_eq!(daemon.metric("sluice_worker_faults_total{worker=\"0\"}"), FAULTS as f64, "{stage}: carried over");
    }
}

#[test]
fn panic_with_nobody_at_stderr_ends_no_more() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let (reader, writer) = std::io::pipe().unwrap();
    let daemon = Daemon::start_on(address, CONFIG, "workers = 1\n", |command| {
        command.env("SLUICE_TEST_FAULT", "flowing:fault.test").stderr(writer)
    });
    // Writing there fails from now on.
    drop(reader);
    let mut other = session(&daemon, "a.test");
    let mut stream = connect(daemon.at(443));
    stream.write_all(&client_hello(Some("fault.test"), &[])).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "reset");
    daemon.wait_for_log("a fault of sluice: please report it");
    echoes(&mut other);
}

#[test]
fn session_whose_record_cannot_be_written_leaves_nothing_behind() {
    const FAULTS: usize = 30;
    let (mut daemon, _backend) = start("recording:fault.test");
    let before = daemon.descriptors();
    for _ in 0..FAULTS {
        drop(session(&daemon, "fault.test"));
        drop(session(&daemon, "a.test"));
    }
    eventually("all faults are counted", || {
        (daemon.metric("sluice_worker_faults_total{worker=\"0\"}") == FAULTS as f64).then_some(())
    });
    let records = daemon.wait_for_records(FAULTS);
    assert!(records.iter().all(|record| record["sni"] == "a.test"), "{records:?}");
    eventually("all places are given back", || {
        let status = daemon.json("/v1/status");
        (status["connections"] == 0 && status["pools"][0]["active"] == 0).then_some(())
    });
    eventually("and descriptors", || (daemon.descriptors() <= before).then_some(()));
    // Nobody waits for them.
    daemon.signal(Signal::SIGQUIT);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn panic_outside_of_sessions_ends_the_process() {
    // A worker's third heartbeat.
    let (mut daemon, _backend) = start("beating:3");
    let status = daemon.wait_for_exit();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    let log = daemon.log();
    assert!(log.contains("a fault of sluice: please report it") && log.contains("worker-0"), "{log}");
}

#[test]
fn stuck_worker_is_told_of() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| command);
    let stuck = |worker: usize| daemon.metric(&format!("sluice_worker_stuck{{worker=\"{worker}\"}}"));
    assert_eq!([stuck(0), stuck(1)], [0.0, 0.0]);
    let held = Held::worker(&daemon);
    daemon.wait_for_log("worker is stuck");
    assert_eq!([stuck(0), stuck(1)], [1.0, 0.0]);
    drop(held);
    daemon.wait_for_log("worker goes on");
    assert_eq!([stuck(0), stuck(1)], [0.0, 0.0]);
}
