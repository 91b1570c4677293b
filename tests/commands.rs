//! The commands: every one of the contract is there and explains itself; docs/commands.md shows what they print, and is
//! held to it; exit codes; drains that are waited for; events that are followed; the monitoring plugin; differences.
//!
//! `SLUICE_REGENERATE=1 cargo test --test commands` writes the transcripts of docs/commands.md anew.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::hello::client_hello;
use support::terminal::{masked, on_terminal};
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback, sluice};

const CONFIG: &str = r#"
[[listener]]
name = "https"
bind = ["{ip}:443"]
pool = "shop"
[pool.shop]
backend = [{ name = "shop-1", address = "{ip}:1001" }, { name = "shop-2", address = "{ip}:1002" }]
[pool.shop.health]
check = "tcp"
interval = "1h"
down-interval = "1h"
"#;

/// The commands of the contract, in its words; `top` and `upgrade` have tests of their own.
const COMMANDS: &[&str] = &[
    "run",
    "check",
    "route",
    "status",
    "backends",
    "sessions",
    "events",
    "refused",
    "names",
    "drain",
    "enable",
    "disable",
    "weight",
    "reset",
    "backend add",
    "backend remove",
    "kill",
    "probe",
    "reload",
    "upgrade",
    "stop",
    "health",
    "hello",
    "doctor",
    "config diff",
    "config schema",
    "completions",
    "man",
];

fn start() -> (Daemon, Backend) {
    // As many characters as any other time: tables leave columns out that do not fit.
    let [net, high, low, host] = own_loopback().octets();
    let address = Ipv4Addr::new(net, 100 + high % 100, 100 + low % 100, 100 + host % 100);
    let backend = Backend::echo((address, 1001));
    (Daemon::start_on(address, CONFIG, "", |command| command), backend)
}

/// A session that is forwarded.
fn session(daemon: &Daemon) -> TcpStream {
    let mut client = connect(daemon.at(443));
    let hello = client_hello(Some("shop.test"), &["h2"]);
    client.write_all(&hello).unwrap();
    client.read_exact(&mut vec![0; hello.len()]).unwrap();
    client
}

fn code(daemon: &Daemon, arguments: &[&str]) -> i32 {
    daemon.cli(arguments).status.code().unwrap()
}

#[test]
fn every_command_of_the_contract_explains_itself_with_an_example() {
    for command in COMMANDS {
        let output = sluice().args(command.split(' ')).arg("--help").output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Example"), "{command} has no example:\n{help}");
        assert!(help.contains(&format!("sluice {command}")), "{command} is not in its own example:\n{help}");
    }
}

#[test]
fn documented_transcripts_are_what_the_commands_print() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let document = fs::read_to_string(&path).unwrap();
    let (daemon, _backend) = start();
    let address = daemon.address.to_string();
    let folder = daemon.dir();
    let config = fs::read_to_string(folder.join("sluice.toml")).unwrap();
    let other = config.replace("shop-2", "shop-4").replace("[global]", "[global]\nworkers = 1");
    fs::write(folder.join("new.toml"), other + "[pool.other]\nbackends = [\"127.0.0.9:1\"]\n").unwrap();
    fs::write(folder.join("hello.bin"), client_hello(Some("shop.test"), &["h2"])).unwrap();
    let _client = session(&daemon);
    let _ = exchange(daemon.at(443), b"GET / HTTP/1.1\r\n\r\n");
    daemon.wait_for_records(1);
    // Rates are those between the last two looks, a second apart: the transcripts begin when nobody came in between.
    let begun = Instant::now();
    eventually("two looks", || {
        let rate = daemon.json("/v1/status")["listeners"][0]["rates"]["connections"].as_f64();
        (begun.elapsed() > Duration::from_millis(2500) && rate == Some(0.0)).then_some(())
    });

    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).unwrap().map_or_else(|| format!("uid {uid}"), |user| user.name);
    let mut actual = String::new();
    let mut rest = &*document;
    let mut blocks = 0;
    while let Some((before, block)) = rest.split_once("```console\n$ ") {
        let (block, after) = block.split_once("\n```").unwrap();
        let command = block.lines().next().unwrap();
        let line = command.replace("10.0.0.1", &address);
        let printed = on_terminal(&line, 80, &daemon.socket(), folder, false);
        let text = printed.text.replace(&address, "10.0.0.1").replace(&folder.display().to_string(), "/etc/sluice");
        let text = text.replace(&format!("by {user} "), "by root ").replace(&format!("uid {uid} "), "uid 0 ");
        let code = if printed.code == 0 { String::new() } else { format!("[exit code {}]\n", printed.code) };
        let text = text.replace('\r', "");
        write!(actual, "{before}```console\n$ {command}\n{text}{code}```").unwrap();
        rest = after;
        blocks += 1;
        if line == "sluice stop --grace 1s" {
            eventually("the daemon is gone", || (!daemon.socket().exists()).then_some(()));
        }
    }
    actual += rest;
    assert!(blocks > 25, "found the transcripts");
    if std::env::var_os("SLUICE_REGENERATE").is_some() {
        return fs::write(&path, &actual).unwrap();
    }
    let (want, got) = (masked(&document), masked(&actual));
    let same = want.iter().zip(&got).take_while(|(want, got)| want == got).count();
    let around = |words: &[String]| words[same.saturating_sub(12)..words.len().min(same + 4)].join(" ");
    assert!(want == got, "docs/commands.md says\n{}\nbut it is\n{}\n\n{actual}", around(&want), around(&got));
}

#[test]
fn every_command_is_documented_with_a_transcript() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let document = fs::read_to_string(path).unwrap();
    for command in COMMANDS {
        assert!(document.contains(&format!("```console\n$ sluice {command}")), "{command} has no transcript");
    }
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let (daemon, _backend) = start();
    let bad = daemon.dir().join("bad.toml");
    fs::write(&bad, "[global]\nworkers = \"many\"\n").unwrap();
    let bad = bad.display().to_string();
    let table: &[(&[&str], i32)] = &[
        (&["status"], 0),
        (&["probe", "shop/shop-1"], 0),
        (&["probe", "shop/shop-2"], 1),
        (&["status", "--no-such-option"], 2),
        (&["weight", "shop/shop-1", "1001"], 2),
        (&["drain", "shop/shop-1", "--rate", "5/s"], 2),
        (&["drain", "shop/shop-1", "--for", "soon"], 2),
        (&["kill"], 2),
        (&["kill", "1", "--backend", "shop/shop-1"], 2),
        (&["check", "-c", &bad], 3),
        (&["config", "diff", "-c", &bad], 3),
        (&["config", "diff", "-c", "/no/such/file"], 3),
        (&["backends", "none"], 6),
        (&["backends", "--history", "none"], 6),
        (&["sessions", "--source", "nowhere"], 6),
        (&["weight", "shop/none", "1"], 6),
        (&["reset", "shop/none"], 6),
        (&["kill", "00000000000000ff"], 6),
        (&["backend", "add", "none", "127.0.0.1:1"], 6),
        (&["backend", "remove", "shop/none"], 6),
    ];
    for (arguments, want) in table {
        assert_eq!(code(&daemon, arguments), *want, "{arguments:?}");
    }
    let missing = sluice().args(["--socket", "/no/such/socket", "status"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(5));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("no daemon behind /no/such/socket: no such file"));
    assert!(missing.stdout.is_empty(), "messages go to stderr");
}

#[test]
fn drain_waits_until_no_session_is_left_or_the_time_is_over() {
    let (daemon, _backend) = start();
    let client = session(&daemon);
    let late = daemon.cli(&["drain", "shop/shop-1", "--wait", "50ms"]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(String::from_utf8(late.stderr).unwrap().contains("shop/shop-1: 1 left after 50ms"));
    let mut waiting = sluice();
    waiting.arg("--socket").arg(daemon.socket()).args(["drain", "shop/shop-1", "--wait", "20s"]);
    let mut waiting = waiting.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(waiting.stderr.take().unwrap()).lines();
    assert_eq!(progress.next().unwrap().unwrap(), "shop/shop-1: 1 left");
    drop(client);
    assert_eq!(progress.next().unwrap().unwrap(), "shop/shop-1: no session is left");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn changes_undo_themselves_and_sessions_are_found() {
    let (daemon, _backend) = start();
    let _client = session(&daemon);
    assert_eq!(code(&daemon, &["weight", "shop/shop-1", "7", "--for", "1h"]), 0);
    let list = daemon.json("/v1/backends");
    assert_eq!((&list[0]["override"]["weight"], &list[0]["effective_weight"]), (&7.into(), &7.into()));
    assert!(list[0]["override"]["until"].is_string(), "{list}");
    let count = |arguments: &[&str]| {
        let output = daemon.cli(&[&["sessions", "--json"], arguments].concat());
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap().len()
    };
    let source = format!("{}/32", connect(daemon.at(1001)).local_addr().unwrap().ip());
    for (arguments, want) in [
        (&["--sni", "shop.test", "--backend", "shop/shop-1", "--source", &source][..], 1),
        (&["--sni", "other.test"], 0),
        (&["--source", "192.0.2.0/24"], 0),
        (&["--age", "1h"], 0),
        (&["--idle", "1h"], 0),
        (&["--age", "0s", "--idle", "0s", "--sort", "idle"], 1),
        (&["--limit", "0"], 0),
    ] {
        assert_eq!(count(arguments), want, "{arguments:?}");
    }
}

/// `events --follow`, after the first line of the head and one event.
fn following(daemon: &Daemon, arguments: &[&str]) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut command = sluice();
    command.arg("--socket").arg(daemon.socket()).args(["events", "--follow"]).args(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    if arguments.is_empty() {
        assert!(line.starts_with("id\ttime\tpool\tbackend\tfrom\tto\tby\treason"), "{line}");
        line.clear();
        lines.read_line(&mut line).unwrap();
    }
    assert!(line.contains("shop-"), "{line}");
    (child, lines)
}

#[test]
fn events_are_followed_until_interrupted_or_until_the_daemon_stops() {
    let (mut daemon, _backend) = start();
    let (mut child, mut lines) = following(&daemon, &[]);
    assert_eq!(code(&daemon, &["disable", "shop/shop-1"]), 0);
    let mut line = String::new();
    while !line.contains("\tshop\tshop-1\tup\tdisabled\toperator\t") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the event comes");
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "Ctrl-C is a clean end");

    let (mut child, _lines) = following(&daemon, &["--json"]);
    assert_eq!(code(&daemon, &["stop"]), 0);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(message, "the daemon is gone\n");
    daemon.wait_for_exit();
}

#[test]
fn health_has_the_exit_codes_of_a_monitoring_plugin() {
    let (daemon, backend) = start();
    let look = |arguments: &[&str]| {
        let output = daemon.cli(&[&["health"], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (verdict, line) = look(&[]);
    assert_eq!(verdict, 1, "{line}");
    assert!(line.starts_with("SLUICE WARNING - shop/shop-2 down for ") && line.lines().count() == 1, "{line}");
    assert!(line.contains(" | backends_up=1;;;0;2 connections=0;;;0;100000 active=0;;;0;"), "{line}");
    let second = Backend::echo((daemon.address, 1002));
    daemon.reload();
    let (verdict, line) = look(&[]);
    drop((backend, second));
    daemon.write_config("[broken", "");
    assert_eq!(code(&daemon, &["reload", "--wait"]), 1);
    let (failed, reload) = look(&["--pool", "shop"]);
    assert!(failed == 1 && reload.contains("the last reload failed"), "{reload}");
    assert_eq!(look(&["--pool", "none"]).0, 3);
    for name in ["shop/shop-1", "shop/shop-2"] {
        assert_eq!(code(&daemon, &["disable", name]), 0);
    }
    let (critical, line_of_none) = look(&[]);
    assert_eq!(critical, 2, "{line_of_none}");
    assert!(line_of_none.starts_with("SLUICE CRITICAL - pool shop has no backend that takes connections"));
    let nobody = sluice().args(["--socket", "/no/such/socket", "health"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(3));
    assert!(String::from_utf8(nobody.stdout).unwrap().starts_with("SLUICE UNKNOWN - no daemon behind"));
    assert!(verdict <= 1 && line.starts_with("SLUICE "), "{line}");
}

#[test]
fn differences_say_what_a_reload_would_do() {
    let (daemon, _backend) = start();
    let _client = session(&daemon);
    let file = daemon.dir().join("sluice.toml");
    let diff = |expected: i32| {
        let output = daemon.cli(&["config", "diff", "--json", "-c", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(expected), "{output:?}");
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    assert!(diff(0).is_empty());
    let body = CONFIG.replace("shop-1", "shop-9").replace("interval = \"1h\"", "interval = \"2h\"");
    let body = body + "[[listener.route]]\nsni = [\"a.test\"]\npool = \"shop\"\n";
    let body = body.replace(
        "pool = \"shop\"\n[pool.shop]",
        "[[listener.route]]\nfrom = [\"10.0.0.0/8\"]\npool = \"shop\"\n[pool.shop]",
    );
    let body = body.replace("[[listener.route]]\nsni = [\"a.test\"]\npool = \"shop\"\n", "");
    daemon.write_config(&body, "removed-sessions = \"close\"\nworkers = 1\nmetrics = \"127.0.0.1:0\"\n");
    let found = diff(1);
    let of = |what: &str, change: &str, key: Option<&str>| {
        let same = |one: &&Value| one["what"] == what && one["change"] == change && one["key"].as_str() == key;
        let one = found.iter().find(same).unwrap_or_else(|| panic!("{change} {what} {key:?} in {found:#?}"));
        one["effect"].as_str().unwrap().to_owned()
    };
    let closed = "1 open session is closed at once (removed-sessions = \"close\")";
    assert_eq!(of("backend shop/shop-1", "removed", None), closed);
    assert_eq!(of("backend shop/shop-9", "added", None), "it is checked first");
    assert_eq!(of("listener https route", "added", None), "for new connections; open sessions stay where they are");
    assert_eq!(
        of("listener https", "removed", Some("pool")),
        "its open sessions are closed at once (removed-sessions = \"close\")"
    );
    assert_eq!(of("pool shop", "changed", Some("health.interval")), "from the next check or connection on");
    assert_eq!(of("global", "changed", Some("removed-sessions")), "takes effect at once");
    assert_eq!(of("global", "added", Some("metrics")), "takes effect at once");
    assert_eq!(of("global", "changed", Some("workers")), "takes effect at once; open sessions stay on their worker");
}

#[test]
fn completions_and_manual_pages_are_made_for_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sluice().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("kill-after"), "{shell}: {script}");
    }
    let dir = support::TempDir::new();
    let pages: PathBuf = dir.path().join("pages");
    assert!(sluice().arg("man").arg(&pages).status().unwrap().success());
    for command in COMMANDS {
        let page = fs::read_to_string(pages.join(format!("sluice-{}.1", command.replace(' ', "-")))).unwrap();
        assert!(page.starts_with(".ie") && page.contains(".TH") && page.contains("Example"), "{command}: {page}");
    }
}
