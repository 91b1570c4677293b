//! Who waits for a place when an upgrade comes waits on in the new process: with the same turn, and until the same moment.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::Program;
use crate::support::counting::Counting;
use crate::support::hello::client_hello;
use crate::support::line::{
    ONE, client, config, end, ends, greeted, is_unserved, line, reset, start, wait_for_waiting, waiting,
};
use crate::support::{Backend, Daemon, alert_of, connect, eventually, own_loopback};

fn queued(daemon: &Daemon) -> f64 {
    daemon.metric("sluice_pool_queued_total{pool=\"p\"}")
}

#[test]
fn the_line_keeps_its_order_over_upgrades_and_who_comes_later_stands_behind_it() {
    let (daemon, backends) = start(&config(ONE));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let mut all = line(&daemon, 443, 16);
    for round in 0..6 {
        let done = daemon.upgrade();
        assert_eq!(done["sessions"], 1 + all.len(), "{done}");
        assert_eq!(waiting(&daemon), all.len() as u64);
        assert!(is_unserved(&all[0]), "its turn has not come");
        all.push(client(daemon.at(443)));
        wait_for_waiting(&daemon, all.len() as u64);
        // Two from the front, one that leaves in between.
        for _ in 0..2 {
            let next = all.remove(0);
            end(served);
            greeted(&next);
            assert!(all.iter().all(is_unserved), "round {round}");
            served = next;
        }
        reset(all.remove(1));
        wait_for_waiting(&daemon, all.len() as u64);
    }
    for next in all {
        end(served);
        greeted(&next);
        served = next;
    }
    end(served);
    assert_eq!(backends.all().most(), 1);
    assert_eq!(queued(&daemon), 22.0, "each counts once");
    ends(&daemon, 6, "client_gone");
    let records = ends(&daemon, 17, "done");
    assert!(records.iter().all(|record| record["backend"] == "b" && record["tries"] == 1), "{records:#?}");
}

#[test]
fn time_is_over_at_the_same_moment_and_the_client_is_told() {
    let (daemon, _backends) = start(&config("max-connections = 1\nqueue-timeout = \"3s\""));
    let served = client(daemon.at(443));
    greeted(&served);
    let (mut first, second) = (client(daemon.at(443)), client(daemon.at(443)));
    let begun = Instant::now();
    wait_for_waiting(&daemon, 2);
    let session = eventually("it is listed", || {
        let sessions = daemon.ask("sessions", &json!({}))["result"].clone();
        let port = second.local_addr().unwrap().to_string();
        sessions.as_array()?.iter().find(|session| session["client"] == port).map(|one| one["session"].clone())
    });
    daemon.upgrade();
    let killed = daemon.cli(&["kill", session.as_str().unwrap()]);
    assert!(killed.status.success(), "{killed:?}");
    ends(&daemon, 1, "killed");
    let mut answer = Vec::new();
    first.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(80), "{answer:x?}");
    assert!(begun.elapsed() > Duration::from_millis(2800), "{:?}", begun.elapsed());
    let record = &ends(&daemon, 1, "queue_timeout")[0];
    let took = record["duration_ms"].as_f64().unwrap();
    assert!((2900.0..8000.0).contains(&took), "{record}");
    assert!(record["detail"].as_str().unwrap().contains("no place of pool p became free in 3000 ms"), "{record}");
    end(served);
}

/// A backend that sends everything back, asked for TLS first where the client of a database was.
fn echo_after_consent(at: SocketAddr) -> Backend {
    Backend::start(at, |mut stream| {
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(b"S").unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(&mut stream, &mut copy);
    })
}

#[test]
fn what_was_said_before_and_meanwhile_arrives_once_and_whole() {
    let address = own_loopback();
    let _echo = Backend::echo((address, 1001));
    let _database = echo_after_consent((address, 1002).into());
    let body = |name: &str, port: u16, protocol: &str, more: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nbind = [\"{{ip}}:{port}\"]\npool = \"{name}\"\n\
             [pool.{name}]\nmax-connections = 1\nqueue-timeout = \"20s\"\npassive.failures = 0\n{more}\n"
        )
    };
    let body = [
        body("plain", 444, "tcp", "backends = [\"{ip}:1001\"]"),
        body("named", 443, "tls", "backends = [\"{ip}:1001\"]\nsend-proxy = \"v2\""),
        // More than one pool, so that hellos are read.
        body("database", 445, "postgres", "backends = [\"{ip}:1002\"]"),
        "[[listener.route]]\nsni = [\"other.test\"]\npool = \"plain\"\n".to_owned(),
    ];
    let body = format!("{}{}{}", body[0], body[1], body[2].replace("[pool.", &format!("{}[pool.", body[3])));
    let daemon = Daemon::start_on(address, &body, "workers = 2\n", |command| command);
    let hello = client_hello(Some("any.test"), &["h2"]);
    let speak = |port: u16| {
        let mut stream = connect(daemon.at(port));
        if port == 445 {
            stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
            let mut consent = [0];
            stream.read_exact(&mut consent).unwrap();
            assert_eq!(&consent, b"S");
        }
        stream.write_all(&hello).unwrap();
        stream
    };
    let hear = |stream: &mut TcpStream, port: u16, want: &[u8]| {
        let mut answer = vec![0; want.len() + usize::from(port == 443) * 16];
        stream.read_exact(&mut answer).unwrap();
        if port == 443 {
            assert_eq!(&answer[..12], b"\r\n\r\n\0\r\nQUIT\n");
            let length = usize::from(u16::from_be_bytes([answer[14], answer[15]]));
            answer.resize(16 + length + want.len(), 0);
            stream.read_exact(&mut answer[16 + want.len()..]).unwrap();
            answer.drain(..16 + length);
        }
        assert_eq!(answer, want, "port {port}");
    };
    let pairs: Vec<(u16, TcpStream, TcpStream)> = [443, 444, 445]
        .map(|port| {
            let mut served = speak(port);
            hear(&mut served, port, &hello);
            (port, served, speak(port))
        })
        .into();
    let all_wait = || {
        let pools = daemon.json("/v1/status")["pools"].clone();
        pools.as_array().unwrap().iter().all(|pool| pool["waiting"] == 1).then_some(())
    };
    eventually("one waits in each pool", all_wait);
    for (_, _, waiting) in &pairs {
        let mut waiting: &TcpStream = waiting;
        waiting.write_all(b"said while waiting").unwrap();
    }
    daemon.upgrade();
    eventually("they still do", all_wait);
    for (port, served, mut waiting) in pairs {
        waiting.write_all(b" and after").unwrap();
        drop(served);
        hear(&mut waiting, port, &[&hello[..], b"said while waiting and after"].concat());
    }
}

#[test]
fn an_upgrade_that_fails_leaves_the_line_as_it_is() {
    let program = Program::new();
    let address = own_loopback();
    let backends = Counting::start(&[(address, 1001).into()]);
    let daemon = Daemon::start_on(address, &config(ONE), "workers = 2\n", |command| program.start(command));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let all = line(&daemon, 443, 8);
    for mode in [json!(["die", "sessions"]), json!(["die", "handed"]), json!(["die", "go"]), json!(["mute", "handed"])]
    {
        program.play(&mode);
        assert_eq!(daemon.ask("upgrade", &json!({}))["error"]["code"], "upgrade_failed", "{mode}");
        assert_eq!(waiting(&daemon), 8, "{mode}");
    }
    program.put_back();
    for next in all {
        assert!(is_unserved(&next));
        end(served);
        greeted(&next);
        served = next;
    }
    assert_eq!((waiting(&daemon), backends.all().most()), (0, 1));
}

#[test]
fn who_joins_the_line_late_or_finds_the_pool_gone_is_served_or_told() {
    let (daemon, _backends) = start(&config(ONE));
    let served = client(daemon.at(443));
    greeted(&served);
    let first = line(&daemon, 443, 1).remove(0);
    // Half a hello: its set-up is finished by the process before.
    let hello = client_hello(Some("any.test"), &[]);
    let mut late = connect(daemon.at(443));
    late.write_all(&hello[..30]).unwrap();
    let connections = || daemon.json("/v1/status")["connections"].as_u64();
    eventually("it is there", || (connections() == Some(3)).then_some(()));
    daemon.upgrade();
    late.write_all(&hello[30..]).unwrap();
    wait_for_waiting(&daemon, 2);
    end(served);
    greeted(&first);
    assert!(is_unserved(&late));
    end(first);
    greeted(&late);
    // The new configuration has another pool in its place.
    let mut waiting = client(daemon.at(443));
    wait_for_waiting(&daemon, 1);
    daemon.write_config(
        &config(ONE).replace("[pool.p", "[pool.q").replace("[[pool.p", "[[pool.q").replace("\"p\"", "\"q\""),
        "workers = 2\n",
    );
    daemon.upgrade();
    let mut answer = Vec::new();
    waiting.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(80), "{answer:x?}");
    let record: Value = ends(&daemon, 1, "no_backend").remove(0);
    assert_eq!(record["detail"], "pool p is gone from the configuration");
    late.shutdown(Shutdown::Write).unwrap();
}

/// Without descriptors for copies of those who wait, and with a new process that dies, nothing is lost either.
#[test]
fn who_cannot_be_copied_waits_on_when_the_upgrade_fails() {
    let program = Program::new();
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into()]);
    let daemon = Daemon::start_on(address, &config(ONE), "workers = 2\n", |command| program.start(command));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let all = line(&daemon, 443, 60);
    let allow = |descriptors: usize| {
        let limit = format!("--nofile={descriptors}:20000");
        let pid = daemon.pid().to_string();
        assert!(Command::new("/usr/bin/prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    program.play(&json!(["die", "handed"]));
    // Enough to start a process and to hand over listening sockets, but not for sixty more.
    allow(daemon.descriptors() + 40);
    assert_eq!(daemon.ask("upgrade", &json!({}))["error"]["code"], "upgrade_failed");
    daemon.wait_for_log("a session that waits for a place cannot be handed over");
    allow(20_000);
    assert_eq!(waiting(&daemon), 60);
    for next in all {
        assert!(is_unserved(&next));
        end(served);
        greeted(&next);
        served = next;
    }
    program.put_back();
    daemon.upgrade();
}
