//! Words of operators: for a while, about weights, over reloads and restarts, while clients come and go. And who said them.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Backend, Daemon, TempDir, eventually, exchange, own_loopback, sluice};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
balance = "round-robin"
[[pool.a.backend]]
name = "one"
address = "{ip}:1001"
[[pool.a.backend]]
name = "two"
address = "{ip}:1002"
"#;

struct Scene {
    daemon: Daemon,
    global: String,
    _backends: [Backend; 2],
    dir: TempDir,
}

impl Scene {
    fn start() -> Self {
        let (address, dir) = (own_loopback(), TempDir::new());
        let backends = [Backend::naming((address, 1001), "1"), Backend::naming((address, 1002), "2")];
        let global = format!("workers = 1\nstate-file = \"{}\"\n", dir.path().join("state.json").display());
        Self { daemon: Daemon::start_on(address, CONFIG, &global, |command| command), global, _backends: backends, dir }
    }

    /// Ends the daemon at once, does something meanwhile, and starts another one.
    fn restart(&mut self, meanwhile: impl FnOnce()) {
        self.daemon.signal(Signal::SIGKILL);
        self.daemon.wait_for_exit();
        meanwhile();
        self.daemon = Daemon::start_on(self.daemon.address, CONFIG, &self.global, |command| command);
    }

    fn say(&self, method: &str, params: &Value) -> Value {
        let answer = self.daemon.ask(method, params);
        assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
        answer["result"].clone()
    }

    fn row(&self, name: &str) -> Value {
        let list = self.daemon.json("/v1/backends");
        list.as_array().unwrap().iter().find(|row| row["backend"] == *name).unwrap().clone()
    }

    /// How many of twelve clients came to each.
    fn share(&self) -> [usize; 2] {
        let answers: Vec<Vec<u8>> = (0..12).map(|_| exchange(self.daemon.at(443), b"hello").unwrap()).collect();
        ["1", "2"].map(|name| answers.iter().filter(|answer| **answer == name.as_bytes()).count())
    }
}

#[test]
fn a_weight_is_in_force_when_the_answer_comes() {
    let scene = Scene::start();
    for (weight, share) in [(300, [9, 3]), (100, [6, 6]), (0, [0, 12]), (50, [4, 8]), (1000, [11, 1]), (20, [2, 10])] {
        let changed = scene.say("weight", &json!({ "backend": "a/one", "weight": weight }));
        assert_eq!((&changed["effective_weight"], &changed["override"]["weight"]), (&json!(weight), &json!(weight)));
        assert_eq!(scene.row("one")["effective_weight"], weight);
        assert_eq!(scene.row("one")["weight"], 100, "as configured");
        let seen = scene.share();
        assert!(seen[0].abs_diff(share[0]) <= 1, "weight {weight}: {seen:?}");
        assert!(weight != 0 || seen[0] == 0, "0 takes none at all");
    }
    let changed = scene.say("reset", &json!({ "backend": "a/one" }));
    assert_eq!((&changed["effective_weight"], &changed["override"]), (&json!(100), &Value::Null));
    assert_eq!(
        scene.daemon.ask("weight", &json!({ "backend": "a/one", "weight": 1001 }))["error"]["code"],
        "bad_params"
    );
    let events = scene.daemon.json("/v1/events");
    assert!(events.as_array().unwrap().iter().any(|event| event["reason"] == "weight"), "{events:#}");
}

#[test]
fn a_word_for_a_while_ends_on_time_and_uncovers_the_lasting_one() {
    let scene = Scene::start();
    scene.say("weight", &json!({ "backend": "a/one", "weight": 50 }));
    let begun = Instant::now();
    scene.say("weight", &json!({ "backend": "a/one", "weight": 7, "for_ms": 3000 }));
    scene.say("drain", &json!({ "backend": "a/one", "for_ms": 3000 }));
    let row = scene.row("one");
    assert_eq!(
        (&row["state"], &row["override"]["weight"], &row["effective_weight"]),
        (&json!("draining"), &json!(7), &json!(0))
    );
    assert_eq!(row["override"]["words"].as_array().unwrap().len(), 2);
    assert_eq!(scene.share(), [0, 12]);
    eventually("both are over", || {
        let row = scene.row("one");
        (row["state"] == "unchecked" && row["effective_weight"] == 50).then_some(())
    });
    let took = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(10)).contains(&took), "{took:?}");
    let events = scene.daemon.json("/v1/events");
    let by_clock = events.as_array().unwrap().iter().filter(|event| event["by"] == "clock").count();
    assert!(by_clock >= 1, "{events:#}");
    scene.daemon.wait_for_log("an operator's word is over");
}

#[test]
fn words_survive_reloads_and_restarts_with_the_time_that_is_left() {
    let mut scene = Scene::start();
    scene.say("drain", &json!({ "backend": "a/one", "for_ms": 3_600_000 }));
    scene.say("weight", &json!({ "backend": "a/two", "weight": 30 }));
    let until = scene.row("one")["override"]["until"].clone();
    scene.daemon.reload();
    assert_eq!(scene.row("one")["override"]["until"], until);
    scene.restart(|| {});
    let row = scene.row("one");
    assert_eq!((&row["override"]["until"], &row["state"]), (&until, &json!("draining")));
    assert_eq!(scene.row("two")["effective_weight"], 30, "in force from the beginning");

    // One that is over while nobody looks is not restored, the others are.
    scene.say("reset", &json!({ "backend": "a/one" }));
    scene.say("disable", &json!({ "backend": "a/one", "for_ms": 2000 }));
    let end: Timestamp = scene.row("one")["override"]["until"].as_str().unwrap().parse().unwrap();
    scene.restart(|| {
        eventually("its time is over", || (Timestamp::now() > end).then_some(()));
    });
    assert_eq!((&scene.row("one")["state"], &scene.row("one")["override"]), (&json!("unchecked"), &Value::Null));
    assert_eq!(scene.row("two")["effective_weight"], 30);

    // One whose time is over after the restart ends by itself.
    scene.say("disable", &json!({ "backend": "a/one", "for_ms": 1500 }));
    let end: Timestamp = scene.row("one")["override"]["until"].as_str().unwrap().parse().unwrap();
    scene.restart(|| {});
    if Timestamp::now() < end {
        eventually("it is over", || (scene.row("one")["state"] == "unchecked").then_some(()));
    }
    assert!(Timestamp::now() >= end, "not before its time");
}

#[test]
fn words_about_a_backend_that_is_away_come_back_with_it() {
    let mut scene = Scene::start();
    scene.say("drain", &json!({ "backend": "a/one" }));
    scene.say("weight", &json!({ "backend": "a/one", "weight": 9 }));
    let without = CONFIG.replace("[[pool.a.backend]]\nname = \"one\"\naddress = \"{ip}:1001\"\n", "");
    assert_ne!(without, CONFIG);
    let state = scene.dir.path().join("state.json");
    scene.daemon.write_config(&without, &scene.global);
    scene.daemon.reload();
    eventually("the file says that it is away", || {
        fs::read_to_string(&state).unwrap().contains("absent_since").then_some(())
    });
    // Any other change keeps them in the file.
    scene.say("weight", &json!({ "backend": "a/two", "weight": 30 }));
    scene.daemon.signal(Signal::SIGKILL);
    scene.daemon.wait_for_exit();
    scene.daemon = Daemon::start_on(scene.daemon.address, &without, &scene.global, |command| command);
    scene.daemon.wait_for_log("of a backend that is not there");

    scene.daemon.write_config(CONFIG, &scene.global);
    scene.daemon.reload();
    let row = scene.row("one");
    assert_eq!((&row["state"], &row["override"]["weight"]), (&json!("draining"), &json!(9)), "{row}");
    assert_eq!(scene.share(), [0, 12]);
    assert_eq!(scene.say("enable", &json!({ "backend": "a/one" }))["effective_weight"], 9);

    // Another address by the same name: what was said of the name holds.
    scene.daemon.write_config(&CONFIG.replace("{ip}:1001", "{ip}:1009"), &scene.global);
    scene.daemon.reload();
    assert_eq!(scene.row("one")["effective_weight"], 9);
}

#[test]
fn fifty_changes_lose_no_connection() {
    let scene = Scene::start();
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let answer = exchange(scene.daemon.at(443), b"hello").expect("an answer");
                    assert!(answer == b"1" || answer == b"2", "{answer:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 0..50_u32 {
            let one = if round % 4 < 2 { "a/one" } else { "a/two" };
            match round % 5 {
                0 => scene.say("drain", &json!({ "backend": one, "for_ms": 60_000 })),
                1 => scene.say("weight", &json!({ "backend": one, "weight": round * 10 + 1 })),
                2 => scene.say("enable", &json!({ "backend": one })),
                3 => scene.say("weight", &json!({ "backend": one, "weight": 5, "for_ms": 50 })),
                _ => json!([
                    scene.say("reset", &json!({ "backend": "a/one" })),
                    scene.say("reset", &json!({ "backend": "a/two" }))
                ]),
            };
            let before = served.load(Ordering::SeqCst);
            eventually("clients are served", || (served.load(Ordering::SeqCst) > before).then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let records = scene.daemon.wait_for_records(served.into_inner() as usize);
    let bad: Vec<&Value> = records.iter().filter(|record| record["end"] != "done").collect();
    assert!(bad.is_empty(), "{bad:?}");
}

/// Runs a command of sluice as another user.
fn as_user(daemon: &Daemon, user: &[&str], arguments: &[&str]) -> Output {
    let program = daemon.dir().join("sluice");
    if !program.exists() {
        // The folder of the build may be closed to others.
        fs::copy(sluice().get_program(), &program).unwrap();
        fs::set_permissions(daemon.dir(), Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(user).arg(program).arg("--socket").arg(daemon.socket()).args(arguments).env_remove("SLUICE_SOCKET");
    command.output().unwrap()
}

#[test]
fn the_mode_of_the_socket_says_who_may_change_and_the_log_who_did() {
    let scene = Scene::start();
    let daemon = &scene.daemon;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let refused = as_user(daemon, &nobody, &["drain", "a/one"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("permission denied"));
    assert_eq!(scene.row("one")["state"], "unchecked");
    assert!(!daemon.log().contains("65534") && !daemon.log().contains("operator changed"), "{}", daemon.log());

    // With the rights of the socket's group he is served, and known by his own number.
    chown(daemon.socket(), None, Some(64_999)).unwrap();
    let in_group = ["--reuid=65534", "--regid=65534", "--groups=64999"];
    let served = as_user(daemon, &in_group, &["drain", "a/one"]);
    assert!(served.status.success(), "{served:?}");
    let row = scene.row("one");
    assert_eq!((&row["state"], &row["override"]["by_uid"]), (&json!("draining"), &json!(65_534)));
    let line = eventually("the change is in the log", || {
        daemon.log().lines().find(|line| line.contains("operator changed backend")).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["uid"], 65_534, "{line}");
    assert!(line["pid"].as_i64().is_some_and(|pid| pid > 1), "{line}");
    let events = daemon.json("/v1/events");
    let last = events.as_array().unwrap().last().unwrap();
    assert!(last["detail"].as_str().unwrap().contains("by uid 65534 (pid "), "{last}");

    // So is every other change.
    let uid = nix::unistd::geteuid().as_raw();
    let added = json!({ "pool": "a", "address": daemon.at(1009).to_string(), "name": "new" });
    for (method, params, said) in [
        ("weight", json!({ "backend": "a/two", "weight": 3 }), "operator changed backend"),
        ("reset", json!({ "backend": "a/two" }), "operator changed backend"),
        ("backend_add", added, "operator changed pool"),
        ("backend_remove", json!({ "backend": "a/new" }), "operator changed pool"),
        ("kill", json!({ "backend": "a" }), "operator ends sessions"),
        ("reload", json!({}), "operator asked for a reload"),
        ("stop", json!({}), "operator asked to stop"),
    ] {
        let before = daemon.log().len();
        scene.say(method, &params);
        // The log is written a little later than the answer.
        let line = eventually(&format!("{method} is in the log"), || {
            daemon.log()[before..].lines().find(|line| line.contains(said)).map(str::to_owned)
        });
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["uid"], &line["pid"]), (&json!(uid), &json!(std::process::id())), "{method}: {line}");
    }
}
