//! Commands on a terminal: nothing is wider than it, colours only where they are wanted, and nothing that a peer said is
//! obeyed by it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use support::terminal::{Printed, on_terminal};
use support::{Backend, Daemon, TempDir, own_loopback, sluice};

const CONFIG: &str = r#"
[[listener]]
name = "https"
bind = ["{ip}:443"]
pool = "a-pool-with-a-long-name"
[pool.a-pool-with-a-long-name]
backends = ["{ip}:1001", "{ip}:1002"]
[pool.a-pool-with-a-long-name.health]
check = "tcp"
"#;

/// What erases the screen, sets a title, turns the direction of text, and breaks lines and columns.
const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{1b}]0;title\u{7}\u{202e}b\r\n\tc\u{7f}|d";

fn start() -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    (Daemon::start_on(address, CONFIG, "", |command| command), backend)
}

fn width(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn nothing_is_wider_than_the_terminal_and_wide_ones_show_more() {
    let (daemon, _backend) = start();
    let name = format!("a-pool-with-a-long-name/{}", daemon.at(1002));
    assert!(daemon.cli(&["weight", &name, "7", "--for", "1h"]).status.success());
    let run = |command: &str, columns: usize| {
        let Printed { text, code } = on_terminal(command, columns, &daemon.socket(), daemon.dir(), false);
        assert_eq!(code, 0, "{command}: {text}");
        assert!(width(&text) <= columns, "{command} at {columns} columns:\n{text}");
        text
    };
    for command in ["backends", "backends --history", "status", "sessions", "events", "refused", "names", "doctor"] {
        for columns in [20, 40, 80, 200] {
            run(&format!("sluice {command}"), columns);
        }
    }
    let narrow = run("sluice backends", 80);
    let wide = run("sluice backends", 200);
    assert!(narrow.starts_with("backend ") && narrow.contains(" down ") && narrow.contains("cert"), "{narrow}");
    let head = wide.lines().next().unwrap();
    assert!(!narrow.lines().next().unwrap().contains("down/s") && head.contains("down/s"), "{wide}");
    // Whatever keeps a backend from being up is said in full, however narrow the terminal is.
    for text in [&narrow, &wide] {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("Connection refused (os error 111)"), "{text}");
        assert!(words.contains("weight 7 by root"), "{text}");
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let (daemon, _backend) = start();
    let run = |command: &str, colours: bool| on_terminal(command, 80, &daemon.socket(), daemon.dir(), colours).text;
    let coloured = run("sluice backends", true);
    assert!(coloured.contains("\u{1b}[31mdown\u{1b}[0m") && coloured.contains("\u{1b}[32mup\u{1b}[0m"), "{coloured:?}");
    let nowhere =
        [run("sluice backends", false), run("sluice --no-color backends", true), run("sluice backends | cat", true)];
    for text in nowhere {
        assert!(text.contains("down") && !text.contains('\u{1b}'), "{text:?}");
    }
}

/// A daemon that answers every request like the true one, but with hostile words in every string.
fn hostile_daemon(answers: Value) -> (TempDir, thread::JoinHandle<()>) {
    let dir = TempDir::new();
    let listener = UnixListener::bind(dir.path().join("s.sock")).unwrap();
    let serving = thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
                let request: Value = serde_json::from_str(&line).unwrap();
                line.clear();
                let method = request["method"].as_str().unwrap();
                if method == "bye" {
                    return;
                }
                let answer = match answers.get(method) {
                    Some(result) => json!({ "id": request["id"], "result": result }),
                    None => {
                        json!({ "id": request["id"], "error": { "code": "no", "message": HOSTILE, "hint": HOSTILE } })
                    }
                };
                stream.get_mut().write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
        }
    });
    (dir, serving)
}

/// Puts hostile words behind every string that may be any string.
fn poison(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(poison),
        Value::Object(map) => {
            for (key, value) in map {
                let fixed = [
                    "address",
                    "since",
                    "at",
                    "next_at",
                    "started",
                    "time",
                    "by",
                    "client",
                    "destination",
                    "until",
                    "bind",
                    "certificate_expires",
                ];
                if !fixed.contains(&key.as_str()) {
                    poison(value);
                }
            }
        }
        Value::String(text) => text.push_str(HOSTILE),
        _ => {}
    }
}

#[track_caller]
fn harmless(what: &str, text: &str) {
    let allowed = |c: char| c == '\n' || c == '\t' || !(c.is_control() || c == '\u{202e}');
    assert!(text.chars().all(allowed), "{what}: {text:?}");
    assert!(text.contains("[2J"), "{what} shows what was said: {text:?}");
}

#[test]
fn words_of_peers_are_shown_and_never_obeyed() {
    let (daemon, _backend) = start();
    let mut answers = json!({});
    for method in ["status", "backends", "events", "history"] {
        let mut result = daemon.ask(method, &json!({}))["result"].take();
        poison(&mut result);
        answers[method] = result;
    }
    let reload = json!({ "ok": false, "at": "2026-01-01T00:00:00Z", "message": HOSTILE });
    answers["status"]["last_reload"] = reload;
    let (dir, serving) = hostile_daemon(answers);
    let socket = dir.path().join("s.sock");
    let commands = [
        "status",
        "backends",
        "events",
        "backends --history",
        "health",
        "disable a/b",
        "backends --json",
        "status --json",
    ];
    for command in commands {
        let printed = on_terminal(&format!("sluice {command}"), 120, &socket, dir.path(), false);
        harmless(command, &printed.text);
        let output = sluice().arg("--socket").arg(&socket).args(command.split(' ')).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        harmless(command, &text);
    }
    let table = sluice().arg("--socket").arg(&socket).arg("backends").output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    let columns: Vec<usize> = table.lines().map(|line| line.split('\t').count()).collect();
    assert_eq!(columns, vec![columns[0]; 3], "nobody adds a line or a column: {table:?}");
    let health = sluice().arg("--socket").arg(&socket).arg("health").output().unwrap();
    let health = String::from_utf8(health.stdout).unwrap();
    assert_eq!(health.matches('|').count(), 1, "nobody adds figures: {health}");
    let document = sluice().arg("--socket").arg(&socket).args(["backends", "--json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert!(document[0]["backend"].as_str().unwrap().ends_with(HOSTILE), "JSON says the same");
    end(&socket);
    serving.join().unwrap();
}

fn end(socket: &Path) {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"method\":\"bye\"}\n").unwrap();
}
