//! Commands that ask the daemon and show its answer: status, backends, sessions, changes, reload, stop.

use serde_json::{Value, json};

use super::Globals;
use super::client::ask;
use super::output::{Exit, Table, data, message};

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Asks, prints JSON when wanted, and otherwise calls `print`.
fn show(globals: &Globals, method: &str, params: &Value, print: impl FnOnce(&Value)) -> Exit {
    match ask(globals, method, params) {
        Ok(answer) => {
            if globals.json {
                data(&format!("{answer:#}\n"));
            } else {
                print(&answer);
            }
            Exit::Ok
        }
        Err(exit) => exit,
    }
}

/// Runs `status`.
pub fn status(globals: &Globals) -> Exit {
    show(globals, "status", &json!({}), |status| {
        let mut table = Table::new(&["key", "value"]);
        for key in ["version", "pid", "phase", "started", "generation", "connections", "max_connections", "log_dropped"]
        {
            table.row(vec![key.to_owned(), text(&status[key])]);
        }
        let reload = &status["last_reload"];
        if !reload.is_null() {
            let word = if reload["ok"] == true { "ok" } else { "failed" };
            table.row(vec![
                "last_reload".to_owned(),
                format!("{word} at {}: {}", text(&reload["at"]), text(&reload["message"])),
            ]);
        }
        table.print(globals);
        data("\n");
        let mut table = Table::new(&["listener", "protocol", "active", "total", "rejected", "bind"]);
        for row in status["listeners"].as_array().into_iter().flatten() {
            let bind: Vec<String> = row["bind"].as_array().into_iter().flatten().map(text).collect();
            let mut cells: Vec<String> =
                ["listener", "protocol", "active", "total", "rejected"].iter().map(|key| text(&row[key])).collect();
            cells.push(bind.join(" "));
            table.row(cells);
        }
        table.print(globals);
        data("\n");
        let mut table = Table::new(&["pool", "balance", "up", "down", "out", "active", "total", "unavailable"]);
        for row in status["pools"].as_array().into_iter().flatten() {
            let count = |key: &str| row["backends"][key].as_u64().unwrap_or(0);
            table.row(vec![
                text(&row["pool"]),
                text(&row["balance"]),
                (count("up") + count("unchecked")).to_string(),
                (count("down") + count("ejected")).to_string(),
                (count("draining") + count("disabled")).to_string(),
                text(&row["active"]),
                text(&row["total"]),
                text(&row["unavailable"]),
            ]);
        }
        table.print(globals);
        print_names(globals, &status["names"]);
    })
}

/// Named backends, where there are any.
fn print_names(globals: &Globals, names: &Value) {
    let Some(names) = names.as_array().filter(|names| !names.is_empty()) else { return };
    data("\n");
    let mut table = Table::new(&["name", "addresses", "resolved", "next", "stale since", "why"]);
    for row in names {
        let second = |key: &str| text(&row[key]).chars().take(19).collect();
        let addresses = row["addresses"].as_array().map_or(0, Vec::len);
        table.row(vec![
            text(&row["name"]),
            if addresses == 0 { "unresolved".to_owned() } else { addresses.to_string() },
            second("resolved_at"),
            second("next_at"),
            second("stale_since"),
            text(&row["error"]),
        ]);
    }
    table.print(globals);
}

/// Runs `backends`.
pub fn backends(globals: &Globals, pool: Option<&str>) -> Exit {
    show(globals, "backends", &json!({ "pool": pool }), |list| {
        let mut table = Table::new(&[
            "pool",
            "backend",
            "state",
            "since",
            "weight",
            "active",
            "total",
            "errors",
            "connect p99 ms",
            "first byte p99 ms",
            "check",
            "why",
        ]);
        for row in list.as_array().into_iter().flatten() {
            let said = &row["override"];
            let ejection = &row["ejection"];
            let why = if !ejection.is_null() {
                format!("until {}: {}", text(&ejection["until"]), text(&ejection["detail"]))
            } else if said.is_null() {
                let stale = match row["stale_since"].as_str() {
                    Some(since) => format!("{} stale since {since}; ", text(&row["resolved_from"])),
                    None => String::new(),
                };
                stale + &text(&row["check"]["detail"])
            } else {
                format!("{} by uid {} since {}", text(&said["state"]), text(&said["by_uid"]), text(&said["since"]))
            };
            table.row(vec![
                text(&row["pool"]),
                text(&row["backend"]),
                text(&row["state"]),
                text(&row["since"]).chars().take(19).collect(),
                text(&row["weight"]),
                text(&row["active"]),
                text(&row["total"]),
                text(&row["connect_errors"]),
                text(&row["connect_ms"]["p99"]),
                text(&row["first_byte_ms"]["p99"]),
                text(&row["check"]["last"]),
                why,
            ]);
        }
        table.print(globals);
    })
}

/// Runs `sessions`.
pub fn sessions(globals: &Globals, backend: Option<String>, sni: Option<String>, limit: u64) -> Exit {
    let params = json!({ "backend": backend, "sni": sni, "limit": limit });
    show(globals, "sessions", &params, |list| {
        let keys = ["session", "listener", "client", "sni", "pool", "backend", "age_ms", "bytes_up", "bytes_down"];
        let mut table = Table::new(&keys);
        for row in list.as_array().into_iter().flatten() {
            table.row(keys.iter().map(|key| text(&row[key])).collect());
        }
        table.print(globals);
    })
}

/// Runs `events`.
pub fn events(globals: &Globals, pool: Option<&str>, limit: u64) -> Exit {
    show(globals, "events", &json!({ "pool": pool, "limit": limit }), |list| {
        let keys = ["time", "pool", "backend", "from", "to", "by", "reason", "detail"];
        let mut table = Table::new(&keys);
        for row in list.as_array().into_iter().flatten() {
            table.row(keys.iter().map(|key| text(&row[key])).collect());
        }
        table.print(globals);
    })
}

/// Runs `refused`.
pub fn refused(globals: &Globals, listener: Option<&str>) -> Exit {
    show(globals, "refused", &json!({ "listener": listener }), |list| {
        let mut table = Table::new(&[
            "time",
            "listener",
            "client",
            "end",
            "alert",
            "bytes",
            "segments",
            "records",
            "first bytes",
            "why",
        ]);
        for row in list.as_array().into_iter().flatten() {
            let sizes = |list: &Value, size: &dyn Fn(&Value) -> String| {
                let sizes: Vec<String> = list.as_array().into_iter().flatten().map(size).collect();
                if sizes.is_empty() { "-".to_owned() } else { sizes.join("+") }
            };
            // What does not begin with a handshake record has no records worth showing.
            let is_tls = row["records"][0]["type"] == 22;
            table.row(vec![
                text(&row["time"]),
                text(&row["listener"]),
                text(&row["client"]),
                text(&row["end"]),
                text(&row["alert"]),
                text(&row["bytes"]),
                sizes(&row["segment_bytes"], &text),
                if is_tls { sizes(&row["records"], &|record| text(&record["length"])) } else { "-".to_owned() },
                text(&row["first_bytes"]).chars().take(16).collect(),
                text(&row["detail"]),
            ]);
        }
        table.print(globals);
    })
}

/// Runs `drain`, `disable` and `enable`.
pub fn change(globals: &Globals, method: &str, backend: &str) -> Exit {
    show(globals, method, &json!({ "backend": backend }), |answer| {
        data(&format!("{}\t{}\n", text(&answer["backend"]), text(&answer["state"])));
    })
}

/// Runs `reload`. The daemon reloads before it answers, so that waiting is reading the answer.
pub fn reload(globals: &Globals, wait: bool) -> Exit {
    if wait {
        return show(globals, "reload", &json!({}), |answer| data(&format!("{}\n", text(&answer["message"]))));
    }
    let status = match ask(globals, "status", &json!({})) {
        Ok(status) => status,
        Err(exit) => return exit,
    };
    let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let sent = pid.map(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP));
    match sent {
        Some(Ok(())) => {
            message("asked for; `sluice status` says how it went, or use --wait");
            Exit::Ok
        }
        Some(Err(error)) => {
            message(&format!("cannot send SIGHUP to the daemon: {error}; try --wait"));
            Exit::Failed
        }
        None => Exit::Failed,
    }
}

/// Runs `stop`.
pub fn stop(globals: &Globals) -> Exit {
    show(globals, "stop", &json!({}), |_| data("stopping\n"))
}
