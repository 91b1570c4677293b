//! The busiest server names: counted exactly while they are few, bounded when they are many, not pushed out by made-up
//! ones, and the same after a reload.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;

use crate::support::hello::client_hello;
use crate::support::servers::openssl::OpenSsl;
use crate::support::servers::{Certificate, answer, finish, free_port, program};
use crate::support::tools::{openssl_client, python_client};
use crate::support::{Backend, Daemon, connect, eventually, own_loopback};
use serde_json::{Value, json};
use socket2::SockRef;

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "any"
[[listener]]
name = "refusing"
bind = ["{ip}:444"]
[[listener.route]]
sni = ["nobody.else"]
pool = "any"
[pool.any]
backends = ["BACKEND"]
"#;

fn start(backend: SocketAddr) -> Daemon {
    Daemon::start(&CONFIG.replace("BACKEND", &backend.to_string()))
}

fn names(daemon: &Daemon, params: &Value) -> Value {
    daemon.ask("names", params)["result"].clone()
}

/// Says hello and goes away; the port is free at once.
fn hello(at: SocketAddr, name: Option<&str>) {
    let mut stream = connect(at);
    SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    stream.write_all(&client_hello(name, &[])).unwrap();
    // An alert: it was read and counted.
    stream.read_exact(&mut [0; 7]).unwrap();
}

#[test]
fn names_of_real_clients_are_counted_in_order() {
    let certificate = Certificate::for_name("one.test");
    let server = OpenSsl::start(free_port(own_loopback()), &certificate, &["-www"]);
    let daemon = start(server.address);
    let at = daemon.at(443);
    for _ in 0..3 {
        answer(&finish(&mut openssl_client(at, "one.test", &certificate))).unwrap();
    }
    answer(&finish(&mut python_client(at, "one.test", &certificate))).unwrap();
    for name in ["Two.Test", "two.test"] {
        let mut openssl = program("/usr/bin/openssl");
        openssl.args(["s_client", "-connect", &at.to_string(), "-servername", name]).stdin(Stdio::null());
        answer(&finish(&mut openssl)).unwrap();
    }
    let mut nameless = program("/usr/bin/openssl");
    nameless.args(["s_client", "-connect", &at.to_string(), "-noservername"]).stdin(Stdio::null());
    answer(&finish(&mut nameless)).unwrap();
    let all = json!({ "total": 7, "without": 1, "other": 0, "names": [
        { "sni": "one.test", "count": 4, "error": 0 }, { "sni": "two.test", "count": 2, "error": 0 },
    ]});
    assert_eq!(names(&daemon, &json!({})), all);
    assert_eq!(daemon.json("/v1/names"), all);
    let first = names(&daemon, &json!({ "limit": 1 }));
    assert_eq!((&first["names"].as_array().unwrap().len(), &first["other"]), (&1, &json!(2)), "{first}");
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(!metrics.contains("one.test"), "a socket's business, not a label");
}

#[test]
fn names_survive_a_reload_and_are_counted_for_refused_clients_too() {
    let backend = Backend::naming((own_loopback(), 1001), "a");
    let daemon = start(backend.address);
    hello(daemon.at(444), Some("refused.test"));
    daemon.reload();
    hello(daemon.at(444), Some("refused.test"));
    // What is no valid hello has no name.
    crate::support::exchange(daemon.at(444), b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n").unwrap();
    let report = names(&daemon, &json!({}));
    assert_eq!(
        report,
        json!({ "total": 2, "without": 0, "other": 0, "names": [
            { "sni": "refused.test", "count": 2, "error": 0 },
        ]})
    );
}

#[test]
fn made_up_names_neither_fill_memory_nor_push_out_the_busy_ones() {
    const EACH: usize = 5000;
    let backend = Backend::naming((own_loopback(), 1001), "a");
    let daemon = start(backend.address);
    let at = daemon.at(444);
    let flood = |from: usize, count: usize| {
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let long = "x".repeat(60);
                    for number in 0..count {
                        hello(at, Some(&format!("{}-{thread}.{long}.{long}.{long}.test", from + number)));
                        if number % 20 == 0 {
                            hello(at, Some(["busy.test", "busier.test"][(number / 20 % 3).min(1)]));
                        }
                    }
                });
            }
        });
    };
    // What the first clients cost once, whatever they are called.
    flood(0, 500);
    let before = daemon.private_memory();
    flood(500, EACH - 500);
    let grown = daemon.private_memory().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more after {} names", 4 * EACH);
    let report = names(&daemon, &json!({}));
    assert_eq!(report["total"], 4 * EACH + 4 * EACH.div_ceil(20), "{}", report["total"]);
    let list = report["names"].as_array().unwrap();
    assert_eq!((&list[0]["sni"], &list[1]["sni"]), (&json!("busier.test"), &json!("busy.test")), "{:?}", &list[..3]);
    for name in &list[..2] {
        let share = if name["sni"] == "busier.test" { 2 } else { 1 };
        let exact = 4 * EACH as u64 / 20 * share / 3;
        let (count, error) = (name["count"].as_u64().unwrap(), name["error"].as_u64().unwrap());
        assert!(count + 8 >= exact && count - error <= exact + 8, "{exact} is not in {name}");
    }
    let workers = daemon.json("/v1/status")["workers"].as_array().unwrap().len();
    assert!(list.len() <= 100 * workers, "{} names of {workers} workers", list.len());
    let other = report["other"].as_u64().unwrap() as usize;
    assert!(other + list.len() >= 4 * EACH, "{other} of others");
    drop(backend);
}

#[test]
fn hellos_in_parallel_are_all_counted() {
    let backend = Backend::naming((own_loopback(), 1001), "a");
    let daemon = start(backend.address);
    let at = daemon.at(443);
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut stream: TcpStream = connect(at);
                    let name = format!("{thread}.test");
                    stream.write_all(&client_hello((thread > 0).then_some(&name), &[])).unwrap();
                    stream.read_to_end(&mut Vec::new()).unwrap();
                }
            });
        }
    });
    let report =
        eventually("all are counted", || Some(names(&daemon, &json!({}))).filter(|report| report["total"] == 400));
    assert_eq!((&report["without"], &report["other"]), (&json!(50), &json!(0)));
    let list = report["names"].as_array().unwrap();
    assert_eq!(list.len(), 7);
    assert!(list.iter().all(|name| name["count"] == 50 && name["error"] == 0), "{list:?}");
}
