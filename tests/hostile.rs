//! What must not hurt: hostile or unlucky clients, backends, log targets and files. Each was a defect once, or nearly.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, SockRef, Socket, Type};
use support::hello::{client_hello, message, records};
use support::{Backend, Daemon, alert_of, connect, deaf, eventually, exchange, own_loopback, sluice};

const ONE: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
idle-timeout = "1h"
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
interval = "100ms"
"#;

#[test]
fn idle_session_gives_its_pipe_back() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    let mut session = connect(daemon.at(443));
    session.write_all(&client_hello(Some("a.test"), &[])).unwrap();
    let mut writer = session.try_clone().unwrap();
    let bulk = 32 << 20;
    let sender = std::thread::spawn(move || writer.write_all(&vec![1; bulk]).unwrap());
    let mut left = bulk;
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        left = left.saturating_sub(session.read(&mut buffer).unwrap());
    }
    sender.join().unwrap();
    for _ in 0..20 {
        session.write_all(&[2; 1000]).unwrap();
        eventually("the echo", || (session.read(&mut buffer).unwrap() > 0).then_some(()));
    }
    eventually("no pipe is in use", || (daemon.metric("sluice_pipes_in_use") == 0.0).then_some(()));
    drop(session);
    let record = daemon.wait_for_records(1)[0].clone();
    assert_eq!((&record["path_up"], &record["path_down"]), (&"mixed".into(), &"mixed".into()), "it was bulk once");
}

#[test]
fn endless_protocol_lists_do_not_fill_the_log() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "a");
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    let names = vec!["\0\0\0"; 15_000];
    let hello = records(&message(Some("a.test"), &names, 0), 16_384);
    assert_eq!(exchange(daemon.at(443), &hello).unwrap(), b"a");
    let record = daemon.wait_for_records(1)[0].to_string();
    assert!(record.len() < 2000, "{} bytes", record.len());
    assert!(record.contains(",..."), "{record}");
}

#[test]
fn failed_reload_leaves_health_alone() {
    let address = own_loopback();
    let _taken = Backend::echo((address, 444));
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    daemon.wait_for_state(&daemon.at(1001).to_string(), "down");
    let unchecked = ONE.replace("[pool.a.health]\ncheck = \"tcp\"\ninterval = \"100ms\"\n", "");
    daemon.write_config(&unchecked.replace("[\"{ip}:443\"]", "[\"{ip}:443\", \"{ip}:444\"]"), "");
    assert_eq!(daemon.cli(&["reload", "--wait"]).status.code(), Some(1));
    assert_eq!(daemon.json("/v1/backends")[0]["state"], "down");
}

#[test]
fn failing_over_survives_the_end_of_sessions_of_the_failed_backend() {
    let address = own_loopback();
    let _second = Backend::naming((address, 1002), "second");
    let body = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
on-down = "close"
balance = "round-robin"
backends = ["{ip}:1001", "{ip}:1002"]
[pool.a.health]
check = "tcp"
interval = "1h"
fall = 1
"#;
    let first = Backend::naming((address, 1001), "first");
    let daemon = Daemon::start_on(address, body, "workers = 1\n", |command| command);
    drop(first);
    for _ in 0..10 {
        assert_eq!(exchange(daemon.at(443), &client_hello(Some("a.test"), &[])).unwrap(), b"second");
    }
    let records = daemon.wait_for_records(10);
    assert!(records.iter().all(|record| record["end"] == "done"), "{records:?}");
    assert!(records.iter().any(|record| record["tries"] == 2), "{records:?}");
    eventually("nothing is counted any more", || {
        let list = daemon.json("/v1/backends");
        list.as_array()?.iter().all(|row| row["active"] == 0).then_some(())
    });
}

#[test]
fn slow_reader_gets_everything_after_the_other_side_has_finished() {
    const SIZE: usize = 2 << 20;
    let address = own_loopback();
    let _backend = Backend::start((address, 1001), |mut stream| {
        let _ = stream.write_all(&vec![7; SIZE]);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let body = ONE.replace("idle-timeout = \"1h\"", "half-close-timeout = \"1500ms\"\nprotocol = \"tcp\"");
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(&daemon.at(443).into()).unwrap();
    let mut reader = TcpStream::from(socket);
    reader.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let (begun, mut received) = (Instant::now(), 0);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match reader.read(&mut buffer).expect("no reset while the kernel still delivers") {
            0 => break,
            count => received += count,
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(received, SIZE);
    assert!(begun.elapsed() > Duration::from_secs(3), "longer than the time-out: {:?}", begun.elapsed());
}

#[test]
fn half_close_without_a_limit_of_its_own_has_the_idle_one() {
    let address = own_loopback();
    let listener = TcpListener::bind((address, 1001)).unwrap();
    let body = ONE
        .replace("idle-timeout = \"1h\"", "idle-timeout = \"300ms\"\nhalf-close-timeout = \"off\"\nprotocol = \"tcp\"");
    let daemon = Daemon::start_on(address, &body.replace("check = \"tcp\"", "check = \"off\""), "", |command| command);
    let mut session = connect(daemon.at(443));
    let (_server, _) = listener.accept().unwrap();
    // The idle time-out may have been sooner.
    let _ = session.shutdown(Shutdown::Write);
    assert!(session.read(&mut [0; 1]).is_err(), "reset");
    daemon.wait_for_records(1);
}

#[test]
fn session_in_its_hello_does_not_go_to_a_backend_that_was_removed_and_closed() {
    let address = own_loopback();
    let (_a, _b) = (Backend::naming((address, 1001), "a"), Backend::naming((address, 1002), "b"));
    let global = "removed-sessions = \"close\"\n";
    let daemon = Daemon::start_on(address, ONE, global, |command| command);
    let hello = client_hello(Some("a.test"), &[]);
    let mut session = connect(daemon.at(443));
    session.write_all(&hello[..20]).unwrap();
    eventually("it is accepted", || {
        (daemon.metric("sluice_listener_connections_active{listener=\"tls\"}") >= 1.0).then_some(())
    });
    daemon.write_config(&ONE.replace("1001", "1002"), global);
    daemon.reload();
    session.write_all(&hello[20..]).unwrap();
    let mut answer = Vec::new();
    session.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(80), "{answer:02x?}");
}

#[test]
fn log_target_that_nobody_reads_does_not_keep_the_process() {
    let address = own_loopback();
    let dir = support::TempDir::new();
    let root = dir.path().display();
    let config = format!(
        "[global]\nstatus-socket = \"{root}/s.sock\"\nshutdown-grace = \"100ms\"\n{}",
        ONE.replace("{ip}", &address.to_string())
    );
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let mut command = sluice();
    command.arg("run").arg("-c").arg(dir.path().join("c.toml"));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let target = SocketAddr::from((address, 443));
    eventually("it listens", || TcpStream::connect(target).ok());
    // Far more lines than a pipe holds; nobody reads it.
    for _ in 0..3000 {
        let _ = exchange(target, b"GET / HTTP/1.1\r\n\r\n");
    }
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGUSR1).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("it ends", || child.try_wait().unwrap());
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let address = own_loopback();
    let dir = support::TempDir::new();
    let root = dir.path().display();
    let config = format!(
        "[global]\nstatus-socket = \"{root}/s.sock\"\n[log]\ntarget = \"/dev/full\"\n{}",
        ONE.replace("{ip}", &address.to_string())
    );
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let mut command = sluice();
    command.arg("run").arg("-c").arg(dir.path().join("c.toml")).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let dropped = || {
        let mut stream = UnixStream::connect(dir.path().join("s.sock")).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let line = answer.lines().find(|line| line.starts_with("sluice_log_dropped_total "))?;
        line.rsplit_once(' ')?.1.parse::<u64>().ok().filter(|count| *count > 0)
    };
    eventually("lost lines are counted", dropped);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("cannot write the log").count(), 1, "{said}");
}

#[test]
fn stop_is_heard_while_the_first_checks_run() {
    let address = own_loopback();
    // A backend whose accept queue is full does not answer: the check takes its whole second.
    let _silent = deaf((address, 1001));
    let body = format!("{ONE}timeout = \"10s\"\n");
    let mut daemon = Daemon::start_unready(address, &body, "");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
    let log = daemon.log();
    assert!(log.contains("\"stopped\"") && !log.contains("\"ready\""), "{log}");
}

#[test]
fn half_a_request_does_not_hold_the_status_socket() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "a");
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    let mut half: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    for stream in &mut half {
        stream.write_all(b"{").unwrap();
    }
    let begun = Instant::now();
    assert_eq!(daemon.get("/healthz").map(|(status, _)| status), Some(200));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn thousands_of_half_sent_hellos_cost_what_they_sent() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "a");
    let daemon =
        Daemon::start_on(address, &ONE.replace("idle-timeout = \"1h\"", "hello-timeout = \"30s\""), "", |command| {
            command
        });
    let hello = client_hello(Some("a.test"), &[]);
    let open = |count: usize| -> Vec<TcpStream> {
        (0..count)
            .map(|_| {
                let mut stream = connect(daemon.at(443));
                stream.write_all(&hello[..100]).unwrap();
                // Closing them all must not leave ports in TIME_WAIT.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                stream
            })
            .collect()
    };
    let counted = |count: f64| {
        eventually("all are accepted", || {
            (daemon.metric("sluice_listener_connections_active{listener=\"tls\"}") >= count).then_some(())
        });
    };
    let _warm = open(500);
    counted(500.0);
    let before = daemon.private_memory();
    // Ten thousand at once.
    let _half = open(9500);
    counted(10_000.0);
    let each = daemon.private_memory().saturating_sub(before) / 9500;
    assert!(each < 3500, "{each} bytes for each");
    assert_eq!(exchange(daemon.at(443), &hello).unwrap(), b"a", "an honest client gets through");
}
