//! The status socket and the commands: HTTP, JSON lines, tables and JSON on stdout, exit codes, dry runs of routing.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use support::hello::client_hello;
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
[[listener.route]]
sni = ["*.shop.test"]
pool = "shop"
[[listener.route]]
sni = ["no.test"]
reject = "alert"
[pool.shop]
balance = "consistent-hash"
backends = ["{ip}:1001", "{ip}:1002"]
[pool.shop.health]
check = "tcp"
interval = "100ms"
"#;

fn start() -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let metrics = format!("metrics = \"{address}:9117\"\n");
    (Daemon::start_on(address, CONFIG, &metrics, |command| command), backend)
}

fn stdout(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn backends_are_described_as_the_contract_says() {
    let (daemon, _backend) = start();
    let mut session = connect(daemon.at(443));
    let hello = client_hello(Some("a.shop.test"), &[]);
    session.write_all(&hello).unwrap();
    session.read_exact(&mut vec![0; hello.len()]).unwrap();
    drop(session);
    daemon.wait_for_records(1);
    let list = daemon.json("/v1/backends");
    let (up, down) = (&list[0], &list[1]);
    let keys = [
        "pool",
        "backend",
        "address",
        "state",
        "since",
        "weight",
        "effective_weight",
        "active",
        "total",
        "connect_errors",
        "bytes_up",
        "bytes_down",
        "check",
        "override",
        "connect_ms",
        "session_ms",
        "first_byte_ms",
    ];
    for key in keys {
        assert!(up.get(key).is_some(), "{key} in {up}");
    }
    let number = hello.len() as u64;
    assert_eq!((&up["state"], &up["total"], &up["bytes_up"]), (&json!("up"), &json!(1), &json!(number)));
    assert_eq!((&down["state"], &down["effective_weight"]), (&json!("down"), &json!(0)));
    assert_eq!((&down["check"]["last"], &down["check"]["reason"]), (&json!("failed"), &json!("refused")));
    for quantile in ["p50", "p90", "p99", "p999", "max"] {
        assert!(up["first_byte_ms"][quantile].as_f64().unwrap() > 0.0, "{up}");
    }
}

#[test]
fn http_dialect_answers_get_only_and_within_limits() {
    let (daemon, _backend) = start();
    assert_eq!(daemon.get("/healthz"), Some((200, "alive\n".to_owned())));
    assert_eq!(daemon.get("/readyz"), Some((200, "ready\n".to_owned())));
    assert_eq!(daemon.get("/nothing").unwrap().0, 404);
    assert_eq!(daemon.json("/v1/status")["phase"], "running");
    assert_eq!(daemon.json("/v1/sessions"), json!([]));
    assert!(daemon.get("/v1/config").unwrap().1.contains("balance = \"consistent-hash\""));
    let raw = |request: &[u8]| {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        // A refusal may come before everything is written.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(raw(b"POST /v1/status HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(raw(b"GET / nonsense\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    assert_eq!(raw(long.as_bytes()), "HTTP/1.1 431 Request Header Fields Too Large");
    assert!(raw(b"show info\n").starts_with("Name: "), "anything else is HAProxy's");
}

#[test]
fn metrics_are_served_on_socket_and_address_and_follow_the_format() {
    let (daemon, _backend) = start();
    exchange(daemon.at(443), &client_hello(Some("elsewhere.test"), &[])).unwrap();
    daemon.wait_for_records(1);
    let wanted = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n";
    let over_tcp = exchange(daemon.at(9117), wanted).unwrap();
    let over_tcp = String::from_utf8(over_tcp).unwrap();
    assert!(over_tcp.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(over_tcp.ends_with("# EOF\n"));
    let status = exchange(daemon.at(9117), b"GET /v1/status HTTP/1.1\r\n\r\n").unwrap();
    assert!(status.starts_with(b"HTTP/1.1 404"), "the address serves metrics only");
    assert_eq!(daemon.metric("sluice_listener_rejected_total{listener=\"tls\",reason=\"no_route\"}"), 1.0);
    assert_eq!(daemon.metric("sluice_tls_hello_total{listener=\"tls\",result=\"ok\"}"), 1.0);
    assert_eq!(daemon.metric("sluice_tls_hello_seconds_count"), 1.0);
    assert!(!over_tcp.contains("elsewhere"), "no server name in a label");
    for line in over_tcp.split("\r\n\r\n").nth(1).unwrap().lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("sluice_"), "{line}");
        assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn json_lines_answer_every_request_and_refuse_what_they_do_not_know() {
    let (daemon, _backend) = start();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let requests = concat!(
        "{\"v\":1,\"id\":1,\"method\":\"status\"}\n",
        "{\"id\":\"two\",\"method\":\"backends\",\"params\":{\"pool\":\"none\"},\"unknown\":true}\n",
        "{\"id\":3,\"method\":\"fly\"}\n",
        "{broken\n",
        "{\"v\":2,\"id\":5,\"method\":\"status\"}\n",
    );
    stream.write_all(requests.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 5);
    assert_eq!((&answers[0]["id"], &answers[0]["result"]["phase"]), (&json!(1), &json!("running")));
    assert_eq!((&answers[1]["id"], &answers[1]["error"]["code"]), (&json!("two"), &json!("no_such_pool")));
    assert_eq!(answers[2]["error"]["code"], "no_such_method");
    assert!(answers[2]["error"]["hint"].as_str().unwrap().contains("backends"));
    assert_eq!(answers[3]["error"]["code"], "bad_request");
    assert_eq!(answers[4]["error"]["code"], "version");
}

#[test]
fn commands_print_tables_for_pipes_and_json_on_request() {
    let (daemon, _backend) = start();
    let table = stdout(&daemon, &["backends"]);
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("pool\tbackend\tstate\tsince"));
    assert!(lines.next().unwrap().starts_with(&format!("shop\t{}\tup\t", daemon.at(1001))), "{table}");
    assert!(lines.next().unwrap().starts_with(&format!("shop\t{}\tdown\t", daemon.at(1002))), "{table}");
    let list: Value = serde_json::from_str(&stdout(&daemon, &["backends", "shop", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(daemon.cli(&["backends", "none"]).status.code(), Some(6));
    assert!(stdout(&daemon, &["status"]).contains("phase\trunning"));

    let mut session = connect(daemon.at(443));
    let hello = client_hello(Some("b.shop.test"), &[]);
    session.write_all(&hello).unwrap();
    session.read_exact(&mut vec![0; hello.len()]).unwrap();
    let sessions = eventually("the session is listed", || {
        Some(stdout(&daemon, &["sessions", "--sni", "b.shop.test"])).filter(|text| text.lines().count() == 2)
    });
    assert!(sessions.contains(&format!("\tshop\t{}\t", daemon.at(1001))), "{sessions}");
    assert_eq!(stdout(&daemon, &["sessions", "--sni", "x.test"]).lines().count(), 1);
    let path = format!("shop/{}", daemon.at(1001));
    assert_eq!(stdout(&daemon, &["sessions", "--backend", &path]).lines().count(), 2);
}

#[test]
fn bytes_of_an_open_session_are_counted_while_it_runs() {
    let (daemon, _backend) = start();
    let hello = client_hello(Some("b.shop.test"), &[]);
    let mut session = connect(daemon.at(443));
    session.write_all(&hello).unwrap();
    session.read_exact(&mut vec![0; hello.len()]).unwrap();
    eventually("the bytes are counted", || {
        session.write_all(b"x").unwrap();
        session.read_exact(&mut [0; 1]).unwrap();
        let row = daemon.json("/v1/backends")[0].clone();
        (row["active"] == 1 && row["bytes_down"].as_u64()? > hello.len() as u64).then_some(())
    });
    // What a burst brought is counted although nothing comes after it.
    session.write_all(&vec![0; 50_000]).unwrap();
    session.read_exact(&mut vec![0; 50_000]).unwrap();
    eventually("the burst is counted", || {
        (daemon.json("/v1/backends")[0]["bytes_down"].as_u64()? > 50_000).then_some(())
    });
}

#[test]
fn drained_backend_takes_no_new_session_and_keeps_the_old_ones() {
    let (daemon, _backend) = start();
    let hello = client_hello(Some("b.shop.test"), &[]);
    let mut session = connect(daemon.at(443));
    session.write_all(&hello).unwrap();
    session.read_exact(&mut vec![0; hello.len()]).unwrap();
    let path = format!("shop/{}", daemon.at(1001));
    assert!(stdout(&daemon, &["drain", &path]).contains(&format!("\n{path}\tdraining\t")));
    let refused = exchange(daemon.at(443), &hello).unwrap();
    assert_eq!(support::alert_of(&refused), Some(80));
    session.write_all(b"more").unwrap();
    session.read_exact(&mut [0; 4]).unwrap();
    assert!(stdout(&daemon, &["enable", &path]).contains(&format!("\n{path}\tup\t")));
    assert_eq!(daemon.cli(&["disable", "shop/none"]).status.code(), Some(6));
    daemon.wait_for_log("operator changed backend");
}

#[test]
fn route_explains_live_and_offline() {
    let (daemon, _backend) = start();
    let file = daemon.dir().join("sluice.toml").display().to_string();
    let live: Value =
        serde_json::from_str(&stdout(&daemon, &["route", "--listener", "tls", "--sni", "x.shop.test", "--json"]))
            .unwrap();
    assert_eq!(live["pool"], "shop");
    assert_eq!(live["rule"], format!("{file}:12"));
    assert_eq!(live["backend"], daemon.at(1001).to_string());
    assert_eq!(live["others"][0]["backend"], daemon.at(1002).to_string());
    let why = live["others"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("down since ") && why.contains("Connection refused"), "{why}");

    let offline = stdout(&daemon, &["route", "--listener", "tls", "--sni", "x.shop.test", "-c", &file, "-q"]);
    assert!(offline.contains("pool      shop"), "{offline}");
    assert!(offline.contains("next in line: another one owns the key"), "{offline}");

    let refused = daemon.cli(&["route", "--listener", "tls", "--sni", "no.test"]);
    assert_eq!(refused.status.code(), Some(6));
    assert!(String::from_utf8(refused.stdout).unwrap().contains("refused   route_rejected"));
    let nowhere = daemon.cli(&["route", "--listener", "none"]);
    assert_eq!(nowhere.status.code(), Some(6));
    assert!(String::from_utf8(nowhere.stderr).unwrap().contains("no listener is called `none`; there are: tls"));
}

#[test]
fn doctor_names_limits_and_settings() {
    let output = support::sluice().arg("doctor").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for name in [
        "descriptors",
        "cpus",
        "capabilities",
        "landlock",
        "net.core.somaxconn",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_migrate_req",
        "net.ipv4.tcp_notsent_lowat",
        "net.ipv4.tcp_fastopen",
        "fs.pipe-user-pages-soft",
        "splice",
        "conntrack",
    ] {
        assert!(text.lines().any(|line| line.split('\t').next() == Some(name)), "{name} in {text}");
    }
    // What it says of capabilities is what the process has.
    let bare = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
    let without = support::servers::program("/usr/bin/setpriv")
        .args(bare)
        .arg(env!("CARGO_BIN_EXE_sluice"))
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&without.stdout).unwrap();
    let found = |name: &str| {
        let one = list.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
        one["found"].as_str().unwrap().to_owned()
    };
    assert_eq!(found("capabilities"), "none that are of use");
    // Whoever it runs as.
    let pages = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    assert!(found("fs.pipe-user-pages-soft").starts_with(&format!("{} pages: ", pages.trim())), "{list:#}");
}

/// A daemon that logs in another form than the tests' own; lines that it wrote about one client.
fn lines_in_format(log: &str, count: usize) -> Vec<String> {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "one");
    let dir = support::TempDir::new();
    let root = dir.path().display();
    let config = format!(
        "[global]\nstatus-socket = \"{root}/s.sock\"\n[log]\n{log}\ntarget = \"{root}/log\"\n{}",
        CONFIG.replace("{ip}", &address.to_string())
    );
    std::fs::write(dir.path().join("c.toml"), config).unwrap();
    let mut child = support::sluice().arg("run").arg("-c").arg(dir.path().join("c.toml")).spawn().unwrap();
    let read = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    eventually("ready", || read().contains(" ready ").then_some(()));
    exchange((address, 443).into(), &client_hello(Some("a.shop.test"), &["h2"])).unwrap();
    let lines = eventually("the records", || {
        let text = read();
        let (_, records) = text.split_once(" ready ")?;
        let lines: Vec<String> = records.lines().skip(1).map(str::to_owned).collect();
        (lines.len() == count).then_some(lines)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn text_records_have_the_fields_of_the_contract_in_order() {
    let lines = lines_in_format("sessions = \"both\"", 2);
    let keys: Vec<&str> = lines[1].split(' ').filter_map(|pair| pair.split_once('=')).map(|(key, _)| key).collect();
    let want = "time session listener client destination sni alpn tls ja4 ech route pool backend tries hello_ms connect_ms \
                first_byte_ms duration_ms bytes_up bytes_down path_up path_down end blame code detail \
                pq hello_bytes hello_records hello_segments";
    assert_eq!(keys, want.split_whitespace().collect::<Vec<_>>());
    assert!(lines[0].contains(" end=- "), "{}", lines[0]);
    assert!(lines[1].contains(" sni=a.shop.test alpn=h2 tls=1.3 "), "{}", lines[1]);
    let hello = client_hello(Some("a.shop.test"), &["h2"]).len();
    let end =
        format!(" end=done blame=- code=-- detail=- pq=false hello_bytes={hello} hello_records=1 hello_segments=1");
    assert!(lines[1].ends_with(&end), "{}", lines[1]);
}

#[test]
fn tcplog_records_look_like_those_of_haproxy() {
    let line = lines_in_format("format = \"tcplog\"", 1).remove(0);
    let words: Vec<&str> = line.split(' ').collect();
    // client [date] frontend backend/server Tw/Tc/Tt bytes state conns queues
    assert_eq!(words.len(), 9, "{line}");
    assert!(words[0].parse::<std::net::SocketAddr>().is_ok(), "{line}");
    assert!(words[1].starts_with('[') && words[1].ends_with(']') && words[1].len() == 26, "{line}");
    assert!(words[2] == "tls" && words[3].starts_with("shop/127."), "{line}");
    assert_eq!(words[4].split('/').filter(|time| time.parse::<u64>().is_ok()).count(), 3, "{line}");
    assert_eq!((words[5], words[6], words[8]), ("3", "--", "0/0"), "{line}");
    assert_eq!(words[7].split('/').count(), 5, "{line}");
}
