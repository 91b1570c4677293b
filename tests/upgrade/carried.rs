//! What goes over: sessions, counters, health, words, connections that come meanwhile.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::bulk::Bulk;
use crate::scene::{CONFIG, Scene, all_echo, counters, echoes, says, seen, sessions};
use crate::support::hello::client_hello;
use crate::support::{Backend, Daemon, connect, deaf, eventually, exchange, own_loopback};

#[test]
fn everything_goes_on_where_it_was() {
    let scene = Scene::start("");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 40);
    // Something to remember: a record of the log, a refused hello, an operator's word, a reload, an event.
    drop(open.pop());
    daemon.wait_for_records(1);
    assert!(exchange(daemon.at(443), b"no hello").is_ok_and(|answer| answer.len() < 10));
    let path = format!("a/{}", daemon.at(1002));
    assert_eq!(daemon.ask("drain", &json!({ "backend": path }))["result"]["state"], "draining");
    daemon.reload();
    // Sessions that go on tell their bytes once a second.
    let bytes = 20 * (client_hello(Some("a.test"), &["h2"]).len() + 1);
    eventually("all bytes are counted", || {
        (daemon.metric("sluice_relay_bytes_total{path=\"copy\",direction=\"up\"}") >= bytes as f64).then_some(())
    });
    let (before, counted) = (seen(daemon), counters(daemon));

    let done = daemon.upgrade();
    assert_eq!(done["sessions"], 39, "{done}");
    let (after, counted_now) = (seen(daemon), counters(daemon));
    for what in ["backends", "sessions", "events", "refused"] {
        assert_eq!(before[what], after[what], "{what}");
    }
    for (name, count) in &counted {
        assert_eq!(counted_now.get(name), Some(count), "{name}");
    }
    assert_eq!(daemon.json("/v1/status")["generation"], 3, "start, reload, upgrade");
    all_echo(&mut open, b"and on");
    // The drained one gets nothing new, the other does.
    says(daemon, 444, b"x");
    let row = |daemon: &Daemon| daemon.ask("backends", &json!({ "pool": "a" }))["result"][1].clone();
    assert_eq!((&row(daemon)["state"], &row(daemon)["active"]), (&json!("draining"), &before["backends"][1]["active"]));
    drop(open);
    let records = daemon.wait_for_records(42);
    assert!(records.iter().filter(|record| record["end"] == "done").count() >= 41, "{records:#?}");
    eventually("every place is given back", || (row(daemon)["active"] == 0).then_some(()));
}

#[test]
fn bulk_and_new_connections_never_notice() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let mut bulks: Vec<Bulk> = (0..4).map(|_| Bulk::start(daemon)).collect();
    let mut open = sessions(daemon, 60);
    let over = AtomicBool::new(false);
    let connected = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0_u32;
                    while !over.load(Ordering::SeqCst) {
                        says(daemon, 444, b"hello there");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..25 {
            daemon.upgrade();
            bulks.iter_mut().for_each(Bulk::goes_on);
            open.iter_mut().step_by(10).for_each(|session| echoes(session, b"again"));
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>()
    });
    let wrong: Vec<usize> = bulks.iter_mut().map(Bulk::end).collect();
    assert_eq!(wrong, [0; 4]);
    eprintln!("{connected} connections meanwhile");
    all_echo(&mut open, b"all of them");
    let total = daemon.metric("sluice_listener_connections_total{listener=\"plain\"}");
    assert_eq!(total, f64::from(connected) + 4.0 + 30.0, "every connection is counted once");
    assert!(
        daemon.metric("sluice_relay_bytes_total{path=\"splice\",direction=\"up\"}") > 0.0,
        "pipes were handed over too"
    );
}

/// Clients that have sent half of a hello, which they may take long for.
fn halves(daemon: &Daemon, hello: &[u8], count: usize) -> Vec<TcpStream> {
    let half = |_| {
        let mut stream = connect(daemon.at(443));
        stream.write_all(&hello[..50]).unwrap();
        stream
    };
    let halves = (0..count).map(half).collect();
    eventually("all are there", || {
        let active = daemon.metric("sluice_listener_connections_active{listener=\"tls\"}");
        (active > count as f64 - 0.5).then_some(())
    });
    halves
}

fn patient() -> Scene {
    let config = CONFIG.replacen("pool = \"a\"", "pool = \"a\"\nhello-timeout = \"30s\"", 1);
    Scene::start_with(&config, "")
}

#[test]
fn sessions_that_are_still_set_up_follow() {
    let scene = patient();
    let daemon = &scene.daemon;
    let hello = client_hello(Some("a.test"), &["h2"]);
    let mut halves = halves(daemon, &hello, 10);
    let old = daemon.pid();
    assert_eq!(daemon.upgrade()["sessions"], 0);
    // Longer than any step of an upgrade may take: the new process waits for them.
    thread::sleep(Duration::from_secs(6));
    for half in &mut halves {
        half.write_all(&hello[50..]).unwrap();
        let mut back = vec![0; hello.len()];
        half.read_exact(&mut back).unwrap();
        assert_eq!(back, hello);
    }
    eventually("the process before has ended", || {
        daemon.log().contains("the process before has ended\",\"late\":10").then_some(())
    });
    assert_ne!(old, daemon.pid());
    all_echo(&mut halves, b"over there");
    let active = |row: &Value| row["active"].as_u64().unwrap();
    assert_eq!(daemon.json("/v1/backends").as_array().unwrap().iter().map(active).sum::<u64>(), 10);
    let name = "sluice_pool_connections_total{pool=\"a\"}";
    assert_eq!(daemon.metric(name), 10.0, "what was counted last has come as well");
}

#[test]
fn sessions_that_are_connecting_find_a_backend_and_follow() {
    let config = CONFIG.replacen("backends = [\"{ip}:1001\", \"{ip}:1002\"]", "connect-timeout = \"3s\"", 1);
    let (pool, check) = config.split_once("[pool.a.health]").unwrap();
    let backends = "[[pool.a.backend]]\nname = \"deaf\"\naddress = \"{ip}:1009\"\n\
                    [[pool.a.backend]]\naddress = \"{ip}:1001\"\nbackup = true\n";
    assert!(check.contains("tcp"), "checked by connecting, which would find it out");
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let _deaf = deaf((address, 1009));
    let daemon = Daemon::start_on(address, &format!("{pool}{backends}"), "workers = 2\n", |command| command);
    let mut waiting: Vec<TcpStream> = (0..6).map(|_| connect(daemon.at(444))).collect();
    let connecting = || daemon.json("/v1/backends")[0]["active"].as_u64() == Some(6);
    eventually("all try the one that does not answer", || connecting().then_some(()));
    let old = daemon.pid();
    assert_eq!(daemon.upgrade()["sessions"], 0);
    all_echo(&mut waiting, b"the other one");
    assert_ne!(old, daemon.pid());
    drop(waiting);
    let records = daemon.wait_for_records(6);
    assert!(records.iter().all(|record| record["end"] == "done" && record["tries"] == 2), "{records:#?}");
}

#[test]
fn sessions_whose_set_up_takes_too_long_end_and_say_so() {
    let config = CONFIG.replacen("pool = \"a\"", "pool = \"a\"\nhello-timeout = \"5m\"", 1);
    let scene = Scene::start_with(&config, "");
    let daemon = &scene.daemon;
    let hello = client_hello(Some("a.test"), &["h2"]);
    let mut half = halves(daemon, &hello, 1).remove(0);
    daemon.upgrade();
    let begun = Instant::now();
    half.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let end = half.read(&mut [0; 8]);
    assert!(
        matches!(end, Ok(0)) || end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
    let record = eventually("its record", || daemon.records().into_iter().find(|record| record["end"] == "shutdown"));
    assert_eq!(record["listener"], "tls");
}

#[test]
fn a_word_to_the_process_before_is_for_the_one_that_goes_on() {
    let scene = patient();
    let daemon = &scene.daemon;
    let hello = client_hello(Some("a.test"), &["h2"]);
    let halves = halves(daemon, &hello, 1);
    let old = daemon.pid();
    daemon.upgrade();
    kill(old, Signal::SIGTERM).unwrap();
    eventually("the new process stops", || TcpStream::connect(daemon.at(444)).is_err().then_some(()));
    daemon.wait_for_log("passed on to the process that took over");
    drop(halves);
    eventually("and ends", || (!daemon.socket().exists()).then_some(()));
}

#[test]
fn another_configuration_comes_into_force_with_it() {
    let scene = Scene::start("workers = 1\nremoved-sessions = \"close\"\n");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 20);
    let gone = daemon.at(1002).to_string();
    let backends = daemon.json("/v1/backends");
    let left = backends[0]["active"].as_u64().unwrap() as usize;
    let config = CONFIG.replace(", \"{ip}:1002\"", "").replace("{ip}:444\"", "{ip}:444\", \"{ip}:445\"");
    daemon.write_config(&config, "workers = 3\nremoved-sessions = \"close\"\n");
    assert_eq!(daemon.upgrade()["sessions"], 20);
    let alive = eventually("sessions of the removed backend end", || {
        let mut alive = 0;
        for session in &mut open {
            session.set_nonblocking(true).unwrap();
            let ended = matches!(session.peek(&mut [0]), Ok(0))
                || session.peek(&mut [0]).is_err_and(|e| e.kind() != ErrorKind::WouldBlock);
            session.set_nonblocking(false).unwrap();
            alive += usize::from(!ended);
        }
        (alive == left).then_some(alive)
    });
    assert!(alive > 0 && alive < 20, "{alive}");
    assert!(daemon.records().iter().all(|record| record["backend"] != *gone || record["end"] == "drained"));
    says(daemon, 445, b"the new address");
    assert_eq!(daemon.json("/v1/status")["workers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_thousand_sessions_stand_still_for_a_moment_only() {
    let scene = Scene::start("workers = 2\n");
    let daemon = &scene.daemon;
    let mut open = sessions(daemon, 1000);
    let begun = Instant::now();
    let done = daemon.upgrade();
    eprintln!("{done} in {:?}", begun.elapsed());
    // Built for tests, on a machine that does other things too. For figures see docs/upgrade.md.
    assert!(done["pause_ms"].as_f64().unwrap() < 2000.0, "{done}");
    all_echo(&mut open, b"and on");
    let memory = daemon.private_memory();
    for _ in 0..5 {
        daemon.upgrade();
    }
    eventually(&format!("memory does not grow: {memory}"), || {
        (daemon.private_memory() < memory + (2 << 20)).then_some(())
    });
    all_echo(&mut open, b"and on");
}
