//! Reload: sessions run on, what stays keeps its state, a bad file changes nothing.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::hello::client_hello;
use crate::support::{Backend, DEADLINE, Daemon, connect, deaf, eventually, exchange, own_loopback};
use nix::sys::signal::Signal;
use serde_json::json;

const ONE: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
interval = "100ms"
"#;

const TWO: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "b"
[[listener]]
name = "more"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
[pool.a.health]
check = "tcp"
interval = "100ms"
[pool.b]
backends = ["{ip}:1002"]
[pool.b.health]
check = "tcp"
interval = "100ms"
"#;

pub fn hello() -> Vec<u8> {
    client_hello(Some("any.test"), &[])
}

/// Says something over an open session and expects it back.
#[track_caller]
pub fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text);
}

#[test]
fn two_hundred_reloads_under_load_break_nothing() {
    let address = own_loopback();
    let (_a, _b) = (Backend::echo((address, 1001)), Backend::echo((address, 1002)));
    let daemon = Daemon::start_on(address, ONE, "workers = 2\n", |command| command);

    let target = daemon.at(443);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut long_lived: Vec<TcpStream> = (0..20).map(|_| connect(target)).collect();
    for stream in &mut long_lived {
        echoes(stream, &hello());
    }
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut stream = connect(target);
                    echoes(&mut stream, &hello());
                    echoes(&mut stream, b"and more");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..200 {
        daemon.write_config(if round % 2 == 0 { TWO } else { ONE }, "workers = 2\n");
        daemon.reload();
        let before = done.load(Ordering::SeqCst);
        eventually("traffic goes on", || (done.load(Ordering::SeqCst) > before).then_some(()));
    }
    for stream in &mut long_lived {
        echoes(stream, b"still here after 200 reloads");
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("no client failed");
    }
    assert_eq!(daemon.metric("sluice_config_generation"), 201.0);
    assert_eq!(daemon.metric("sluice_reloads_total{result=\"ok\"}"), 200.0);
    drop(long_lived);
    let total = done.load(Ordering::SeqCst) as usize + 20;
    let records = daemon.wait_for_records(total);
    assert_eq!(records.len(), total, "one record for every connection");
    let odd: Vec<_> = records.iter().filter(|record| record["end"] != "done").collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn bad_file_changes_nothing_and_says_so() {
    let address = own_loopback();
    let _a = Backend::naming((address, 1001), "a");
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    daemon.write_config(&ONE.replace("pool = \"a\"", "pool = \"nowhere\""), "");

    let output = daemon.cli(&["reload", "--wait"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("pool `nowhere` of listener `tls` does not exist"), "{message}");
    assert_eq!(daemon.metric("sluice_config_last_reload_successful"), 0.0);
    assert_eq!(daemon.metric("sluice_config_generation"), 1.0);
    daemon.wait_for_log("reload changed nothing");
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a");

    daemon.write_config("\n[[listener\n", "");
    daemon.signal(Signal::SIGHUP);
    eventually("the second failure is counted", || {
        (daemon.metric("sluice_reloads_total{result=\"failed\"}") == 2.0).then_some(())
    });
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a");

    daemon.write_config(ONE, "");
    daemon.reload();
    assert_eq!(daemon.metric("sluice_config_last_reload_successful"), 1.0);
}

#[test]
fn taken_port_changes_nothing() {
    let address = own_loopback();
    let _a = Backend::naming((address, 1001), "a");
    let taken = Backend::naming((address, 444), "somebody else");
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    daemon.write_config(TWO, "");
    let output = daemon.cli(&["reload", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(&format!("listener more cannot bind {}", daemon.at(444))), "{message}");
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a", "the old routes stand");
    assert_eq!(exchange(taken.address, b"x").unwrap(), b"somebody else");
}

#[test]
fn listeners_come_and_go_by_reload() {
    let address = own_loopback();
    let (_a, _b) = (Backend::naming((address, 1001), "a"), Backend::naming((address, 1002), "b"));
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a");
    assert!(exchange(daemon.at(444), b"x").is_err());
    daemon.write_config(TWO, "");
    daemon.reload();
    daemon.wait_for_state(&daemon.at(1002).to_string(), "up");
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"b", "the listener that stays has the new routes");
    assert_eq!(exchange(daemon.at(444), b"x").unwrap(), b"a");
    daemon.write_config(ONE, "");
    daemon.reload();
    eventually("the removed listener is closed", || exchange(daemon.at(444), b"x").is_err().then_some(()));
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a");
}

#[test]
fn wildcard_may_give_way_to_one_of_its_addresses() {
    let address = own_loopback();
    let _a = Backend::naming((address, 1001), "a");
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let wild = ONE.replace("{ip}:443", &format!("0.0.0.0:{port}"));
    let daemon = Daemon::start_on(address, &wild, "", |command| command);
    assert_eq!(exchange(daemon.at(port), &hello()).unwrap(), b"a");
    daemon.write_config(&ONE.replace("{ip}:443", &format!("{{ip}}:{port}")), "");
    daemon.reload();
    assert_eq!(exchange(daemon.at(port), &hello()).unwrap(), b"a");
    eventually("the wildcard is closed", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()));
}

#[test]
fn reload_asked_for_while_starting_waits_its_turn() {
    let address = own_loopback();
    let _a = Backend::naming((address, 1001), "a");
    // A backend that does not answer its first check keeps the start waiting for a second.
    let _silent = deaf((address, 1002));
    let slow = ONE.replace("[\"{ip}:1001\"]", "[\"{ip}:1001\", \"{ip}:1002\"]");
    let begun = std::time::Instant::now();
    let daemon = Daemon::start_unready(address, &slow, "");
    daemon.signal(Signal::SIGHUP);
    // Counted after the new generation can be seen.
    eventually("the reload is counted", || {
        daemon.get("/metrics")?.1.contains("sluice_reloads_total{result=\"ok\"} 1").then_some(())
    });
    assert!(begun.elapsed() >= std::time::Duration::from_millis(900), "the start waited for the first check");
    assert_eq!(daemon.metric("sluice_config_generation"), 2.0);
    assert_eq!(exchange(daemon.at(443), &hello()).unwrap(), b"a");
}

#[test]
fn counts_health_and_overrides_of_unchanged_backends_carry_over() {
    let address = own_loopback();
    let (_a, _b) = (Backend::echo((address, 1001)), Backend::echo((address, 1002)));
    let daemon = Daemon::start_on(address, TWO, "", |command| command);
    let mut open = connect(daemon.at(443));
    echoes(&mut open, &hello());
    let path = format!("a/{}", daemon.at(1001));
    assert_eq!(daemon.ask("drain", &json!({ "backend": path }))["result"]["state"], "draining");
    let of = |pool: &str| daemon.ask("backends", &json!({ "pool": pool }))["result"][0].clone();
    let before = of("b");
    assert_eq!((&before["active"], &before["total"]), (&json!(1), &json!(1)));

    daemon.write_config(&TWO.replace("name = \"more\"", "name = \"renamed\""), "");
    daemon.reload();
    let after = of("b");
    for key in ["active", "total", "state", "since"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let drained = of("a");
    assert_eq!(drained["state"], "draining");
    assert_eq!(drained["override"]["state"], "drain");
    assert_eq!(drained["override"]["by_uid"], nix::unistd::geteuid().as_raw());
    echoes(&mut open, b"still open");
    assert_eq!(daemon.ask("enable", &json!({ "backend": path }))["result"]["state"], "up");
    assert_eq!(of("a")["override"], json!(null));
    assert_eq!(daemon.ask("drain", &json!({ "backend": "a/none" }))["error"]["code"], "no_such_backend");
}

#[test]
fn sessions_of_removed_backends_are_kept_drained_or_closed() {
    for (word, survives) in [("keep", true), ("close", false), ("drain", false)] {
        let address = own_loopback();
        let (_a, _b) = (Backend::echo((address, 1001)), Backend::echo((address, 1002)));
        let global = format!("removed-sessions = \"{word}\"\nshutdown-grace = \"200ms\"\n");
        let daemon = Daemon::start_on(address, ONE, &global, |command| command);
        let mut open = connect(daemon.at(443));
        echoes(&mut open, &hello());
        daemon.write_config(&ONE.replace("{ip}:1001", "{ip}:1002"), &global);
        daemon.reload();
        if survives {
            echoes(&mut open, b"kept");
        } else {
            let mut rest = [0; 1];
            assert!(open.read(&mut rest).is_err(), "{word}: reset");
            assert_eq!(daemon.wait_for_records(1)[0]["end"], "drained");
        }
    }
}

#[test]
fn sessions_of_removed_routes_are_kept_drained_or_closed() {
    let routed = |names: &str, own: &str| {
        format!(
            "[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\n{own}\n[[listener.route]]\nsni = [{names}]\npool = \"p\"\n\
             [[listener.route]]\nsni = [\"other.test\"]\npool = \"p\"\n[pool.p]\nbackends = [\"{{ip}}:1001\"]\n"
        )
    };
    let own = "pool = \"p\"";
    let before = routed("\"a.test\", \"b.test\"", own);
    // Lines move, and the first rule takes another's place: what counts is what a rule says.
    let without_rule = format!("\n\n{}", routed("\"b.test\"", own));
    let without_own = format!("\n{}", routed("\"a.test\", \"b.test\"", ""));
    // The order in a list says nothing; another pool is another route.
    let same = routed("\"b.test\", \"a.test\"", own);
    let other_own =
        format!("{}[pool.q]\nbackends = [\"{{ip}}:1001\"]\n", routed("\"b.test\", \"a.test\"", "pool = \"q\""));
    for (word, ends) in [("keep", false), ("close", true), ("drain", true)] {
        for (after, ended, by_upgrade) in [
            (&without_rule, "a.test", false),
            (&without_own, "none.test", false),
            (&other_own, "none.test", false),
            (&same, "nobody", false),
            (&without_rule, "a.test", true),
        ] {
            let ends = ends && ended != "nobody";
            let address = own_loopback();
            let _backend = Backend::echo((address, 1001));
            let global = format!("removed-sessions = \"{word}\"\nshutdown-grace = \"200ms\"\n");
            let daemon = Daemon::start_on(address, &before, &global, |command| command);
            let mut open = ["a.test", "other.test", "none.test"].map(|name| {
                let mut stream = connect(daemon.at(443));
                echoes(&mut stream, &client_hello(Some(name), &[]));
                (name, stream)
            });
            daemon.write_config(after, &global);
            if by_upgrade {
                daemon.upgrade();
            } else {
                daemon.reload();
            }
            for (name, stream) in &mut open {
                if ends && *name == ended {
                    assert!(stream.read(&mut [0; 1]).is_err(), "{word}: reset");
                }
            }
            for (name, stream) in &mut open {
                if !ends || *name != ended {
                    echoes(stream, b"goes on");
                }
            }
            if ends {
                let records = daemon.wait_for_records(1);
                assert_eq!(
                    (records.len(), &records[0]["end"], &records[0]["sni"]),
                    (1, &json!("drained"), &json!(ended))
                );
            }
        }
    }
}

#[test]
fn a_session_in_its_hello_does_not_outlive_its_route() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let global = "removed-sessions = \"close\"\n";
    let body = |name: &str| {
        format!(
            "[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\nhello-timeout = \"3s\"\n[[listener.route]]\n\
             sni = [\"{name}\"]\npool = \"p\"\n[pool.p]\nbackends = [\"{{ip}}:1001\"]\n"
        )
    };
    let daemon = Daemon::start_on(address, &body("a.test"), global, |command| command);
    let mut stream = connect(daemon.at(443));
    let hello = client_hello(Some("a.test"), &[]);
    stream.write_all(&hello[..hello.len() / 2]).unwrap();
    eventually("it is accepted", || (daemon.metric("sluice_connections_active") == 1.0).then_some(()));
    daemon.write_config(&body("b.test"), global);
    daemon.reload();
    // It is routed as it was when it came, and ends once nobody can be in a hello of that time any more.
    stream.write_all(&hello[hello.len() / 2..]).unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "reset");
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "drained");
}

#[test]
fn reloads_asked_for_while_one_runs_become_one_that_reads_the_last_file() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, ONE, "", |command| command);
    let body = |pool: &str| ONE.replace("pool.a", &format!("pool.{pool}")).replace("\"a\"", &format!("\"{pool}\""));
    let file = daemon.dir().join("sluice.toml");
    daemon.write_config(&body("first"), "");
    let first = std::fs::read_to_string(&file).unwrap();
    // A pipe holds the first one up until the test has written it.
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = daemon.dir().join("pipe");
    std::fs::hard_link(&file, &pipe).unwrap();
    let before = daemon.metric("sluice_config_generation");
    let ask = || {
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(b"{\"method\":\"reload\"}\n").unwrap();
        BufReader::new(client)
    };
    let mut asking = vec![ask()];
    // Opened for writing only once somebody reads.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    daemon.write_config(&body("last"), "");
    asking.extend((0..50).map(|_| ask()));
    // Whoever comes later is answered later, so that all have been read by then.
    daemon.json("/v1/status");
    daemon.json("/v1/status");
    writer.write_all(first.as_bytes()).unwrap();
    drop(writer);
    for mut client in asking {
        let mut answer = String::new();
        client.read_line(&mut answer).unwrap();
        assert!(answer.contains("\"ok\":true"), "{answer}");
    }
    assert_eq!(daemon.metric("sluice_config_generation") - before, 2.0, "one for the first, one for the others");
    assert!(daemon.get("/v1/config").unwrap().1.contains("[pool.last]"));
}
