//! HAProxy's runtime API on the status socket: conversation, columns, states, changes. HAProxy itself is asked the
//! same where both must say the same.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::support::runtime_api::{CONFIG, cell, say, start, stat, wait_for_cell};
use crate::support::servers::configured::Configured;
use crate::support::{Backend, Daemon, TempDir, connect, eventually, own_loopback};
use serde_json::Value;

/// HAProxy with a listener and a pool of the same names.
fn haproxy(dir: &TempDir) -> (Configured, PathBuf) {
    let (address, socket) = (own_loopback(), dir.path().join("haproxy.sock"));
    let _backend = Backend::echo((address, 1001));
    let sections = format!(
        "frontend web
            mode tcp
            bind {address}:443
            maxconn 200
            default_backend shop
        backend shop
            mode tcp
            balance leastconn
            server a {address}:1001 weight 100 check
            server b {address}:1002 weight 100 check maxconn 5
        global
            stats socket {} level admin",
        socket.display()
    );
    (Configured::haproxy(&sections, &[(address, 443).into()]), socket)
}

#[test]
fn messages_and_prompts_are_those_of_haproxy() {
    let dir = TempDir::new();
    let (_haproxy, oracle) = haproxy(&dir);
    let (_daemon, _backend, socket) = start("");
    for line in [
        "get weight shop/a",
        "  get \t weight  shop/a ",
        r"get weight shop/\a",
        "get weight shop/a\r",
        "get weight shop/none",
        "get weight none/a",
        "get weight shop",
        "get weight",
        "set weight shop/a",
        "set weight shop/a 50%;get weight shop/a",
        "set weight shop/a 30;get weight shop/a;get weight shop/b",
        "set weight shop/a 0%;get weight shop/a",
        "set weight shop/a 100",
        "set server",
        "set server a state ready",
        "set server shop/q state ready",
        "set server shop/a state",
        "set server shop/a state foo",
        "set server shop/a weight",
        "set server shop/a state drain",
        "set server shop/a state maint;set server shop/a state ready",
        "enable server",
        "enable server shop/a",
        "disable server shop",
        "disable server q/q",
        "disable server shop/q",
        "shutdown session",
        "shutdown session abc",
        "shutdown session 0x123",
        "shutdown sessions server",
        "shutdown sessions server shop/q",
        "shutdown sessions server shop/a",
        "clear counters",
        "clear counters all",
        "set timeout cli",
        "set timeout cli 10",
        "set timeout cli abc",
        "set timeout cli 0",
        "show backend",
        "show sess 0x12",
        "show stat nope 4 -1",
        "show errors nope",
        "show servers state nope",
        "show servers conn nope",
        "prompt;get weight shop/a;quit",
        "prompt\nget weight shop/a;get weight shop/b\nget weight x\nquit",
        "prompt\nset weight shop/a 70\nprompt\nget weight shop/a",
        "get weight shop/a\nget weight shop/b",
        "quit;get weight shop/a",
    ] {
        // What is not asked for by its name is nobody's session.
        if line == "shutdown session abc" {
            assert_eq!(say(&socket, line), "No such session (use 'show sess').\n\n");
            continue;
        }
        assert_eq!(say(&socket, line), say(&oracle, line), "{line:?}");
    }
    let version = say(&socket, "show version");
    let numbers: Vec<&str> = version.split('.').collect();
    assert!(numbers[0].parse::<u32>().unwrap() >= 2 && numbers[1].parse::<u32>().is_ok(), "{version}");
}

#[test]
fn columns_and_their_types_are_those_of_haproxy() {
    let dir = TempDir::new();
    let (_haproxy, oracle) = haproxy(&dir);
    let (_daemon, _backend, socket) = start("");
    let header = |socket: &Path| {
        let answer = say(socket, "show stat");
        let names = answer.lines().next().unwrap().to_owned();
        names.split(',').map(str::to_owned).take_while(|name| name != "-" && !name.is_empty()).collect::<Vec<_>>()
    };
    let ours = header(&socket);
    assert_eq!(ours.len(), 103);
    assert_eq!(ours, header(&oracle)[..ours.len()]);

    // `F.2.0.4.scur.1:MGP:u32:0`: whose, position and name; tags; type; value.
    let typed = |socket: &Path| -> HashMap<String, (String, String)> {
        let answer = say(socket, "show stat typed");
        let line = |line: &str| {
            let mut parts = line.splitn(4, ':');
            let path: Vec<&str> = parts.next().filter(|path| !path.is_empty())?.split('.').collect();
            Some((format!("{}.{}.{}", path[0], path[3], path[4]), (parts.next()?.to_owned(), parts.next()?.to_owned())))
        };
        answer.lines().filter_map(line).collect()
    };
    let (ours, theirs) = (typed(&socket), typed(&oracle));
    let mut both = 0;
    for (field, (tags, kind)) in &ours {
        let name = field.rsplit('.').next().unwrap();
        let Some((their_tags, their_kind)) = theirs.get(field) else { continue };
        both += 1;
        assert_eq!(kind, their_kind, "{field}");
        // HAProxy calls these differently from row to row.
        if !["act", "bck", "rate", "rate_max"].contains(&name) {
            assert_eq!(tags, their_tags, "{field}");
        }
    }
    assert!(both > 90, "{both} fields in common");

    for command in ["show servers state", "show servers conn"] {
        let words = |socket: &Path| -> Vec<String> {
            let answer = say(socket, command);
            let header = answer.lines().find(|line| line.starts_with('#')).unwrap().split('[').next().unwrap();
            header.split(' ').map(str::to_owned).collect()
        };
        assert_eq!(words(&socket), words(&oracle), "{command}");
    }
    let state = say(&socket, "show servers state shop");
    let line: Vec<&str> = state.lines().nth(3).unwrap().split(' ').collect();
    assert_eq!((line.len(), &line[1..4], line[5], line[10]), (25, &["shop", "2", "b"][..], "0", "8"), "{state}");

    let info = |socket: &Path| -> Vec<String> {
        let answer = say(socket, "show info");
        answer.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
    };
    let known = info(&oracle);
    let ours = info(&socket);
    assert!(ours.len() > 25 && ours.iter().all(|name| known.contains(name)), "{ours:?}");
}

#[test]
fn figures_can_be_read_as_telegraf_reads_them() {
    let (_daemon, _backend, socket) = start("");
    let texts = ["pxname", "svname", "status", "check_status", "last_chk", "check_desc", "mode", "addr", "algo"];
    let rows = stat(&socket, "");
    assert_eq!(rows.len(), 4);
    for row in &rows {
        for (column, value) in row.iter().filter(|(column, value)| {
            !value.is_empty() && !texts.contains(&column.as_str()) && column.as_str() != "lastsess"
        }) {
            assert!(value.parse::<u64>().is_ok(), "{column} is {value}");
        }
        assert!(row["svname"] == "FRONTEND" || row["lastsess"].parse::<i64>().is_ok(), "{row:?}");
    }
    let filtered = |arguments: &str| -> Vec<String> {
        stat(&socket, arguments).iter().map(|row| format!("{}/{}", row["pxname"], row["svname"])).collect()
    };
    assert_eq!(filtered("-1 1 -1"), ["web/FRONTEND"]);
    assert_eq!(filtered("shop 4 -1"), ["shop/a", "shop/b"]);
    assert_eq!(filtered("3 6 -1"), ["shop/a", "shop/b", "shop/BACKEND"]);
    assert_eq!(filtered("shop 4 2"), ["shop/b"]);
    assert_eq!(filtered("-1 4 -1 up"), ["shop/a"]);
    say(&socket, "disable server shop/b");
    assert_eq!(filtered("no-maint"), ["web/FRONTEND", "shop/a", "shop/BACKEND"]);

    let json: Value = serde_json::from_str(&say(&socket, "show stat json")).unwrap();
    let status = |row: &Value| {
        let mut fields = row.as_array().unwrap().iter();
        fields.find(|field| field["field"]["name"] == "status").unwrap()["value"]["value"].clone()
    };
    let seen: Vec<Value> = json.as_array().unwrap().iter().map(status).collect();
    assert_eq!(seen, ["OPEN", "UP", "MAINT", "UP"]);
    let info: Value = serde_json::from_str(&say(&socket, "show info json")).unwrap();
    assert_eq!(info[0]["value"]["value"], "sluice");
    assert!(say(&socket, "show stat desc").starts_with("'show stat' does not know"));
}

#[test]
fn states_are_in_haproxys_words_and_change_at_once() {
    let more = r#"
[pool.slow]
[[pool.slow.backend]]
name = "s"
address = "{ip}:1003"
[pool.slow.health]
check = "tcp"
fall = 100
fast-interval = "50ms"
interval = "50ms"
[pool.bare]
[[pool.bare.backend]]
name = "u"
address = "{ip}:1004"
"#;
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let mut slow = Backend::echo((address, 1003));
    let daemon = Daemon::start_on(address, &format!("{CONFIG}{more}"), "", |command| command);
    let socket = daemon.socket();
    let status = |pool, server| cell(&socket, pool, server, "status");
    assert_eq!((status("shop", "a"), status("shop", "b")), ("UP".to_owned(), "DOWN".to_owned()));
    assert_eq!((status("bare", "u"), status("slow", "s")), ("no check".to_owned(), "UP".to_owned()));
    wait_for_cell(&socket, ["shop", "a", "check_status"], "L4OK");
    wait_for_cell(&socket, ["shop", "b", "check_status"], "L4CON");
    assert_eq!(cell(&socket, "shop", "b", "check_desc"), "Layer4 connection problem");
    assert!(cell(&socket, "shop", "b", "last_chk").contains("Connection refused"));
    assert_eq!(cell(&socket, "shop", "b", "chkdown"), "1");

    for (word, shown) in [("drain", "DRAIN"), ("maint", "MAINT"), ("ready", "UP")] {
        assert_eq!(say(&socket, &format!("set server shop/a state {word}")), "\n");
        assert_eq!(status("shop", "a"), shown);
        assert_eq!(status("shop", "BACKEND"), if word == "ready" { "UP" } else { "DOWN" });
    }
    say(&socket, "set server shop/a weight 40%");
    assert_eq!(cell(&socket, "shop", "a", "weight"), "40");
    say(&socket, "set server shop/a weight 0");
    assert_eq!(status("shop", "a"), "DRAIN");
    let uid = nix::unistd::getuid().to_string();
    eventually("all five changes are in the log", || {
        (daemon.log().matches("operator changed backend").count() == 5).then_some(())
    });
    daemon.wait_for_log(&format!("\"uid\":{uid}"));

    slow.stop();
    eventually("it is on the way down", || {
        let status = status("slow", "s");
        let left: u32 = status.strip_prefix("UP ")?.strip_suffix("/100")?.parse().ok()?;
        (left < 100).then_some(())
    });
}

fn open_session(daemon: &Daemon) -> TcpStream {
    let mut stream = connect(daemon.at(443));
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream
}

#[track_caller]
fn is_ended(mut stream: TcpStream) {
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)), "the session goes on");
}

#[test]
fn sessions_are_listed_and_ended() {
    let (daemon, _backend, socket) = start("");
    let (one, two) = (open_session(&daemon), open_session(&daemon));
    let source = format!("src={} ", one.local_addr().unwrap());
    let list = say(&socket, "show sess");
    assert_eq!(list.lines().filter(|line| line.contains("fe=web be=shop srv=a")).count(), 2, "{list}");
    let line = list.lines().find(|line| line.contains(&source)).unwrap();
    let id = line.split(':').next().unwrap();
    assert_eq!(
        say(&socket, &format!("show sess {id}")).lines().next().unwrap().split(' ').nth(2),
        line.split(' ').nth(2)
    );
    assert_eq!(say(&socket, &format!("shutdown session {id}")), "\n");
    is_ended(one);
    assert_eq!(say(&socket, "shutdown sessions server shop/a"), "\n");
    is_ended(two);
    eventually("both records say so", || {
        let ends = daemon.records().iter().filter(|record| record["end"] == "killed").count();
        (ends == 2).then_some(())
    });
}

#[test]
fn cleared_counters_start_anew_here_and_nowhere_else() {
    let (daemon, _backend, socket) = start("");
    let session = open_session(&daemon);
    wait_for_cell(&socket, ["shop", "a", "smax"], "1");
    wait_for_cell(&socket, ["web", "FRONTEND", "smax"], "1");
    drop(session);
    wait_for_cell(&socket, ["shop", "a", "scur"], "0");
    eventually("the maximum is forgotten", || {
        say(&socket, "clear counters");
        (cell(&socket, "shop", "a", "smax") == "0").then_some(())
    });
    assert_eq!(cell(&socket, "shop", "a", "stot"), "1");
    say(&socket, "clear counters all");
    for (proxy, service) in [("shop", "a"), ("shop", "BACKEND"), ("web", "FRONTEND")] {
        assert_eq!(cell(&socket, proxy, service, "stot"), "0", "{proxy}/{service}");
    }
    let total = "sluice_backend_connections_total{pool=\"shop\",backend=\"a\"}";
    assert!((daemon.metric(total) - 1.0).abs() < 0.1);
    let _session = open_session(&daemon);
    wait_for_cell(&socket, ["shop", "a", "stot"], "1");
    assert!((daemon.metric(total) - 2.0).abs() < 0.1);
}

#[test]
fn refused_first_bytes_are_the_errors() {
    let more = r#"
[[listener]]
name = "tls"
bind = ["{ip}:444"]
pool = "shop"
"#;
    let (daemon, _backend, socket) = start(more);
    let _ = crate::support::exchange(daemon.at(444), b"GET / HTTP/1.0\r\n\r\n");
    let errors = eventually("the refusal is shown", || {
        let errors = say(&socket, "show errors tls");
        errors.contains("frontend tls").then_some(errors)
    });
    assert!(errors.starts_with("Total events captured on [") && errors.contains("] : 1\n"), "{errors}");
    assert!(errors.contains("not_tls") && errors.contains("  00000  474554202f"), "{errors}");
    assert!(say(&socket, "show errors web").contains("] : 0\n"));
    wait_for_cell(&socket, ["tls", "FRONTEND", "ereq"], "1");
}

/// A backend that reads once and answers like this.
fn answering(address: SocketAddr, answer: &'static str) -> Backend {
    Backend::start(address, move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

#[test]
fn results_of_checks_have_haproxys_codes() {
    let address = own_loopback();
    let at = |port: u16| SocketAddr::from((address, port));
    let silent = |port| Backend::start(at(port), |mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let _deaf = crate::support::deaf(at(1001));
    let _backends = [
        answering(at(1002), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        answering(at(1003), "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        answering(at(1004), "220 mail\r\n"),
        silent(1005),
        silent(1006),
        answering(at(1007), "+PONG\r\n"),
    ];
    let checks = [
        (1001, "check = \"tcp\"", "L4TOUT"),
        (1002, "check = \"http\"", "L7OK"),
        (1003, "check = \"http\"", "L7STS"),
        (1004, "check = \"redis\"", "L7RSP"),
        (1005, "check = \"redis\"", "L7TOUT"),
        (1006, "check = \"tls-hello\"", "L6TOUT"),
        (1004, "check = \"tls-hello\"", "L6RSP"),
        (1008, "check = \"tls-hello\"", "L4CON"),
        (1007, "check = \"redis\"", "L7OK"),
        (1007, "check = \"exec\"\ncommand = [\"/bin/true\"]", "PROCOK"),
        (1007, "check = \"exec\"\ncommand = [\"/bin/false\"]", "PROCERR"),
        (1007, "check = \"exec\"\ncommand = [\"/bin/sleep\", \"9\"]", "PROCTOUT"),
    ];
    let mut config = CONFIG.replace("1001", "1009");
    for (number, (port, check, _)) in checks.iter().enumerate() {
        writeln!(config, "[pool.c{number}]\nbackends = [\"{{ip}}:{port}\"]").unwrap();
        writeln!(config, "[pool.c{number}.health]\n{check}\ninterval = \"100ms\"\ntimeout = \"400ms\"").unwrap();
    }
    let daemon = Daemon::start_on(address, &config, "", |command| command);
    let socket = daemon.socket();
    for (number, (port, _, code)) in checks.iter().enumerate() {
        let (pool, server) = (format!("c{number}"), at(*port).to_string());
        wait_for_cell(&socket, [&pool, &server, "check_status"], code);
        let passed = cell(&socket, &pool, &server, "check_desc").ends_with("passed");
        assert_eq!(passed, code.ends_with("OK"), "{code}");
    }
}
