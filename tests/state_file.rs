//! The state file: what is kept over a restart, what becomes of it when the disk or the file is bad.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::{Backend, Daemon, TempDir, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
[[pool.a.backend]]
name = "one"
address = "{ip}:1001"
[[pool.a.backend]]
name = "two"
address = "{ip}:1002"
"#;

fn start(address: Ipv4Addr, state: &Path) -> Daemon {
    start_through(address, state, |command| command)
}

fn start_through(address: Ipv4Addr, state: &Path, adjust: impl FnOnce(&mut Command) -> &mut Command) -> Daemon {
    Daemon::start_on(address, CONFIG, &format!("state-file = \"{}\"\n", state.display()), adjust)
}

#[track_caller]
fn say(daemon: &Daemon, method: &str, params: &Value) -> Value {
    let answer = daemon.ask(method, params);
    assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
    answer["result"].clone()
}

fn states(daemon: &Daemon) -> Vec<String> {
    let list = daemon.json("/v1/backends");
    list.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

fn scene() -> (TempDir, PathBuf, Ipv4Addr, [Backend; 2]) {
    let (dir, address) = (TempDir::new(), own_loopback());
    let path = dir.path().join("state.json");
    (dir, path, address, [1001, 1002].map(|port| Backend::echo((address, port))))
}

#[test]
fn a_file_of_the_last_release_is_read_and_written_anew() {
    let (_dir, path, address, _backends) = scene();
    let old = r#"{"version":1,"overrides":[{"backend":"a/one","state":"drain","by_uid":1000,"since":"2026-01-02T03:04:05.678901234Z"},
                  {"backend":"a/gone","state":"disable","by_uid":0,"since":"2026-01-02T03:04:05Z"}]}"#;
    fs::write(&path, old).unwrap();
    let daemon = start(address, &path);
    assert_eq!(states(&daemon), ["draining", "unchecked"]);
    let said = daemon.json("/v1/backends")[0]["override"].clone();
    assert_eq!((&said["by_uid"], &said["since"]), (&json!(1000), &json!("2026-01-02T03:04:05.678901234Z")));
    assert_eq!(say(&daemon, "weight", &json!({ "backend": "a/two", "weight": 5 }))["kept"], true);
    let new: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(new["version"], 2);
    let paths: Vec<&str> =
        new["overrides"].as_array().unwrap().iter().map(|one| one["backend"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a/one", "a/two", "a/gone"], "who is away is not lost");
    assert!(!path.with_extension("json.new").exists());
}

#[test]
fn a_bad_file_is_put_aside_and_the_daemon_starts_without_it() {
    let (_dir, path, address, _backends) = scene();
    for bad in
        [&b"{\"version\":2,\"overr"[..], b"", b"\xff\xfe\0garbage", b"[1,2,3]", b"{\"version\":9,\"overrides\":[]}"]
    {
        fs::write(&path, bad).unwrap();
        let daemon = start(address, &path);
        assert_eq!(states(&daemon), ["unchecked"; 2]);
        // The log is written behind the scenes.
        eventually("the log says so", || {
            let log = daemon.log();
            (log.contains("cannot use the state file") && log.contains("state.json.bad")).then_some(())
        });
        assert_eq!(fs::read(path.with_extension("json.bad")).unwrap(), bad, "nothing of it is lost");
        assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], true);
        drop(daemon);
        assert_eq!(states(&start(address, &path)), ["draining", "unchecked"]);
    }
    // Deep nesting and sheer size are no way around it.
    fs::write(&path, "[".repeat(1 << 20)).unwrap();
    let says = |text: &str| {
        let daemon = start(address, &path);
        eventually(text, || daemon.log().contains(text).then_some(()));
    };
    says("cannot use the state file");
    fs::write(&path, " ".repeat(17 << 20)).unwrap();
    says("more than 16777216 bytes");
}

#[test]
fn a_file_left_half_written_is_no_obstacle() {
    let (_dir, path, address, _backends) = scene();
    fs::write(path.with_extension("json.new"), "{\"version\":2,\"over").unwrap();
    let daemon = start(address, &path);
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], true);
    drop(daemon);
    assert_eq!(states(&start(address, &path)), ["draining", "unchecked"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_in_the_answer_and_in_the_log() {
    let (dir, path, address, _backends) = scene();
    // Root may write anywhere, except where there is nothing, or something else.
    let missing = dir.path().join("none/state.json");
    let daemon = start(address, &missing);
    let changed = say(&daemon, "drain", &json!({ "backend": "a/one" }));
    assert_eq!(
        (&changed["kept"], &changed["state"]),
        (&json!(false), &json!("draining")),
        "it is in force all the same"
    );
    daemon.wait_for_log("cannot write the state file");
    let added = json!({ "pool": "a", "address": daemon.at(1003).to_string(), "name": "new" });
    assert_eq!(say(&daemon, "backend_add", &added)["kept"], false);
    assert_eq!(say(&daemon, "backend_remove", &json!({ "backend": "a/new" }))["kept"], false);
    fs::create_dir(dir.path().join("none")).unwrap();
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], true, "once it is there it is used");
    drop(daemon);

    fs::create_dir(path.with_extension("json.new")).unwrap();
    let daemon = start(address, &path);
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], false);
    drop(daemon);
    fs::remove_dir(path.with_extension("json.new")).unwrap();

    // Read-only for who runs the daemon.
    let state = dir.path().join("closed");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("state.json"), "{\"version\":2,\"overrides\":[]}").unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o555)).unwrap();
    let daemon = start_through(address, &state.join("state.json"), |command| {
        support::through(command, "setpriv", &["--bounding-set=-dac_override", "--inh-caps=-dac_override"])
    });
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], false);
    assert_eq!(fs::read_to_string(state.join("state.json")).unwrap(), "{\"version\":2,\"overrides\":[]}");
}

#[test]
fn a_full_disk_leaves_the_old_file_whole() {
    let (dir, _, address, _backends) = scene();
    let mount = dir.path().join("disk");
    fs::create_dir(&mount).unwrap();
    // A disk of two pages, in a mount namespace that goes with the daemon; others look into it through /proc.
    let script = format!("mount -t tmpfs -o size=8k none {} && exec \"$@\"", mount.display());
    let daemon = start_through(address, &mount.join("state.json"), |command| {
        support::through(command, "unshare", &["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
    });
    let inside = PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), mount.display()));
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/one" }))["kept"], true);
    let before = fs::read_to_string(inside.join("state.json")).unwrap();
    assert!(before.contains("a/one"));
    fs::write(inside.join("filler"), [0; 4096]).unwrap();
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/two" }))["kept"], false);
    daemon.wait_for_log("No space left on device");
    assert_eq!(fs::read_to_string(inside.join("state.json")).unwrap(), before, "nothing of the old file is lost");
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 2, "and nothing is left half written");
    fs::remove_file(inside.join("filler")).unwrap();
    assert_eq!(say(&daemon, "drain", &json!({ "backend": "a/two" }))["kept"], true);
    assert!(fs::read_to_string(inside.join("state.json")).unwrap().contains("a/two"));
}

#[test]
fn a_disk_that_hangs_holds_nobody_else_up() {
    let (_dir, path, address, _backends) = scene();
    let daemon = start(address, &path);
    // A pipe that nobody reads: opening it for writing waits, as a dead mount does.
    nix::unistd::mkfifo(&path.with_extension("json.new"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| say(&daemon, "drain", &json!({ "backend": "a/one" })));
        eventually("it is in force", || (states(&daemon)[0] == "draining").then_some(()));
        for _ in 0..20 {
            let begun = std::time::Instant::now();
            assert_eq!(daemon.get("/healthz").unwrap().0, 200);
            assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
        }
        assert_eq!(hanging.join().unwrap()["kept"], false);
    });
    daemon.wait_for_log("the disk did not answer");
}
