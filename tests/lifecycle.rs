//! Start, signals and stop: readiness, notification of the service manager, draining, stale sockets, clear failures.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::hello::client_hello;
use support::{Backend, Daemon, TempDir, connect, eventually, own_loopback, sluice};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
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
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).unwrap();
    stream
}

#[track_caller]
fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
}

#[test]
fn term_lets_sessions_end_by_themselves() {
    let (mut daemon, _backend) = start("shutdown-grace = \"15s\"\n");
    let mut session = open_session(&daemon);
    daemon.signal(Signal::SIGTERM);
    eventually("the listener is closed", || TcpStream::connect(daemon.at(443)).is_err().then_some(()));
    assert_eq!(daemon.get("/readyz").map(|(status, _)| status), Some(503));
    assert_eq!(daemon.get("/healthz").map(|(status, _)| status), Some(200));
    echoes(&mut session);
    drop(session);
    assert!(daemon.wait_for_exit().success());
    // The attempts that found the listener still open said nothing and left.
    let ends: Vec<_> = daemon.records().iter().map(|record| record["end"].clone()).collect();
    assert_eq!(ends.iter().filter(|end| **end != "client_gone").collect::<Vec<_>>(), ["done"]);
    assert!(!daemon.socket().exists(), "the status socket is removed");
}

/// Says something again and again until the session breaks.
fn chatters(mut session: TcpStream) -> JoinHandle<()> {
    let mut answer = [0; 4];
    thread::spawn(move || while session.write_all(b"ping").and_then(|()| session.read_exact(&mut answer)).is_ok() {})
}

#[test]
fn grace_runs_out_and_every_session_gets_its_record() {
    let (mut daemon, _backend) = start("shutdown-grace = \"300ms\"\n");
    let mut silent: Vec<TcpStream> = (0..10).map(|_| open_session(&daemon)).collect();
    let chatting = chatters(open_session(&daemon));
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
    let took = begun.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(3)).contains(&took), "{took:?}");
    for session in &mut silent {
        assert!(session.read(&mut [0; 1]).is_err(), "reset, not a clean end");
    }
    chatting.join().unwrap();
    let records = daemon.records();
    assert_eq!(records.len(), 11);
    assert!(records.iter().all(|record| record["end"] == "shutdown"), "{records:?}");
}

#[test]
fn silent_sessions_end_one_by_one_in_the_second_half_of_the_grace() {
    let (mut daemon, _backend) = start("shutdown-grace = \"6s\"\n");
    let silent: Vec<TcpStream> = (0..30).map(|_| open_session(&daemon)).collect();
    let client = open_session(&daemon);
    let chatting = chatters(client);
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let ends: Vec<Duration> = silent
        .into_iter()
        .map(|mut session| {
            thread::spawn(move || {
                assert!(session.read(&mut [0; 1]).is_err(), "reset, not a clean end");
                begun.elapsed()
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*first >= Duration::from_millis(2950), "none in the first half: {first:?}");
    assert!(last.saturating_sub(*first) >= Duration::from_millis(500), "spread: {ends:?}");
    chatting.join().unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(6), "who speaks has all of the grace");
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn second_term_and_int_end_at_once_and_quit_waits_without_limit() {
    let (mut daemon, _backend) = start("shutdown-grace = \"1h\"\n");
    let _session = open_session(&daemon);
    daemon.signal(Signal::SIGTERM);
    eventually("draining", || (daemon.get("/readyz")?.1 == "draining\n").then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
    assert_eq!(daemon.records()[0]["end"], "shutdown");

    let (mut daemon, _backend) = start("shutdown-grace = \"50ms\"\n");
    let mut session = open_session(&daemon);
    daemon.signal(Signal::SIGQUIT);
    eventually("draining", || (daemon.get("/readyz")?.1 == "draining\n").then_some(()));
    for _ in 0..20 {
        echoes(&mut session);
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.signal(Signal::SIGINT);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn readiness_turns_before_the_listener_closes() {
    let (mut daemon, _backend) = start("ready-delay = \"1h\"\n");
    daemon.signal(Signal::SIGTERM);
    eventually("not ready any more", || (daemon.get("/readyz")?.0 == 503).then_some(()));
    drop(open_session(&daemon));
    // That the delay ends by itself is tested in tests/stop.rs.
    daemon.signal(Signal::SIGINT);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn service_manager_is_told_of_every_step() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let inbox = UnixDatagram::bind(&path).unwrap();
    inbox.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = inbox.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.contains(wanted) {
                return text;
            }
            // Listening sockets are offered to the descriptor store before.
            let in_between = ["WATCHDOG=1", "FDSTORE=1"].iter().any(|word| text.contains(word));
            assert!(in_between, "{wanted} wanted, not {text}");
        }
    };
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let mut daemon = Daemon::start_on(address, CONFIG, "", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000")
    });
    next("READY=1");
    next("WATCHDOG=1");
    daemon.signal(Signal::SIGHUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    daemon.signal(Signal::SIGTERM);
    next("STOPPING=1");
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn log_file_is_reopened_on_request() {
    let (daemon, _backend) = start("");
    let rotated = daemon.dir().join("log.1");
    fs::rename(daemon.dir().join("log"), &rotated).unwrap();
    daemon.signal(Signal::SIGUSR1);
    eventually("a new file", || daemon.log().contains("log reopened").then_some(()));
    drop(open_session(&daemon));
    daemon.wait_for_records(1);
    assert!(fs::read_to_string(rotated).unwrap().contains("ready"));
}

#[test]
fn overrides_survive_a_restart_through_the_state_file() {
    let dir = TempDir::new();
    let state = dir.path().join("state.json");
    let global = format!("state-file = \"{}\"\n", state.display());
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let name = format!("a/{address}:1001");
    let mut daemon = Daemon::start_on(address, CONFIG, &global, |command| command);
    assert!(daemon.cli(&["drain", &name]).status.success());
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit();

    let daemon = Daemon::start_on(address, CONFIG, &global, |command| command);
    let row = daemon.json("/v1/backends")[0].clone();
    assert_eq!((&row["state"], &row["override"]["state"]), (&"draining".into(), &"drain".into()), "{row}");
    assert!(daemon.cli(&["enable", &name]).status.success());
    assert!(!fs::read_to_string(&state).unwrap().contains(&name));
    drop(daemon);

    fs::write(&state, "{\"version\":1,\"overr").unwrap();
    let daemon = Daemon::start_on(address, CONFIG, &global, |command| command);
    // The log is written behind the scenes.
    eventually("the log says so", || daemon.log().contains("cannot use the state file").then_some(()));
}

/// Runs a daemon that must not start; its exit code and message.
#[track_caller]
fn fails_to_start(text: &str) -> (Option<i32>, String) {
    let dir = TempDir::new();
    let path = dir.path().join("sluice.toml");
    fs::write(&path, text.replace("{dir}", &dir.path().display().to_string())).unwrap();
    let output = sluice().arg("run").arg("-q").arg("-c").arg(&path).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn two_daemons_on_one_socket_are_refused_and_a_stale_one_is_replaced() {
    let (mut daemon, _backend) = start("");
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let other = own_loopback();
    let text = |socket: &str| {
        format!("[global]\nstatus-socket = \"{socket}\"\n{}", CONFIG.replace("{ip}", &other.to_string()))
    };
    let socket = daemon.socket().display().to_string();
    let (code, message) = fails_to_start(&text(&socket));
    assert_eq!(code, Some(1), "{message}");
    assert_eq!(message, format!("another daemon answers on {socket}\n"));

    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit();
    assert!(daemon.socket().exists(), "a killed daemon leaves its socket behind");
    let mut child = sluice().arg("run").arg("-c").arg(daemon.dir().join("sluice.toml")).spawn().unwrap();
    eventually("the next one replaces it", || (daemon.get("/readyz")?.0 == 200).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_in_the_way_is_named() {
    let address = own_loopback();
    let text = |extra: &str| format!("[global]\n{extra}\n{}", CONFIG.replace("{ip}", &address.to_string()));
    let socket = "status-socket = \"{dir}/s.sock\"";
    let _taken = Backend::echo((address, 443));
    let (code, message) = fails_to_start(&text(socket));
    assert_eq!(code, Some(1));
    assert_eq!(message, format!("listener tls cannot bind {address}:443: Address already in use (os error 98)\n"));

    let (code, message) = fails_to_start(&text("status-socket = \"{dir}/none/s.sock\""));
    assert_eq!(code, Some(1));
    assert!(message.ends_with("none/s.sock: No such file or directory (os error 2)\n"), "{message}");

    let (code, message) = fails_to_start(&text("status-socket = \"{dir}/sluice.toml\""));
    assert_eq!(code, Some(1));
    assert!(message.ends_with("sluice.toml is in the way: it is no socket\n"), "{message}");

    let (code, message) = fails_to_start(&text(&format!("{socket}\n[log]\ntarget = \"{{dir}}/none/log\"")));
    assert_eq!(code, Some(1));
    assert!(message.starts_with("cannot open log file"), "{message}");

    let (code, message) = fails_to_start("[[listener]]");
    assert_eq!(code, Some(3), "{message}");
}

#[test]
fn commands_without_a_daemon_say_so() {
    let dir = TempDir::new();
    let socket = dir.path().join("none.sock");
    let output = sluice().arg("--socket").arg(&socket).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, format!("no daemon behind {}: no such file; see --socket\n", socket.display()));
    drop(UnixListener::bind(&socket).unwrap());
    let output = sluice().arg("--socket").arg(&socket).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(5));
}
