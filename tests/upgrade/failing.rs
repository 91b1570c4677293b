//! Failures at every step, other versions, processes that are killed, and who is told.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bulk::Bulk;
use crate::program::Program;
use crate::scene::{CONFIG, Scene, all_echo, says, seen, sessions};
use crate::support::{Backend, DEADLINE, Daemon, TempDir, eventually, own_loopback};

/// Where the new process gives up, and what the running one says then.
const FAULTS: [(&str, &str); 8] = [
    (r#"["die", "start"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "hello"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "first-state"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "ready"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "sessions"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "handed"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["die", "go"]"#, "the other process ended (signal: 9 (SIGKILL))"),
    (r#"["mute", "handed"]"#, "the other process did not answer in time"),
];

/// Upgrades with whatever is on disk; says why that failed.
#[track_caller]
fn failure(daemon: &Daemon) -> String {
    let answer = daemon.ask("upgrade", &json!({}));
    assert_eq!(answer["error"]["code"], "upgrade_failed", "{answer}");
    answer["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn whenever_it_fails_the_running_process_goes_on() {
    let program = Program::new();
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| program.start(command));
    let mut open = sessions(&daemon, 20);
    let mut bulk = Bulk::start(&daemon);
    let pid = daemon.pid();
    let mut check = |why: &str, told: &str| {
        assert!(told.contains(why), "{told} instead of {why}");
        all_echo(&mut open, b"still here");
        says(&daemon, 444, b"new");
        assert_eq!(daemon.json("/v1/status")["pid"], pid.as_raw());
        bulk.goes_on();
    };
    for (mode, why) in FAULTS {
        program.play(&serde_json::from_str(mode).unwrap());
        check(why, &failure(&daemon));
    }
    program.play(&json!(["refuse"]));
    check("it does not want to", &failure(&daemon));
    program.play(&json!(["other-version", program.real(), 3, 7]));
    check("hands over in formats 3 to 7, this binary", &failure(&daemon));
    program.play(&json!(["other-version", program.real(), 0, 0]));
    check("hands over in formats 0 to 0, this binary", &failure(&daemon));
    program.replace("#!/bin/sh\nexit 3\n");
    check("the other process ended (exit status: 3)", &failure(&daemon));
    program.replace("no program at all");
    check("cannot start", &failure(&daemon));
    program.remove();
    check("No such file", &failure(&daemon));
    let output = daemon.cli(&["upgrade"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    check("No such file", &String::from_utf8(output.stderr).unwrap());
    program.put_back();
    let config = daemon.dir().join("sluice.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("\"plain\"", "plain")).unwrap();
    check("the configuration has errors", &failure(&daemon));
    fs::write(&config, good.replace("1002", "1002\", \"no such name")).unwrap();
    check("the configuration has errors", &failure(&daemon));
    let taken = TcpListener::bind((daemon.address, 999)).unwrap();
    fs::write(&config, good.replace(":444", ":999")).unwrap();
    check("listener plain cannot bind", &failure(&daemon));
    drop(taken);
    fs::write(&config, good).unwrap();
    daemon.wait_for_log("upgrade failed, this process goes on as before");
    assert_eq!(bulk.end(), 0);

    // With nothing in the way it works, and the new process is its own.
    let done = daemon.upgrade();
    assert_eq!(done["sessions"], 20, "{done}");
    all_echo(&mut open, b"over there");
}

/// The real program, killed at each step until it has said that it took the sessions.
#[test]
fn whenever_the_new_process_is_killed_the_running_one_goes_on() {
    let program = Program::new();
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| program.start(command));
    let mut open = sessions(&daemon, 20);
    let mut bulk = Bulk::start(&daemon);
    let pid = daemon.pid().as_raw();
    for step in ["hello", "sockets", "state1", "ready", "state2", "sessions", "handed", "holding"] {
        for when in ["before", "after"] {
            program.play(&json!(["kill", program.real(), step, when]));
            let told = failure(&daemon);
            assert!(told.contains("the other process ended"), "{step} {when}: {told}");
            all_echo(&mut open, b"still here");
            says(&daemon, 444, b"new");
            assert_eq!(daemon.json("/v1/status")["pid"], pid, "{step} {when}");
            bulk.goes_on();
        }
    }
    // The last moment: it may have them, but has not said so.
    program.play(&json!(["kill", program.real(), "go", "before"]));
    assert!(failure(&daemon).contains("the other process ended"));
    all_echo(&mut open, b"still here");
    assert_eq!(bulk.end(), 0);
    program.put_back();
    assert_eq!(daemon.upgrade()["sessions"], 20);
    all_echo(&mut open, b"over there");
}

#[test]
fn another_version_that_says_more_is_understood() {
    // The second is what builds before the first release spoke.
    for newest in [7, 1] {
        understood(newest);
    }
}

fn understood(newest: u32) {
    let program = Program::new();
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| program.start(command));
    let mut open = sessions(&daemon, 10);
    let before = seen(&daemon);
    // The process between both stays the child of the one before, and ends with it.
    program.play(&json!(["other-version", program.real(), 1, newest]));
    let done = daemon.ask("upgrade", &json!({}));
    assert_eq!(done["result"]["sessions"], 10, "{done}");
    let after = eventually("the new process answers", || daemon.get("/readyz").map(|_| seen(&daemon)));
    assert_eq!(before["sessions"], after["sessions"]);
    assert_eq!(before["backends"], after["backends"]);
    all_echo(&mut open, b"over there");
    let pid = daemon.json("/v1/status")["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    drop(open);
}

#[test]
fn the_process_before_may_be_killed_once_it_has_given_everything() {
    let scene = Scene::start("");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 20);
    let old = daemon.pid();
    daemon.upgrade();
    // It may have ended already.
    let _ = kill(old, Signal::SIGKILL);
    all_echo(&mut open, b"whatever became of it");
    daemon.upgrade();
    all_echo(&mut open, b"and again");
}

#[test]
fn the_service_manager_is_told_which_process_counts() {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = |wanted: &str| loop {
        let mut bytes = [0; 4096];
        let count = notify.recv(&mut bytes).expect(wanted);
        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
        if text.contains(wanted) {
            return text;
        }
    };
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000")
    });
    next("READY=1");
    for _ in 0..3 {
        let done = daemon.upgrade();
        assert_eq!(next("MAINPID=").trim(), format!("MAINPID={}", done["pid"]));
        next("READY=1");
        next("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGTERM);
    next("STOPPING=1");
}

#[test]
fn a_signal_is_enough() {
    let scene = Scene::start("");
    let daemon = &scene.daemon;
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut open = sessions(daemon, 4);
    let old = daemon.pid();
    daemon.signal(Signal::SIGUSR2);
    let new = eventually("another process answers", || {
        let (_, body) = daemon.get("/v1/status")?;
        let pid = serde_json::from_str::<Value>(&body).ok()?["pid"].as_i64()?;
        (pid != i64::from(old.as_raw())).then_some(pid)
    });
    all_echo(&mut open, b"over there");
    drop(open);
    kill(Pid::from_raw(new as i32), Signal::SIGTERM).unwrap();
    eventually("it ends", || (!daemon.socket().exists()).then_some(()));
}
