//! Reloads that meet a fault, or each other: the file is gone, is half of one, is a pipe, changes while it is read; the
//! process stops meanwhile, a check is slow, a hundred are asked for at once. Clients talk all the time and notice nothing.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hello::client_hello;
use crate::support::talkers::Talkers;
use crate::support::{Backend, Daemon, TempDir, connect, deaf, eventually, own_loopback};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::{Value, json};

/// A pool `NAME` that comes last, with its backends in the last line.
fn config(pool: &str) -> String {
    format!(
        r#"
[[listener]]
name = "tls"
bind = ["{{ip}}:443"]
[[listener.route]]
sni = ["other.test"]
pool = "other"
[[listener.route]]
pool = "{pool}"
[pool.other]
backends = ["{{ip}}:1001"]
[pool.{pool}]
balance = "round-robin"
backends = ["{{ip}}:1001"]
"#
    )
}

/// As above, with one more backend that is checked and does not answer: the reload waits for the check's time-out.
fn slow_config(pool: &str) -> String {
    let both = "\"{ip}:1001\", \"{ip}:1002\"";
    let mut text = config(pool);
    let last = text.rfind("\"{ip}:1001\"").unwrap();
    text.replace_range(last..text.len() - 2, both);
    text + &format!("[pool.{pool}.health]\ncheck = \"tcp\"\ntimeout = \"10s\"\n")
}

/// A daemon with the pool `first`, its backend, and clients that talk.
fn scene() -> (Daemon, Backend, Talkers) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, &config("first"), "workers = 2\n", |command| command);
    let talkers = Talkers::start(daemon.at(443));
    (daemon, backend, talkers)
}

/// Asks for a reload and waits for the outcome: what was done, or why nothing was.
#[track_caller]
fn reload(daemon: &Daemon) -> Result<String, String> {
    let answer = daemon.ask("reload", &json!({}));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    match answer.get("error") {
        None => Ok(text(&answer["result"]["message"])),
        Some(error) => {
            assert_eq!(error["code"], "reload_failed", "{answer}");
            Err(text(&error["message"]))
        }
    }
}

fn is_in_force(daemon: &Daemon, pool: &str) -> bool {
    daemon.get("/v1/config").unwrap().1.contains(&format!("[pool.{pool}]"))
}

#[test]
fn a_file_that_vanished_is_named_and_the_old_one_stays_in_force() {
    let (daemon, _backend, talkers) = scene();
    let file = daemon.dir().join("sluice.toml");
    fs::remove_file(&file).unwrap();
    let why = format!("cannot read configuration {}: No such file or directory (os error 2)", file.display());
    assert_eq!(reload(&daemon), Err(why.clone()));
    daemon.wait_for_log(&why);
    assert_eq!(daemon.metric("sluice_config_last_reload_successful"), 0.0);
    assert!(is_in_force(&daemon, "first"));
    daemon.write_config(&config("second"), "workers = 2\n");
    reload(&daemon).unwrap();
    assert!(is_in_force(&daemon, "second"));
    talkers.end();
}

#[test]
fn links_to_another_folder_are_followed_by_a_reload_and_others_are_named() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let elsewhere = [TempDir::new(), TempDir::new()];
    let [file, other] = elsewhere.each_ref().map(|dir| dir.path().join("sluice.toml"));
    let mut link = PathBuf::new();
    let daemon = Daemon::start_on(address, &config("first"), "", |command| {
        link = PathBuf::from(command.get_args().last().unwrap());
        fs::rename(&link, &file).unwrap();
        symlink(&file, &link).unwrap();
        command
    });
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("first", "second")).unwrap();
    reload(&daemon).unwrap();
    assert!(is_in_force(&daemon, "second"));
    // Closed to the process since its start, which a root's own eyes do not see.
    fs::write(&other, text.replace("first", "third")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    let named = format!("cannot read configuration {}: Permission denied (os error 13); ", link.display());
    let why = reload(&daemon).unwrap_err();
    assert!(why.starts_with(&named) && why.contains("only where files were at the start"), "{why}");
    assert!(is_in_force(&daemon, "second"));
}

#[test]
fn half_a_file_is_refused_wherever_it_ends() {
    let (daemon, _backend, talkers) = scene();
    let file = daemon.dir().join("sluice.toml");
    daemon.write_config(&config("second"), "workers = 2\n");
    let whole = fs::read(&file).unwrap();
    // Without the last line's end it is whole.
    for length in 0..whole.len() - 1 {
        fs::write(&file, &whole[..length]).unwrap();
        let why = reload(&daemon).expect_err(&String::from_utf8_lossy(&whole[..length]));
        let (_, first) = why.split_once(" in the configuration, the first: ").unwrap_or_else(|| panic!("{why}"));
        let place = first.strip_prefix(&*file.to_string_lossy()).unwrap_or_else(|| panic!("no place in {why}"));
        let (line, problem) = place.trim_start_matches(':').split_once(": ").unwrap();
        assert!(line.parse::<usize>().is_ok_and(|line| line > 0) && problem.len() > 10, "{why}");
    }
    assert_eq!(daemon.metric("sluice_config_generation"), 1.0);
    assert!(is_in_force(&daemon, "first"));
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    reload(&daemon).unwrap();
    assert!(is_in_force(&daemon, "second"));
    talkers.end();
}

#[test]
fn a_pipe_that_nobody_writes_to_is_given_up_and_holds_nobody_else_up() {
    let (mut daemon, _backend, talkers) = scene();
    let file = daemon.dir().join("sluice.toml");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    thread::scope(|scope| {
        let reloading = scope.spawn(|| reload(&daemon));
        while !reloading.is_finished() {
            let begun = Instant::now();
            assert_eq!(daemon.get("/readyz").unwrap().0, 200);
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
            talkers.go_on();
        }
        let why = reloading.join().unwrap().unwrap_err();
        let named = format!("cannot read configuration {} within 10s; ", file.display());
        assert!(why.starts_with(&named) && why.contains("a pipe that nobody writes to"), "{why}");
    });
    daemon.write_config(&config("second"), "workers = 2\n");
    reload(&daemon).unwrap();
    assert!(is_in_force(&daemon, "second"));
    talkers.end();
    // The thread that still waits for the pipe does not keep the process.
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn a_file_that_is_replaced_all_the_time_is_read_as_one_or_the_other() {
    let (daemon, _backend, talkers) = scene();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for pool in ["second", "third"].iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                daemon.write_config(&config(pool), "workers = 2\n");
            }
        });
        let mut seen = [0, 0];
        let failed = eventually("both were read, several times", || {
            if let Err(why) = reload(&daemon) {
                return Some(Some(why));
            }
            for (pool, count) in ["second", "third"].iter().zip(&mut seen) {
                *count += u32::from(is_in_force(&daemon, pool));
            }
            (seen[0] >= 10 && seen[1] >= 10).then_some(None)
        });
        stop.store(true, Ordering::SeqCst);
        assert_eq!(failed, None);
    });
    daemon.write_config(&config("last"), "workers = 2\n");
    reload(&daemon).unwrap();
    assert!(is_in_force(&daemon, "last"));
    talkers.end();
}

/// A session that lasts.
struct Session(TcpStream);

impl Session {
    fn open(daemon: &Daemon) -> Self {
        let mut session = Self(connect(daemon.at(443)));
        session.echoes(&client_hello(Some("any.test"), &[]));
        session
    }

    #[track_caller]
    fn echoes(&mut self, words: &[u8]) {
        self.0.write_all(words).unwrap();
        let mut answer = vec![0; words.len()];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(answer, words);
    }
}

/// Everything that `slow_config` needs but a daemon.
fn slow_scene() -> (Ipv4Addr, Backend, Vec<socket2::Socket>) {
    let address = own_loopback();
    (address, Backend::echo((address, 1001)), deaf((address, 1002)))
}

const MORE: &str = "[[listener]]\nname = \"more\"\nprotocol = \"tcp\"\nbind = [\"{ip}:444\"]\npool = \"other\"\n";

#[test]
fn a_process_that_stops_takes_no_new_configuration() {
    let (mut daemon, _backend, talkers) = scene();
    talkers.end();
    let mut session = Session::open(&daemon);
    assert!(daemon.cli(&["stop", "--grace", "1m"]).status.success());
    eventually("the listener is closed", || TcpStream::connect(daemon.at(443)).is_err().then_some(()));
    daemon.write_config(&(config("second") + MORE), "workers = 2\n");
    let output = daemon.cli(&["reload", "--wait"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(1), "the process is stopping\n"));
    daemon.signal(Signal::SIGHUP);
    eventually("both are counted", || (daemon.metric("sluice_reloads_total{result=\"failed\"}") == 2.0).then_some(()));
    for port in [443, 444] {
        assert!(TcpStream::connect(daemon.at(port)).is_err(), "{port} stays closed");
    }
    assert!(is_in_force(&daemon, "first"));
    session.echoes(b"still here");
    drop(session);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn a_stop_overtakes_a_reload_that_a_check_holds_up() {
    let (address, _backend, _deaf) = slow_scene();
    let mut daemon = Daemon::start_on(address, &config("first"), "workers = 2\n", |command| command);
    let mut session = Session::open(&daemon);
    daemon.write_config(&(slow_config("second") + MORE), "workers = 2\n");
    thread::scope(|scope| {
        let reloading = scope.spawn(|| reload(&daemon));
        // Bound before the checks.
        eventually("the reload is on its way", || TcpStream::connect(daemon.at(444)).ok());
        assert!(!reloading.is_finished(), "the check holds it up");
        assert!(daemon.cli(&["stop", "--grace", "1m"]).status.success());
        for port in [443, 444] {
            eventually("the listener is closed", || TcpStream::connect(daemon.at(port)).is_err().then_some(()));
        }
        assert!(!reloading.is_finished(), "nobody waited for it");
        assert_eq!(reloading.join().unwrap(), Err("the process is stopping".to_owned()));
    });
    for port in [443, 444] {
        assert!(TcpStream::connect(daemon.at(port)).is_err(), "{port} stays closed");
    }
    assert!(is_in_force(&daemon, "first"));
    session.echoes(b"still here");
    drop(session);
    assert!(daemon.wait_for_exit().success());
}

#[test]
fn a_reload_waits_for_one_that_a_check_holds_up_and_the_last_file_is_in_force() {
    let (address, _backend, _deaf) = slow_scene();
    let daemon = Daemon::start_on(address, &config("first"), "workers = 2\n", |command| command);
    let talkers = Talkers::start(daemon.at(443));
    daemon.write_config(&(slow_config("second") + MORE), "workers = 2\n");
    thread::scope(|scope| {
        let slow = scope.spawn(|| reload(&daemon));
        eventually("the reload is on its way", || TcpStream::connect(daemon.at(444)).ok());
        daemon.write_config(&config("last"), "workers = 2\n");
        let last = scope.spawn(|| reload(&daemon));
        while !slow.is_finished() {
            talkers.go_on();
        }
        // Their numbers tell that it waited its turn.
        assert!(slow.join().unwrap().unwrap().starts_with("generation 2: 2 listeners"));
        assert!(last.join().unwrap().unwrap().starts_with("generation 3: 1 listeners"));
    });
    assert!(is_in_force(&daemon, "last"));
    talkers.end();
}

/// Sends SIGHUP a hundred times within a second, each after a new file. Says how many reloads came of it, and in what time.
#[track_caller]
fn hundred_signals(daemon: &Daemon, talkers: &Talkers, config: impl Fn(&str) -> String) -> (f64, Duration) {
    let file = daemon.dir().join("sluice.toml");
    let names: Vec<String> = (0..100).map(|number| format!("number-{number}")).collect();
    for name in &names {
        daemon.write_config(&config(name), "workers = 2\n");
        fs::rename(&file, daemon.dir().join(name)).unwrap();
    }
    let counted = || daemon.metric("sluice_reloads_total{result=\"ok\"}");
    let before = counted();
    let begun = Instant::now();
    for (number, name) in (0_u32..).zip(&names) {
        fs::rename(daemon.dir().join(name), &file).unwrap();
        daemon.signal(Signal::SIGHUP);
        thread::sleep((Duration::from_millis(9) * number).saturating_sub(begun.elapsed()));
    }
    eventually("the last file is in force", || is_in_force(daemon, "number-99").then_some(()));
    let took = begun.elapsed();
    // One that was still to come would come before this one.
    assert!(reload(daemon).is_ok());
    talkers.go_on();
    assert_eq!(daemon.metric("sluice_reloads_total{result=\"failed\"}"), 0.0);
    let count = counted() - before - 1.0;
    eprintln!("{count} reloads within {took:?}");
    (count, took)
}

#[test]
fn a_hundred_signals_in_a_second_are_few_reloads_and_the_last_file_is_in_force() {
    let (daemon, _backend, talkers) = scene();
    let (count, took) = hundred_signals(&daemon, &talkers, config);
    // Gathered for 50 ms.
    assert!(count >= 2.0 && count <= took.as_secs_f64() / 0.05 + 1.0, "{count} reloads within {took:?}");
    talkers.end();
}

#[test]
fn signals_that_come_while_a_check_holds_a_reload_up_are_one_reload() {
    let (address, _backend, _deaf) = slow_scene();
    let daemon = Daemon::start_on(address, &config("first"), "workers = 2\n", |command| command);
    let talkers = Talkers::start(daemon.at(443));
    let (count, took) = hundred_signals(&daemon, &talkers, slow_config);
    // A check holds each up for a second, but for those that come after its backends were asked.
    assert!(count >= 1.0 && count <= took.as_secs_f64() / 0.3 + 2.0, "{count} reloads within {took:?}");
    talkers.end();
}
