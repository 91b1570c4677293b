//! Unit tests of the screen: a sample of answers, and what model, keys and drawing make of it. No terminal, no daemon.

mod keys;
mod model;
mod view;

use std::time::Duration;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::keys::{Action, press};
use super::model::{Answers, Look, Model};

const MINUTE: i64 = 60;

/// The time of the sample.
fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn before(seconds: i64) -> String {
    Timestamp::from_second(now().as_second() - seconds).expect("a time").to_string()
}

fn backend(path: &str, state: &str, active: u32, rate: f64, p99: Option<f64>) -> Value {
    let (pool, name) = path.split_once('/').expect("a path");
    let times =
        |p99: f64| json!({ "p50": p99 / 4.0, "p90": p99 / 2.0, "p99": p99, "p999": p99 * 1.5, "max": p99 * 2.0 });
    json!({
        "pool": pool, "backend": name, "address": "10.0.0.11:443", "state": state, "since": before(3 * 3600 + 4 * MINUTE),
        "weight": 100, "effective_weight": if state == "up" { 100 } else { 0 }, "backup": false, "active": active,
        "total": 48_211, "connect_errors": if state == "down" { 12 } else { 0 }, "bytes_up": 1, "bytes_down": 1,
        "rates": { "connections": rate, "bytes_up": rate * 1200.0, "bytes_down": rate * 34_000.0 },
        "check": {
            "kind": "tls", "last": if state == "down" { "failed" } else { "ok" },
            "reason": if state == "down" { "refused" } else { "handshake" },
            "detail": if state == "down" { "connect to 10.0.0.11:443: Connection refused" } else { "TLS 1.3 with shop.example.com" },
            "took_ms": 1.24, "at": before(1), "next_at": before(-1), "rise": 2, "fall": 3,
            "certificate_expires": before(-20 * 86_400),
        },
        "ejections": 0, "first_answers": {},
        "connect_ms": p99.map(|p99| times(p99 / 10.0)), "first_byte_ms": p99.map(times), "session_ms": p99.map(|p99| times(p99 * 100.0)),
    })
}

/// Answers with two listeners, two pools and five backends; `second` moves rates and processor time on.
fn answers(second: u32) -> Answers {
    let rates = |rate: f64| json!({ "connections": rate, "bytes_up": rate * 1200.0, "bytes_down": rate * 34_000.0 });
    let listener = |name: &str, bind: &[&str], protocol: &str, rate: f64| {
        json!({ "listener": name, "bind": bind, "protocol": protocol, "active": (rate * 4.0) as i64, "total": 96_000,
                "rejected": if name == "https" { 31 } else { 0 }, "rates": rates(rate) })
    };
    let pool = |name: &str, balance: &str, backends: Value, rate: f64| {
        json!({ "pool": name, "balance": balance, "backends": backends, "active": (rate * 4.0) as u64, "total": 96_000,
                "unavailable": 0, "waiting": 0, "full": 0, "health_ignored": false, "rates": rates(rate) })
    };
    let used = f64::from(second);
    let status = json!({
        "version": "0.1.0", "pid": 4242, "phase": "running", "started": before(3 * 86_400 + 4 * 3600), "generation": 7,
        "connections": 1320, "max_connections": 100_000, "log_dropped": 0, "names": [],
        "workers": [
            { "connections": 700, "cpu_seconds": 100.0 + used * 0.23 },
            { "connections": 620, "cpu_seconds": 100.0 + used * 0.08 },
        ],
        "listeners": [listener("https", &["0.0.0.0:443", "[::]:443"], "tls", 320.0), listener("postgres", &["10.0.0.1:5432"], "postgres", 4.0)],
        "pools": [
            pool("shop", "least-connections", json!({ "up": 2, "down": 1, "draining": 1 }), 320.0),
            pool("database", "consistent-hash", json!({ "up": 1 }), 4.0),
        ],
    });
    let wave = f64::from([5, 20, 60, 80, 100, 90, 70, 60, 40, 50][(second % 10) as usize]);
    let mut draining = backend("shop/web-3", "draining", 31, 0.0, Some(5.2));
    draining["override"] = json!({ "state": "drain", "weight": null, "by_uid": 1000, "since": before(5 * MINUTE), "until": before(-25 * MINUTE),
        "words": [{ "about": "state", "said": "drain", "by_uid": 1000, "since": before(5 * MINUTE), "until": before(-25 * MINUTE) }] });
    let backends = json!([
        backend("shop/web-1", "up", 612, 100.0 + wave, Some(4.8)),
        backend("shop/web-2", "up", 633, 210.0 - wave, Some(6.1)),
        draining,
        backend("shop/web-4", "down", 0, 0.0, None),
        backend("database/db-1", "up", 44, 4.0, Some(31.0)),
    ]);
    let read = |value| serde_json::from_value(value).expect("backends");
    Answers { status: serde_json::from_value(status).expect("a status"), backends: read(backends), look: None }
}

/// What is asked for `shop/web-4` besides.
fn look() -> Look {
    let sessions = json!([
        { "session": "00000000000000a1", "listener": "https", "client": "192.0.2.7:40312", "destination": "10.0.0.1:443",
          "sni": "shop.example.com", "alpn": "h2,http/1.1", "pool": "shop", "backend": "web-4", "age_ms": 7_500_000,
          "idle_ms": 1200, "bytes_up": 18_432, "bytes_down": 5_120_000 },
        { "session": "00000000000000a2", "listener": "https", "client": "[2001:db8::7]:40313", "destination": "10.0.0.1:443",
          "sni": null, "alpn": null, "pool": "shop", "backend": "web-4", "age_ms": 45_000,
          "idle_ms": 45_000, "bytes_up": 517, "bytes_down": 0 },
    ]);
    let event = json!({
        "id": 9, "time": before(3 * 3600), "pool": "shop", "backend": "web-4", "from": "up", "to": "down", "by": "check",
        "reason": "refused", "detail": "connect to 10.0.0.11:443: Connection refused",
        "evidence": [{ "phase": "connect", "took_ms": 0.21, "seen": "Connection refused" }],
    });
    Look {
        path: "shop/web-4".to_owned(),
        sessions: serde_json::from_value(sessions).expect("sessions"),
        event: serde_json::from_value(event).expect("an event"),
    }
}

/// A model that has been asking for ten seconds.
fn sample() -> Model {
    let mut model = Model::new(Duration::from_secs(1), now());
    for second in 0..10 {
        model.take(answers(second), at(i64::from(second) - 9));
    }
    model
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).expect("a time")
}

/// Presses keys one after the other; what the last one asks for.
fn keys(model: &mut Model, keys: &str) -> Action {
    let code = |key| match key {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        '\x1b' => KeyCode::Esc,
        '\x08' => KeyCode::Backspace,
        letter => KeyCode::Char(letter),
    };
    let pressed = keys.chars().map(|key| press(model, KeyEvent::new(code(key), KeyModifiers::NONE)));
    pressed.last().expect("a key")
}
