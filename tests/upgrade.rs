//! Live upgrade: nothing is lost, cut or counted anew, whatever is open; and whenever it fails the running process goes on.
//! Random sessions during a hundred upgrades are in `tests/bytes.rs`.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

#[path = "upgrade/program.rs"]
mod program;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use program::Program;
use serde_json::{Value, json};
use support::hello::client_hello;
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[[listener]]
name = "plain"
bind = ["{ip}:444"]
protocol = "tcp"
pool = "a"
[pool.a]
backends = ["{ip}:1001", "{ip}:1002"]
[pool.a.health]
check = "tcp"
interval = "200ms"
fast-interval = "100ms"
"#;

/// A daemon before two echoing backends.
struct Scene {
    daemon: Daemon,
    _backends: [Backend; 2],
}

impl Scene {
    fn start(global: &str) -> Self {
        let address = own_loopback();
        let backends = [1001, 1002].map(|port| Backend::echo((address, port)));
        let daemon = Daemon::start_on(address, CONFIG, global, |command| command);
        Self { daemon, _backends: backends }
    }
}

#[track_caller]
fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

/// Connects, and says something that comes back.
#[track_caller]
fn says(daemon: &Daemon, port: u16, text: &[u8]) {
    echoes(&mut connect(daemon.at(port)), text);
}

#[track_caller]
fn all_echo(sessions: &mut [TcpStream], text: &[u8]) {
    for session in sessions {
        echoes(session, text);
    }
}

#[track_caller]
fn sessions(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let session = |number: usize| {
        let (port, first) =
            if number.is_multiple_of(2) { (443, client_hello(Some("a.test"), &["h2"])) } else { (444, vec![7]) };
        let mut stream = connect(daemon.at(port));
        echoes(&mut stream, &first);
        stream
    };
    (0..count).map(session).collect()
}

/// Counters by name and labels, but for those of time and of what the process itself does.
fn counters(daemon: &Daemon) -> BTreeMap<String, f64> {
    let (_, text) = daemon.get("/metrics").unwrap();
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let own = ["process_", "sluice_worker_", "sluice_command", "sluice_backend_checks_"];
    let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let is_counter = |name: &str| {
        let bare = name.split('{').next().unwrap_or_default();
        let family = ["_total", "_bucket", "_count", "_sum"].into_iter().find_map(|end| bare.strip_suffix(end));
        let kind = [bare, family.unwrap_or(bare)].into_iter().find_map(|name| types.get(name));
        matches!(kind, Some(&"counter" | &"histogram")) && !own.iter().any(|own| bare.starts_with(own))
    };
    rows.filter(|(name, _)| is_counter(name)).map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// What people see of a daemon, without what moves by itself.
fn seen(daemon: &Daemon) -> Value {
    let mut backends = daemon.json("/v1/backends");
    for row in backends.as_array_mut().unwrap() {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !["check", "checks", "rates", "latency_ms", "certificate"].contains(&&**key));
    }
    let mut sessions = daemon.json("/v1/sessions");
    let sessions = sessions.as_array_mut().unwrap();
    for row in &mut *sessions {
        let row = row.as_object_mut().unwrap();
        row.retain(|key, _| !["age_ms", "idle_ms"].contains(&&**key));
    }
    sessions.sort_by_key(|row| row["session"].as_str().unwrap().to_owned());
    json!({ "backends": backends, "sessions": sessions, "events": daemon.json("/v1/events"), "refused": daemon.json("/v1/refused") })
}

#[test]
fn everything_goes_on_where_it_was() {
    let scene = Scene::start("");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 40);
    // Something to remember: a record of the log, a refused hello, an operator's word, a reload, an event.
    drop(open.pop());
    daemon.wait_for_records(1);
    assert!(exchange(daemon.at(443), b"no hello").is_ok_and(|answer| answer.len() < 10));
    let path = format!("a/{}", daemon.at(1002));
    assert_eq!(daemon.ask("drain", &json!({ "backend": path }))["result"]["state"], "draining");
    daemon.reload();
    // Sessions that go on tell their bytes once a second.
    let bytes = 20 * (client_hello(Some("a.test"), &["h2"]).len() + 1);
    eventually("all bytes are counted", || {
        (daemon.metric("sluice_relay_bytes_total{path=\"copy\",direction=\"up\"}") >= bytes as f64).then_some(())
    });
    let (before, counted) = (seen(daemon), counters(daemon));

    let done = daemon.upgrade();
    assert_eq!(done["sessions"], 39, "{done}");
    let (after, counted_now) = (seen(daemon), counters(daemon));
    for what in ["backends", "sessions", "events", "refused"] {
        assert_eq!(before[what], after[what], "{what}");
    }
    for (name, count) in &counted {
        assert_eq!(counted_now.get(name), Some(count), "{name}");
    }
    assert_eq!(daemon.json("/v1/status")["generation"], 3, "start, reload, upgrade");
    all_echo(&mut open, b"and on");
    // The drained one gets nothing new, the other does.
    says(daemon, 444, b"x");
    let row = |daemon: &Daemon| daemon.ask("backends", &json!({ "pool": "a" }))["result"][1].clone();
    assert_eq!((&row(daemon)["state"], &row(daemon)["active"]), (&json!("draining"), &before["backends"][1]["active"]));
    drop(open);
    let records = daemon.wait_for_records(42);
    assert!(records.iter().filter(|record| record["end"] == "done").count() >= 41, "{records:#?}");
    eventually("every place is given back", || (row(daemon)["active"] == 0).then_some(()));
}

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
    program.play(&json!(["other-version", program.real(), 2, 7]));
    check("hands over in formats 2 to 7, this binary", &failure(&daemon));
    program.play(&json!(["other-version", program.real(), 0, 0]));
    check("hands over in formats 0 to 0, this binary", &failure(&daemon));
    program.replace("#!/bin/sh\nexit 3\n");
    check("the other process ended (exit status: 3)", &failure(&daemon));
    program.replace("no program at all");
    check("cannot start", &failure(&daemon));
    program.remove();
    check("No such file", &failure(&daemon));
    program.put_back();
    let config = daemon.dir().join("sluice.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("\"plain\"", "plain")).unwrap();
    check("the configuration has errors", &failure(&daemon));
    fs::write(&config, good.replace("1002", "1002\", \"no such name")).unwrap();
    check("the configuration has errors", &failure(&daemon));
    let taken = std::net::TcpListener::bind((daemon.address, 999)).unwrap();
    fs::write(&config, good.replace(":444", ":999")).unwrap();
    check("listener plain cannot bind", &failure(&daemon));
    drop(taken);
    fs::write(&config, good).unwrap();
    assert!(daemon.log().contains("upgrade failed, this process goes on as before"));
    assert_eq!(bulk.end(), 0);

    // With nothing in the way it works, and the new process is its own.
    let done = daemon.upgrade();
    assert_eq!(done["sessions"], 20, "{done}");
    all_echo(&mut open, b"over there");
}

/// Bytes that flow both ways until they are told to stop.
struct Bulk {
    over: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    last: u64,
    flow: Option<thread::JoinHandle<usize>>,
}

impl Bulk {
    fn start(daemon: &Daemon) -> Self {
        let (over, moved) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let stream = connect(daemon.at(444));
        let (stop, counted) = (Arc::clone(&over), Arc::clone(&moved));
        let flow = thread::spawn(move || pump(stream, &stop, &counted));
        Self { over, moved, last: 0, flow: Some(flow) }
    }

    #[track_caller]
    fn goes_on(&mut self) {
        let last = self.last.max(self.moved.load(Ordering::SeqCst));
        self.last = eventually("bulk goes on", || Some(self.moved.load(Ordering::SeqCst)).filter(|now| *now > last));
    }

    /// How many bytes were wrong or did not come back.
    #[track_caller]
    fn end(&mut self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.flow.take().unwrap().join().unwrap()
    }
}

/// The byte at a place of the stream.
const fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn pump(stream: TcpStream, over: &AtomicBool, moved: &AtomicU64) -> usize {
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut sent = 0_u64;
            while !over.load(Ordering::SeqCst) {
                let block: Vec<u8> = (sent..sent + 65_536).map(byte_at).collect();
                writer.write_all(&block).unwrap();
                // Leaves something of the processor to the others.
                thread::sleep(Duration::from_millis(2));
                sent += 65_536;
            }
            writer.shutdown(Shutdown::Write).unwrap();
            sent
        });
        let (mut received, mut wrong, mut block) = (0_u64, 0, vec![0; 65_536]);
        loop {
            let count = reader.read(&mut block).unwrap();
            if count == 0 {
                break;
            }
            wrong += (received..).zip(&block[..count]).filter(|(place, byte)| byte_at(*place) != **byte).count();
            received += count as u64;
            moved.store(received, Ordering::SeqCst);
        }
        wrong + (sent.join().unwrap() - received) as usize
    })
}

#[test]
fn bulk_and_new_connections_never_notice() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let mut bulks: Vec<Bulk> = (0..4).map(|_| Bulk::start(daemon)).collect();
    let mut open = sessions(daemon, 60);
    let over = AtomicBool::new(false);
    let connected = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0_u32;
                    while !over.load(Ordering::SeqCst) {
                        says(daemon, 444, b"hello there");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..25 {
            daemon.upgrade();
            bulks.iter_mut().for_each(Bulk::goes_on);
            open.iter_mut().step_by(10).for_each(|session| echoes(session, b"again"));
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>()
    });
    let wrong: Vec<usize> = bulks.iter_mut().map(Bulk::end).collect();
    assert_eq!(wrong, [0; 4]);
    eprintln!("{connected} connections meanwhile");
    all_echo(&mut open, b"all of them");
    let total = daemon.metric("sluice_listener_connections_total{listener=\"plain\"}");
    assert_eq!(total, f64::from(connected) + 4.0 + 30.0, "every connection is counted once");
    assert!(
        daemon.metric("sluice_relay_bytes_total{path=\"splice\",direction=\"up\"}") > 0.0,
        "pipes were handed over too"
    );
}

#[test]
fn another_version_that_says_more_is_understood() {
    let program = Program::new();
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| program.start(command));
    let mut open = sessions(&daemon, 10);
    let before = seen(&daemon);
    // The process between both stays the child of the one before, and ends with it.
    program.play(&json!(["other-version", program.real(), 1, 7]));
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
fn sessions_that_are_still_set_up_follow() {
    let scene = Scene::start("");
    let daemon = &scene.daemon;
    let hello = client_hello(Some("a.test"), &["h2"]);
    let mut halves: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = connect(daemon.at(443));
            stream.write_all(&hello[..50]).unwrap();
            stream
        })
        .collect();
    eventually("all are there", || {
        (daemon.metric("sluice_listener_connections_active{listener=\"tls\"}") > 9.5).then_some(())
    });
    let old = daemon.pid();
    assert_eq!(daemon.upgrade()["sessions"], 0);
    for half in &mut halves {
        half.write_all(&hello[50..]).unwrap();
        let mut back = vec![0; hello.len()];
        half.read_exact(&mut back).unwrap();
        assert_eq!(back, hello);
    }
    eventually("the process before has ended", || daemon.log().contains("the process before has ended").then_some(()));
    assert_ne!(old, daemon.pid());
    all_echo(&mut halves, b"over there");
    let active = |row: &Value| row["active"].as_u64().unwrap();
    assert_eq!(daemon.json("/v1/backends").as_array().unwrap().iter().map(active).sum::<u64>(), 10);
}

#[test]
fn another_configuration_comes_into_force_with_it() {
    let scene = Scene::start("workers = 1\nremoved-sessions = \"close\"\n");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 20);
    let gone = daemon.at(1002).to_string();
    let backends = daemon.json("/v1/backends");
    let left = backends[0]["active"].as_u64().unwrap() as usize;
    let config = CONFIG.replace(", \"{ip}:1002\"", "").replace("{ip}:444\"", "{ip}:444\", \"{ip}:445\"");
    daemon.write_config(&config, "workers = 3\nremoved-sessions = \"close\"\n");
    assert_eq!(daemon.upgrade()["sessions"], 20);
    let alive = eventually("sessions of the removed backend end", || {
        let mut alive = 0;
        for session in &mut open {
            session.set_nonblocking(true).unwrap();
            let ended = matches!(session.peek(&mut [0]), Ok(0))
                || session.peek(&mut [0]).is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock);
            session.set_nonblocking(false).unwrap();
            alive += usize::from(!ended);
        }
        (alive == left).then_some(alive)
    });
    assert!(alive > 0 && alive < 20, "{alive}");
    assert!(daemon.records().iter().all(|record| record["backend"] != *gone || record["end"] == "drained"));
    says(daemon, 445, b"the new address");
    assert_eq!(daemon.json("/v1/status")["workers"].as_array().unwrap().len(), 3);
}

#[test]
fn the_service_manager_is_told_which_process_counts() {
    let dir = support::TempDir::new();
    let path = dir.path().join("notify");
    let notify = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(support::DEADLINE)).unwrap();
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

#[test]
fn a_thousand_sessions_stand_still_for_a_moment_only() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 1000);
    let begun = Instant::now();
    let done = daemon.upgrade();
    eprintln!("{done} in {:?}", begun.elapsed());
    // Built for tests, on a machine that does other things too. For figures see docs/upgrade.md.
    assert!(done["pause_ms"].as_f64().unwrap() < 2000.0, "{done}");
    all_echo(&mut open, b"and on");
    let memory = daemon.private_memory();
    for _ in 0..5 {
        daemon.upgrade();
    }
    assert!(daemon.private_memory() < memory + (2 << 20), "memory does not grow: {memory}");
    all_echo(&mut open, b"and on");
}
