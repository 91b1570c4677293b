//! A reload that makes workers more or fewer: no connection is refused or lost, sessions go on where they are.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::effect::{echoes, hello};
use crate::support::counting::Counting;
use crate::support::line::{client, config_with as line_config_with, greeted, line, start_on as line_start_on};
use crate::support::{Backend, Daemon, connect, eventually, own_loopback, through};
use nix::sys::signal::Signal;
use serde_json::Value;

const BODY: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "p"
[[listener]]
name = "other"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "p"
[pool.p]
backends = ["{ip}:1001"]
preconnect = 1
"#;

#[track_caller]
fn echo_all(streams: &mut [TcpStream], text: &[u8]) {
    for stream in streams {
        echoes(stream, text);
    }
}

/// Threads of the workers, by the CPUs that they may run on.
fn threads(daemon: &Daemon) -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
    let thread = |task: std::fs::DirEntry| {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
        let status = read("status")?;
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some((read("comm")?.trim().to_owned(), cpus.trim().to_owned()))
    };
    tasks.filter_map(thread).filter(|(name, _)| name.starts_with("worker-")).collect()
}

fn set_workers(daemon: &Daemon, count: usize) {
    daemon.write_config(BODY, &format!("workers = {count}\n"));
    daemon.reload();
}

/// Connections of each worker, and whether it is at rest.
fn workers(daemon: &Daemon) -> Vec<(u64, bool)> {
    let status = daemon.json("/v1/status");
    let worker = |worker: &Value| (worker["connections"].as_u64().unwrap(), worker["rests"].as_bool().unwrap());
    status["workers"].as_array().unwrap().iter().map(worker).collect()
}

/// Opens sessions beside the `open` ones, and says on how many workers they were.
fn spread(daemon: &Daemon, open: u64) -> usize {
    let before = eventually("no session but those that are kept", || {
        Some(workers(daemon)).filter(|workers| workers.iter().map(|(sessions, _)| sessions).sum::<u64>() == open)
    });
    let mut all: Vec<TcpStream> = (0..64).map(|number| connect(daemon.at(443 + number % 2))).collect();
    echo_all(&mut all, &hello());
    let after = workers(daemon);
    after.iter().zip(&before).filter(|((now, _), (before, _))| now > before).count()
}

fn run(adjust: impl FnOnce(&mut Command) -> &mut Command) {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, BODY, "workers = 2\n", adjust);
    let mut kept: Vec<TcpStream> = (0..40).map(|number| connect(daemon.at(443 + number % 2))).collect();
    echo_all(&mut kept, &hello());
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for port in [443, 444, 443, 444] {
            let (stop, served, at) = (&stop, &served, daemon.at(port));
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut stream = connect(at);
                    echoes(&mut stream, &hello());
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for count in [5, 1, 3, 2, 7, 2, 1, 4, 6, 1].into_iter().cycle().take(40) {
            set_workers(&daemon, count);
            let before = served.load(Ordering::SeqCst);
            eventually("sessions go on", || (served.load(Ordering::SeqCst) >= before + 20).then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    echo_all(&mut kept, b"still here");
    drop(kept);
    let total = served.into_inner() + 40;
    let records = daemon.wait_for_records(total as usize);
    assert!(records.iter().all(|record| record["end"] == "done"), "nobody was refused or cut");
    // Counters of workers that came and went are all there.
    let accepted = ["tls", "other"]
        .map(|name| daemon.metric(&format!("sluice_listener_connections_total{{listener=\"{name}\"}}")))
        .iter()
        .sum::<f64>();
    assert_eq!((accepted as u64, records.len() as u64), (total, total));
    assert_eq!(daemon.metric("sluice_pool_connections_active{pool=\"p\"}") as u64, 0);
}

#[test]
fn workers_become_more_and_fewer_under_load_and_nobody_notices() {
    run(|command| command);
}

#[test]
fn so_they_do_with_one_socket_of_the_service_manager() {
    run(|command| {
        // The first client starts it: the status socket would not be there before.
        let config = std::path::PathBuf::from(command.get_args().last().unwrap());
        let text = std::fs::read_to_string(&config).unwrap();
        let ip = text.split("bind = [\"").nth(1).unwrap().split(':').next().unwrap().to_owned();
        let (tls, other) = (format!("{ip}:443"), format!("{ip}:444"));
        let socket = config.with_file_name("s.sock").display().to_string();
        let arguments = ["-l", &tls, "-l", &other, "-l", &socket, "--fdname=tls:other:status"];
        through(command, "systemd-socket-activate", &arguments)
    });
}

#[test]
fn each_worker_that_there_is_to_be_accepts_and_no_other() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, BODY, "workers = 1\n", |command| command);
    let cpus = threads(&daemon)["worker-0"].clone();
    assert!(!cpus.contains([',', '-']), "pinned: {cpus}");
    assert_eq!(spread(&daemon, 0), 1);
    set_workers(&daemon, 6);
    assert_eq!(threads(&daemon).len(), 6);
    assert!(threads(&daemon).values().all(|cpus| cpus.contains([',', '-'])), "more than CPUs: {:?}", threads(&daemon));
    // Of 64 connections none of six gets any with a chance of 10^-4.
    assert_eq!(spread(&daemon, 0), 6);
    let mut kept: Vec<TcpStream> = (0..64).map(|_| connect(daemon.at(443))).collect();
    echo_all(&mut kept, &hello());
    set_workers(&daemon, 2);
    assert_eq!(
        workers(&daemon).iter().map(|(_, rests)| *rests).collect::<Vec<_>>(),
        [false, false, true, true, true, true]
    );
    let shown = String::from_utf8(daemon.cli(&["status"]).stdout).unwrap();
    assert!(shown.contains("workers\t2, 4 at rest"), "{shown}");
    assert_eq!(spread(&daemon, 64), 2);
    echo_all(&mut kept, b"where they were");
    let sockets = || {
        let output = Command::new("/usr/bin/ss").args(["-Hltn", "sport", "=", ":443"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().matches(&format!("{address}:443")).count()
    };
    let most = sockets();
    for count in [6, 1, 6, 2, 6, 1] {
        set_workers(&daemon, count);
    }
    assert_eq!(sockets(), most, "they are passed on, not opened anew");
    assert!(threads(&daemon).len() == 6, "threads come back");
    echo_all(&mut kept, b"still there");
    drop(kept);
    // An upgrade has as many as there are to be, with all sockets.
    assert!(daemon.cli(&["upgrade"]).status.success());
    assert_eq!(spread(&daemon, 0), 1);
    assert_eq!(workers(&daemon).len(), 1);
}

#[test]
fn a_reload_that_fails_leaves_the_workers_as_they_are() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, BODY, "workers = 2\n", |command| command);
    let _taken = crate::support::deaf((address, 445));
    daemon.write_config(&BODY.replace(":444", ":445"), "workers = 4\n");
    assert!(!daemon.cli(&["reload", "--wait"]).status.success());
    assert_eq!(spread(&daemon, 0), 2);
    set_workers(&daemon, 4);
    assert_eq!(spread(&daemon, 0), 4);
}

#[test]
fn those_who_wait_on_a_worker_at_rest_find_new_backends() {
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
    let daemon = line_start_on(address, &line_config_with("queue-timeout = \"5m\"", "max-connections = 1"));
    let served = client(daemon.at(443));
    greeted(&served);
    let all = line(&daemon, 443, 40);
    assert!(workers(&daemon).iter().all(|(sessions, _)| *sessions > 3), "both have some: {:?}", workers(&daemon));
    // The first in the line stays on a worker that is at rest from now on; later there is room elsewhere.
    let body = line_config_with("queue-timeout = \"5m\"", "max-connections = 1");
    daemon.write_config(&body, "workers = 1\n");
    daemon.reload();
    let more = daemon.cli(&["backend", "add", "p", &daemon.at(1002).to_string()]);
    assert!(more.status.success(), "{more:?}");
    for next in &all {
        assert_eq!(greeted(next), 'b');
    }
    daemon.write_config(&body, "workers = 3\n");
    daemon.reload();
    drop((served, all));
}

#[test]
fn a_stop_that_overtakes_a_reload_for_more_workers_ends_the_process() {
    let (address, silent) = (own_loopback(), own_loopback());
    let _backend = Backend::echo((address, 1001));
    // Bound and silent: a name is waited for, for some seconds.
    let _silent = std::net::UdpSocket::bind((silent, 5353)).unwrap();
    let global =
        |workers: usize| format!("workers = {workers}\nresolvers = [\"{silent}:5353\"]\nshutdown-grace = \"5m\"\n");
    let mut daemon = Daemon::start_on(address, BODY, &global(1), |command| command);
    daemon.write_config(&BODY.replace("\"{ip}:1001\"", "\"{ip}:1001\", \"slow.test:1001\""), &global(4));
    daemon.signal(Signal::SIGHUP);
    eventually("it is asked for", || {
        daemon.log().contains("SIGHUP").then_some(()).or_else(|| {
            let names = daemon.json("/v1/status")["names"].clone();
            (!names.as_array()?.is_empty()).then_some(())
        })
    });
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
