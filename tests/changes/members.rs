//! Backends that operators add and remove while the process runs.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;

use crate::support::{Backend, Daemon, TempDir, connect, deaf, eventually, exchange, own_loopback};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
balance = "round-robin"
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
interval = "100ms"
[pool.v4]
backends = ["{ip}:1001"]
source-address = "{ip}"
"#;

fn result(daemon: &Daemon, method: &str, params: &Value) -> Value {
    let answer = daemon.ask(method, params);
    assert!(answer.get("error").is_none(), "{method} {params}: {answer}");
    answer["result"].clone()
}

#[track_caller]
fn refused(daemon: &Daemon, method: &str, params: &Value, code: &str, message: &str) {
    let answer = daemon.ask(method, params);
    assert_eq!(answer["error"]["code"], code, "{params}: {answer}");
    let text = format!("{} {}", answer["error"]["message"], answer["error"]["hint"]);
    assert!(text.contains(message), "{text}");
}

/// Members of the first pool with what adds them.
fn members(daemon: &Daemon) -> BTreeMap<String, Value> {
    let list = daemon.json("/v1/backends");
    let rows = list.as_array().unwrap().iter().filter(|row| row["pool"] == "a");
    rows.map(|row| (row["backend"].as_str().unwrap().to_owned(), row.clone())).collect()
}

fn naming(address: Ipv4Addr) -> [Backend; 3] {
    [
        Backend::naming((address, 1001), "1"),
        Backend::naming((address, 1002), "2"),
        Backend::naming((address, 1003), "3"),
    ]
}

/// Who answers, in turns.
fn answers(daemon: &Daemon) -> BTreeMap<String, u32> {
    let mut count = BTreeMap::new();
    for _ in 0..12 {
        let answer = exchange(daemon.at(443), b"hello").expect("an answer");
        *count.entry(String::from_utf8(answer).unwrap()).or_default() += 1;
    }
    count
}

fn counts(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn start(address: Ipv4Addr, global: &str) -> Daemon {
    Daemon::start_on(address, CONFIG, &format!("workers = 1\n{global}"), |command| command)
}

#[test]
fn an_added_backend_takes_its_share_and_is_shown_with_who_added_it() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let added = result(&daemon, "backend_add", &json!({ "pool": "a", "address": daemon.at(1002).to_string() }));
    assert_eq!(added, json!({ "backend": format!("a/{}", daemon.at(1002)), "state": "up", "kept": null }));
    assert_eq!(answers(&daemon), counts(&[("1", 6), ("2", 6)]));
    let params = json!({ "pool": "a", "address": daemon.at(1003).to_string(), "name": "third", "weight": 200 });
    assert_eq!(result(&daemon, "backend_add", &params)["backend"], "a/third");
    assert_eq!(answers(&daemon), counts(&[("1", 3), ("2", 3), ("3", 6)]));

    let rows = members(&daemon);
    let uid = nix::unistd::geteuid().as_raw();
    assert_eq!((&rows["third"]["added"]["by_uid"], &rows["third"]["weight"]), (&json!(uid), &json!(200)));
    assert!(rows["third"]["added"]["at"].is_string());
    assert!(rows[&daemon.at(1001).to_string()]["added"].is_null());
    let events = daemon.json("/v1/events");
    let event = events
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["reason"] == "added" && event["backend"] == "third")
        .cloned();
    let event = event.unwrap_or_else(|| panic!("{events:#}"));
    assert_eq!((&event["from"], &event["to"], &event["by"]), (&json!("absent"), &json!("up"), &json!("operator")));
    assert!(event["detail"].as_str().unwrap().contains(&format!("by uid {uid} ")), "{event}");
    daemon.wait_for_log("operator changed pool");
    assert_eq!(daemon.metric("sluice_config_generation").to_string(), "1", "it is no reload");

    result(&daemon, "drain", &json!({ "backend": "a/third" }));
    let removed = result(&daemon, "backend_remove", &json!({ "backend": "a/third" }));
    assert_eq!(removed["backend"], "a/third");
    assert_eq!(answers(&daemon), counts(&[("1", 6), ("2", 6)]));
    // Who comes by the same name is another one.
    assert_eq!(result(&daemon, "backend_add", &params)["state"], "up");
}

#[test]
fn a_backend_that_is_down_is_found_so_before_clients_are_sent_to_it() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let added = result(&daemon, "backend_add", &json!({ "pool": "a", "address": daemon.at(1009).to_string() }));
    assert_eq!(added["state"], "down");
    assert_eq!(answers(&daemon), counts(&[("1", 12)]));
    // One that does not answer at all keeps whoever asks for 3 s at most, and other clients not at all.
    let _deaf = deaf((address, 1010));
    let begun = std::time::Instant::now();
    let added = result(&daemon, "backend_add", &json!({ "pool": "a", "address": daemon.at(1010).to_string() }));
    assert_eq!(added["state"], "down");
    assert!(begun.elapsed().as_secs() < 6, "{:?}", begun.elapsed());
    assert!(daemon.records().iter().all(|record| record["tries"] == 1), "nobody was sent to them");
}

#[test]
fn what_contradicts_the_file_or_cannot_be_is_refused_and_changes_nothing() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let at = |port| daemon.at(port).to_string();
    result(&daemon, "backend_add", &json!({ "pool": "a", "address": at(1002), "name": "two" }));
    let before: Vec<String> = members(&daemon).into_keys().collect();
    let add = |params: Value, code: &str, message: &str| refused(&daemon, "backend_add", &params, code, message);
    add(json!({ "pool": "none", "address": at(1003) }), "no_such_pool", "none");
    add(json!({ "pool": "a", "address": at(1001), "name": "x" }), "exists", "already");
    add(json!({ "pool": "a", "address": at(1003), "name": at(1001) }), "exists", "already");
    add(json!({ "pool": "a", "address": at(1002), "name": "x" }), "exists", "it is `two`");
    add(json!({ "pool": "a", "address": at(1003), "name": "two" }), "exists", "already");
    add(json!({ "pool": "a", "address": "shop.example.com:443" }), "bad_params", "names are for the file");
    add(json!({ "pool": "a", "address": address.to_string() }), "bad_params", "with a port");
    add(json!({ "pool": "a", "address": at(0) }), "bad_params", "port 0");
    add(json!({ "pool": "a", "address": at(1003), "name": "a/b" }), "bad_params", "not a name");
    add(json!({ "pool": "a", "address": at(1003), "name": "" }), "bad_params", "not a name");
    add(json!({ "pool": "a", "address": at(1003), "name": "x".repeat(65) }), "bad_params", "not a name");
    add(json!({ "pool": "a", "address": at(1003), "weight": 1001 }), "bad_params", "above 1000");
    add(json!({ "pool": "a", "address": at(1003), "weight": -1 }), "bad_params", "params");
    add(json!({ "pool": "v4", "address": "[::1]:1003" }), "bad_params", "no source-address");
    add(json!({ "pool": "a" }), "bad_params", "address");
    refused(
        &daemon,
        "backend_remove",
        &json!({ "backend": format!("a/{}", at(1001)) }),
        "in_file",
        "take it out of the file",
    );
    refused(&daemon, "backend_remove", &json!({ "backend": "a/none" }), "no_such_backend", "none");
    assert_eq!(members(&daemon).into_keys().collect::<Vec<_>>(), before);
}

#[test]
fn a_pool_takes_so_many_and_no_more() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let [a, b, ..] = address.octets();
    let many: Vec<String> = (0..4096_u32).map(|n| format!("\"{a}.{b}.{}.{}:9\"", 100 + (n >> 8), n & 255)).collect();
    let body = format!("{CONFIG}[pool.full]\nbackends = [{}]\n", many.join(", "));
    daemon.write_config(&body, "workers = 1\n");
    daemon.reload();
    refused(
        &daemon,
        "backend_add",
        &json!({ "pool": "full", "address": daemon.at(1003).to_string() }),
        "too_many",
        "4096",
    );
}

#[test]
fn added_backends_survive_a_reload_and_yield_to_the_file() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let at = |port| daemon.at(port).to_string();
    result(&daemon, "backend_add", &json!({ "pool": "a", "address": at(1002), "name": "two" }));
    result(&daemon, "backend_add", &json!({ "pool": "a", "address": at(1003), "name": "three" }));
    result(&daemon, "weight", &json!({ "backend": "a/two", "weight": 50 }));
    let mut session = connect(daemon.at(443));
    session.write_all(b"hello").unwrap();
    session.read_exact(&mut [0; 1]).unwrap();
    daemon.reload();
    let rows = members(&daemon);
    assert_eq!(rows.len(), 3);
    assert!(rows["two"]["added"].is_object() && rows["three"]["added"].is_object());
    assert_eq!(rows["two"]["effective_weight"], 50, "with what was said of them");

    // The file has the address of one and the name of the other.
    let written = "\"{ip}:1001\", \"{ip}:1002\"]\n[[pool.a.backend]]\nname = \"three\"\naddress = \"{ip}:1004\"\n[pool.unused]\nbackends = [\"{ip}:1009\"";
    let body = CONFIG.replacen("\"{ip}:1001\"", written, 1).replacen("[pool.a.health]", "[pool.unused.health]", 1);
    daemon.write_config(&body, "workers = 1\n");
    daemon.reload();
    let rows = members(&daemon);
    let names: Vec<&str> = rows.keys().map(String::as_str).collect();
    assert_eq!(names, [at(1001).as_str(), at(1002).as_str(), "three"]);
    assert!(rows.values().all(|row| row["added"].is_null()), "{rows:?}");
    assert_eq!(rows["three"]["address"], at(1004));
    daemon.wait_for_log("the configuration has this address now");
    daemon.wait_for_log("the configuration has this name now");

    // They do not come back with the old file: they were forgotten, not hidden.
    daemon.write_config(CONFIG, "workers = 1\n");
    daemon.reload();
    assert_eq!(members(&daemon).len(), 1);
}

#[test]
fn a_reload_without_the_pool_forgets_what_was_added_to_it() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    result(&daemon, "backend_add", &json!({ "pool": "v4", "address": daemon.at(1002).to_string(), "name": "two" }));
    let (without, _) = CONFIG.split_once("[pool.v4]").unwrap();
    daemon.write_config(without, "workers = 1\n");
    daemon.reload();
    daemon.wait_for_log("its pool is gone");
    refused(&daemon, "backend_remove", &json!({ "backend": "v4/two" }), "no_such_backend", "v4/two");
}

#[test]
fn sessions_of_a_removed_backend_end_as_the_configuration_says() {
    for (how, ends) in [("keep", false), ("close", true)] {
        let address = own_loopback();
        let _backends = [Backend::echo((address, 1001)), Backend::echo((address, 1002))];
        let daemon = start(address, &format!("removed-sessions = \"{how}\"\n"));
        result(&daemon, "backend_add", &json!({ "pool": "a", "address": daemon.at(1002).to_string(), "name": "two" }));
        result(&daemon, "drain", &json!({ "backend": format!("a/{}", daemon.at(1001)) }));
        let mut session = connect(daemon.at(443));
        session.write_all(b"hello").unwrap();
        session.read_exact(&mut [0; 5]).unwrap();
        let removed = result(&daemon, "backend_remove", &json!({ "backend": "a/two" }));
        assert_eq!(removed["active"], 1);
        if ends {
            assert!(session.read(&mut [0; 1]).is_err(), "it is reset");
            assert_eq!(daemon.wait_for_records(1)[0]["end"], "drained");
        } else {
            session.write_all(b"again").unwrap();
            session.read_exact(&mut [0; 5]).expect("it runs on");
            // It can still be ended by the name of its backend.
            assert_eq!(result(&daemon, "kill", &json!({ "backend": "a/two" }))["sessions"], 1);
            assert_eq!(daemon.wait_for_records(1)[0]["end"], "killed");
        }
    }
}

#[test]
fn additions_are_kept_with_a_state_file_and_gone_without() {
    let dir = TempDir::new();
    let with = format!("state-file = \"{}\"\n", dir.path().join("state.json").display());
    for (global, stays) in [(with.as_str(), true), ("", false)] {
        let address = own_loopback();
        let _backends = naming(address);
        let mut daemon = start(address, global);
        let params = json!({ "pool": "a", "address": daemon.at(1002).to_string(), "name": "two", "weight": 300 });
        assert_eq!(result(&daemon, "backend_add", &params)["kept"], if stays { json!(true) } else { json!(null) });
        result(&daemon, "weight", &json!({ "backend": "a/two", "weight": 100 }));
        daemon.signal(nix::sys::signal::Signal::SIGKILL);
        daemon.wait_for_exit();
        let daemon = start(address, global);
        let rows = members(&daemon);
        assert_eq!(rows.contains_key("two"), stays, "{rows:?}");
        if stays {
            assert_eq!((&rows["two"]["weight"], &rows["two"]["effective_weight"]), (&json!(300), &json!(100)));
            assert_eq!(answers(&daemon), counts(&[("1", 6), ("2", 6)]), "its weight is in force from the beginning");
            result(&daemon, "backend_remove", &json!({ "backend": "a/two" }));
            drop(daemon);
            let daemon = start(address, global);
            assert!(!members(&daemon).contains_key("two"));
        }
    }
}

#[test]
fn nobody_is_lost_while_backends_come_and_go() {
    let address = own_loopback();
    let _backends = naming(address);
    let daemon = start(address, "");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let served = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let answer = exchange(daemon.at(443), b"hello").expect("an answer");
                    assert!(matches!(&answer[..], b"1" | b"2" | b"3"), "{answer:?}");
                    served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
        for round in 0..15 {
            let port = 1002 + round % 2;
            let name = format!("n{round}");
            result(
                &daemon,
                "backend_add",
                &json!({ "pool": "a", "address": daemon.at(port).to_string(), "name": name }),
            );
            let before = served.load(std::sync::atomic::Ordering::SeqCst);
            eventually("clients are served", || {
                (served.load(std::sync::atomic::Ordering::SeqCst) > before + 5).then_some(())
            });
            result(&daemon, "backend_remove", &json!({ "backend": format!("a/{name}") }));
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let ends: Vec<Value> =
        daemon.wait_for_records(served.into_inner() as usize).iter().map(|record| record["end"].clone()).collect();
    assert!(ends.iter().all(|end| end == "done"), "{ends:?}");
}
