//! Sessions that operators end: one, those of a backend or a pool, at once, at a rate, or after a drain.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Backend, Daemon, connect, eventually, own_loopback};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
balance = "round-robin"
backends = ["{ip}:1001", "{ip}:1002"]
"#;

struct Scene {
    daemon: Daemon,
    _backends: [Backend; 2],
}

impl Scene {
    fn start() -> Self {
        let address = own_loopback();
        let backends = [1001, 1002].map(|port| Backend::echo((address, port)));
        // One worker takes turns exactly, two have sessions to be found in both.
        Self { daemon: Daemon::start_on(address, CONFIG, "workers = 2\n", |command| command), _backends: backends }
    }

    fn path(&self, port: u16) -> String {
        format!("a/{}", self.daemon.at(port))
    }

    /// Opens sessions until each backend has `count` at least; the session with its backend.
    fn open(&self, count: usize) -> Vec<TcpStream> {
        let open = || {
            let mut stream = connect(self.daemon.at(443));
            stream.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream
        };
        let mut streams = Vec::new();
        while [1001, 1002].iter().any(|port| self.sessions(&self.path(*port)).len() < count) {
            streams.push(open());
        }
        streams
    }

    fn sessions(&self, of: &str) -> Vec<Value> {
        let answer = self.daemon.ask("sessions", &json!({ "backend": of }));
        answer["result"].as_array().unwrap().clone()
    }

    fn result(&self, method: &str, params: &Value) -> Value {
        let answer = self.daemon.ask(method, params);
        assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
        answer["result"].clone()
    }

    fn code(&self, method: &str, params: &Value) -> String {
        self.daemon.ask(method, params)["error"]["code"].as_str().unwrap_or("none").to_owned()
    }

    fn ends(&self, end: &str) -> Vec<Value> {
        self.daemon.records().into_iter().filter(|record| record["end"] == end).collect()
    }

    fn row(&self, port: u16) -> Value {
        let list = self.daemon.json("/v1/backends");
        let name = self.daemon.at(port).to_string();
        list.as_array().unwrap().iter().find(|row| row["backend"] == *name).unwrap().clone()
    }
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = (&*stream).read(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn one_session_is_ended_by_its_id_and_no_other() {
    let scene = Scene::start();
    let streams = scene.open(3);
    let all = scene.sessions("a");
    let id = all[1]["session"].as_str().unwrap();
    assert_eq!(scene.result("kill", &json!({ "session": id })), json!({ "sessions": 1, "rate": null }));
    let records = scene.daemon.wait_for_records(1);
    assert_eq!(
        (&records[0]["session"], &records[0]["end"], &records[0]["blame"]),
        (&all[1]["session"], &json!("killed"), &json!("local"))
    );
    eventually("one is closed", || (streams.iter().filter(|stream| !is_open(stream)).count() == 1).then_some(()));
    assert_eq!(scene.sessions("a").len(), all.len() - 1);

    assert_eq!(scene.code("kill", &json!({ "session": id })), "no_such_session", "it is gone");
    for unknown in ["ffffffffffffffff", "1", "", "zzzzzzzzzzzzzzzz", "\u{1b}[2J", "+000000000000001"] {
        assert_eq!(scene.code("kill", &json!({ "session": unknown })), "no_such_session", "{unknown}");
    }
    let uid = nix::unistd::geteuid().as_raw();
    scene.daemon.wait_for_log("operator ended session");
    let audit = scene
        .daemon
        .log()
        .lines()
        .filter(|line| line.contains("operator ended session"))
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert_eq!(audit.len(), 1, "{audit:?}");
    let audit: Value = serde_json::from_str(&audit[0]).unwrap();
    assert_eq!(audit["uid"].as_u64().or(audit["fields"]["uid"].as_u64()), Some(uid.into()), "{audit}");
}

#[test]
fn parameters_that_make_no_sense_end_nothing() {
    let scene = Scene::start();
    let _streams = scene.open(1);
    let path = scene.path(1001);
    let before = scene.sessions("a").len();
    for params in [
        json!({}),
        json!({ "session": "0000000000000001", "backend": path }),
        json!({ "session": "0000000000000001", "rate": 1.0 }),
        json!({ "backend": path, "rate": 0.0 }),
        json!({ "backend": path, "rate": -1.0 }),
        json!({ "backend": path, "rate": 1e300 }),
        json!({ "backend": path, "rate": 1e-300 }),
        json!({ "backend": path, "rate": "fast" }),
        json!({ "backend": 7 }),
    ] {
        assert_eq!(scene.code("kill", &params), "bad_params", "{params}");
    }
    assert_eq!(scene.code("kill", &json!({ "backend": "a/none" })), "no_such_backend");
    assert_eq!(scene.code("kill", &json!({ "backend": "none" })), "no_such_pool");
    for params in [
        json!({ "backend": path, "rate": 5.0 }),
        json!({ "backend": path, "kill_after_ms": 1, "rate": 0.0 }),
        json!({ "backend": path, "kill_after_ms": u64::MAX }),
        json!({ "backend": path, "for_ms": 0 }),
        json!({ "backend": path, "kill_after_ms": -1 }),
    ] {
        assert_eq!(scene.code("drain", &params), "bad_params", "{params}");
    }
    assert_eq!(scene.sessions("a").len(), before);
    assert_eq!(scene.row(1001)["state"], "unchecked");
}

#[test]
fn sessions_of_a_backend_or_of_a_pool_are_ended_at_once() {
    let scene = Scene::start();
    let _streams = scene.open(4);
    let (path, other) = (scene.path(1001), scene.path(1002));
    let (ours, theirs) = (scene.sessions(&path).len(), scene.sessions(&other).len());
    assert_eq!(scene.result("kill", &json!({ "backend": path })), json!({ "sessions": ours, "rate": null }));
    eventually("they are gone", || scene.sessions(&path).is_empty().then_some(()));
    assert_eq!(scene.sessions(&other).len(), theirs, "those of the other run on");
    scene.daemon.wait_for_records(ours);
    assert_eq!(scene.ends("killed").len(), ours);
    assert_eq!(scene.result("kill", &json!({ "backend": path }))["sessions"], 0, "none is left");
    assert_eq!(scene.result("kill", &json!({ "backend": "a" }))["sessions"], theirs);
    scene.daemon.wait_for_records(ours + theirs);
    assert_eq!(scene.ends("killed").len(), ours + theirs);
}

#[test]
fn a_rate_is_kept_and_idle_ones_end_first() {
    let scene = Scene::start();
    let mut streams = scene.open(10);
    let path = scene.path(1001);
    // The first half keeps talking.
    let talking: BTreeSet<String> =
        streams[..streams.len() / 2].iter().map(|stream| stream.local_addr().unwrap().to_string()).collect();
    let is_busy = |client: &Value| talking.contains(client.as_str().unwrap());
    let touch = |streams: &mut [TcpStream]| {
        let count = streams.len() / 2;
        for stream in &mut streams[..count] {
            let _ = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0; 1]));
        }
    };
    eventually("idle ones have been idle for a while", || {
        touch(&mut streams);
        let sessions = scene.sessions(&path);
        let idle = |session: &Value| session["idle_ms"].as_u64().unwrap();
        let enough = sessions.iter().filter(|session| !is_busy(&session["client"])).all(|session| idle(session) > 300);
        let fresh = sessions.iter().filter(|session| is_busy(&session["client"])).all(|session| idle(session) < 200);
        (enough && fresh).then_some(())
    });
    let count = scene.sessions(&path).len();
    let begun = Instant::now();
    let answer = scene.result("kill", &json!({ "backend": path, "rate": 10.0 }));
    assert_eq!(answer, json!({ "sessions": count, "rate": 10.0 }));
    let answered = begun.elapsed().as_secs_f64();
    scene.daemon.wait_for_records(count);
    let took = begun.elapsed().as_secs_f64();
    let ideal = (count - 1) as f64 / 10.0;
    assert!(answered < ideal / 2.0, "it goes on after the answer, of {answered} s");
    assert!((ideal * 0.5..ideal * 1.7 + 3.0).contains(&took), "{count} at 10 a second took {took:.2} s");
    let killed = scene.ends("killed");
    assert_eq!(killed.len(), count);
    let order: Vec<bool> = killed.iter().map(|record| is_busy(&record["client"])).collect();
    assert!(order.contains(&true) && order.contains(&false), "some of both: {order:?}");
    let first_busy = order.iter().position(|busy| *busy).unwrap_or(order.len());
    // One of each batch may be written by another worker first.
    let late_idle = order[first_busy..].iter().filter(|busy| !**busy).count();
    assert!(late_idle <= 2, "idle ones first: {order:?}");
}

#[test]
fn a_second_kill_of_the_same_takes_the_place_of_the_first() {
    let scene = Scene::start();
    let _streams = scene.open(5);
    let path = scene.path(1001);
    let count = scene.sessions(&path).len();
    scene.result("kill", &json!({ "backend": path, "rate": 0.001 }));
    scene.daemon.wait_for_records(1);
    assert_eq!(scene.result("kill", &json!({ "backend": path, "rate": 1000.0 }))["sessions"], count - 1);
    scene.daemon.wait_for_records(count);
}

#[test]
fn drained_sessions_end_after_their_time_and_not_before() {
    let scene = Scene::start();
    let streams = scene.open(3);
    let (path, other) = (scene.path(1001), scene.path(1002));
    let (count, theirs) = (scene.sessions(&path).len(), scene.sessions(&other).len());
    let begun = Instant::now();
    let changed = scene.result("drain", &json!({ "backend": path, "kill_after_ms": 700 }));
    assert_eq!((&changed["state"], &changed["active"]), (&json!("draining"), &json!(count)));
    let plan = scene.row(1001)["drain"].clone();
    assert!(plan["kill_at"].is_string() && plan["rate"].is_null(), "{plan}");
    scene.daemon.wait_for_records(count);
    assert!(begun.elapsed() >= Duration::from_millis(690), "{:?}", begun.elapsed());
    assert_eq!(scene.ends("drained").len(), count);
    assert_eq!(scene.sessions(&other).len(), theirs);
    assert_eq!(streams.iter().filter(|stream| is_open(stream)).count(), theirs);
    scene.daemon.wait_for_log("drained for long enough");
}

#[test]
fn a_plan_is_replaced_and_ends_with_its_word() {
    let scene = Scene::start();
    let _streams = scene.open(2);
    let path = scene.path(1001);
    let count = scene.sessions(&path).len();
    let has_plan = || !scene.row(1001)["drain"].is_null();
    let drain = |params: &[(&str, f64)]| {
        let mut all = json!({ "backend": path });
        for (key, value) in params {
            all[*key] = if *key == "rate" { json!(value) } else { json!(*value as u64) };
        }
        scene.result("drain", &all);
    };
    drain(&[("kill_after_ms", 3_600_000.0), ("rate", 2.0)]);
    assert_eq!(scene.row(1001)["drain"]["rate"], 2.0);
    drain(&[]);
    assert!(!has_plan(), "a second drain replaces it");
    for word in ["enable", "disable", "reset"] {
        drain(&[("kill_after_ms", 2000.0)]);
        scene.result(word, &json!({ "backend": path }));
        assert!(!has_plan(), "{word} cancels it");
    }
    // A weight says nothing about the state.
    drain(&[("kill_after_ms", 3_600_000.0)]);
    scene.result("weight", &json!({ "backend": path, "weight": 7 }));
    assert!(has_plan());
    // The word is over before the time has come.
    scene.result("reset", &json!({ "backend": path }));
    drain(&[("kill_after_ms", 3000.0), ("for_ms", 200.0)]);
    eventually("the word is over", || (scene.row(1001)["state"] == "unchecked").then_some(()));
    assert!(!has_plan());
    // Another one's end is the clock of this test: later than all that were cancelled.
    let other = scene.path(1002);
    scene.result("drain", &json!({ "backend": other, "kill_after_ms": 3500 }));
    eventually("the other's are gone", || scene.sessions(&other).is_empty().then_some(()));
    assert_eq!(scene.sessions(&path).len(), count, "none of the cancelled plans ended any");
}

#[test]
fn a_plan_at_a_rate_stops_when_the_backend_is_enabled_meanwhile() {
    let scene = Scene::start();
    let _streams = scene.open(8);
    let path = scene.path(1001);
    let count = scene.sessions(&path).len();
    scene.result("drain", &json!({ "backend": path, "kill_after_ms": 0, "rate": 1.5 }));
    scene.daemon.wait_for_records(2);
    scene.result("enable", &json!({ "backend": path }));
    let left = scene.sessions(&path).len();
    assert!(left > 0 && left < count, "{left} of {count}");
    // By the clock of another drain, which would have given the first one time for several more.
    scene.result("drain", &json!({ "backend": scene.path(1002), "kill_after_ms": 2500 }));
    eventually("the other's are gone", || scene.sessions(&scene.path(1002)).is_empty().then_some(()));
    assert_eq!(scene.sessions(&path).len(), left);
}

#[test]
fn a_plan_survives_a_reload() {
    let scene = Scene::start();
    let _streams = scene.open(2);
    let path = scene.path(1001);
    let count = scene.sessions(&path).len();
    scene.result("drain", &json!({ "backend": path, "kill_after_ms": 600 }));
    scene.daemon.reload();
    assert!(!scene.row(1001)["drain"].is_null());
    scene.daemon.wait_for_records(count);
    assert_eq!(scene.ends("drained").len(), count);
}
