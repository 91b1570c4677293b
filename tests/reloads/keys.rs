//! Keys of the process that a reload changes: the log, limits, files of checks, the state file.
//! The number of workers is in `workers.rs`.
//! The status socket and the address for metrics are in `sockets.rs`.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::authority::Authority;
use crate::support::logged::{CONFIG, logging, session, sessions};
use crate::support::rewritten::{refused, rewrite};
use crate::support::servers::free_port;
use crate::support::servers::openssl::OpenSsl;
use crate::support::{Backend, Daemon, TempDir, connect, eventually, own_loopback};
use serde_json::{Value, json};

fn start(global: &str) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::naming((address, 1001), "one");
    (Daemon::start_on(address, CONFIG, global, |command| command), backend)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Serves sessions of four clients while `work` is done; returns how many there were.
fn under_load(daemon: &Daemon, work: impl FnOnce(&AtomicUsize)) -> usize {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        session(daemon.at(443));
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        work(&served);
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
    });
    served.into_inner()
}

/// Waits until some more sessions were served.
fn more(served: &AtomicUsize) {
    let before = served.load(Ordering::SeqCst);
    eventually("sessions go on", || (served.load(Ordering::SeqCst) >= before + 20).then_some(()));
}

#[test]
fn no_line_is_lost_or_in_two_files_when_the_log_moves_under_load() {
    const MOVES: usize = 20;
    let (daemon, _backend) = start("workers = 2\n");
    let file =
        |number: usize| if number == 0 { daemon.dir().join("log") } else { daemon.dir().join(format!("log.{number}")) };
    let target = |number: usize| format!("target = \"{}\"", file(number).display());
    let served = under_load(&daemon, |served| {
        for number in 1..=MOVES {
            rewrite(&daemon, &[(&target(number - 1), &target(number))]);
            daemon.reload();
            more(served);
        }
    });
    let ids = || -> HashMap<String, usize> {
        let mut ids = HashMap::new();
        for number in 0..=MOVES {
            for line in read(&file(number)).lines() {
                let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if let Some(id) = line["session"].as_str() {
                    *ids.entry(id.to_owned()).or_default() += 1;
                }
            }
        }
        ids
    };
    let ids = eventually("all records", || Some(ids()).filter(|ids| ids.len() >= served));
    assert_eq!(ids.len(), served);
    assert!(ids.values().all(|times| *times == 1), "each record once");
    assert_eq!(daemon.metric("sluice_log_dropped_total"), 0.0);
    for number in 0..MOVES {
        let last =
            read(&file(number)).lines().rfind(|line| line.contains("the log goes on elsewhere")).map(str::to_owned);
        let last: Value = serde_json::from_str(&last.expect("the old file says where to look")).unwrap();
        assert_eq!(last["to"], *file(number + 1).display().to_string());
    }
}

#[test]
fn format_changes_for_records_and_messages_with_the_file() {
    let (daemon, _backend) = start("workers = 2\n");
    let text = daemon.dir().join("text");
    let other = format!("format = \"text\"\ntarget = \"{}\"", text.display());
    let old = format!("format = \"json\"\ntarget = \"{}\"", daemon.dir().join("log").display());
    under_load(&daemon, |served| {
        more(served);
        rewrite(&daemon, &[(&old, &other)]);
        daemon.reload();
        more(served);
    });
    let lines = eventually("records in the new file", || {
        Some(read(&text)).filter(|text| text.contains("end=done") && text.contains(" INFO reloaded"))
    });
    assert!(lines.lines().all(|line| !line.starts_with('{')), "only text: {lines}");
    // Back to JSON, in the same file.
    rewrite(&daemon, &[("format = \"text\"", "format = \"json\"")]);
    daemon.reload();
    sessions(daemon.at(443), 4);
    eventually("records and messages in JSON", || {
        let text = read(&text);
        let in_json = || text.lines().filter(|line| line.starts_with('{'));
        let records = in_json().filter(|line| line.contains("\"end\":\"done\"")).count();
        // A session of before may end late.
        (records >= 4 && in_json().any(|line| line.contains("\"reloaded\""))).then_some(())
    });
}

#[test]
fn log_leaves_and_comes_back_to_stderr() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "one");
    let log = "format = \"json\"\ntarget = \"stderr\"";
    let daemon = Daemon::start_on(address, CONFIG, "", |command| logging(command, log));
    let records = |text: &str| text.matches("\"end\":\"done\"").count();
    let file = format!("target = \"{}\"", daemon.dir().join("log").display());
    sessions(daemon.at(443), 4);
    eventually("first records on stderr", || (records(&daemon.stderr()) == 4).then_some(()));
    rewrite(&daemon, &[("target = \"stderr\"", &file)]);
    daemon.reload();
    sessions(daemon.at(443), 8);
    eventually("records in the file", || (records(&daemon.log()) == 8).then_some(()));
    rewrite(&daemon, &[(&file, "target = \"stderr\"")]);
    daemon.reload();
    sessions(daemon.at(443), 4);
    eventually("records on stderr", || (records(&daemon.stderr()) == 8).then_some(()));
    assert_eq!(records(&daemon.log()), 8);
}

#[test]
fn which_records_are_written_changes() {
    let (daemon, _backend) = start("");
    sessions(daemon.at(443), 4);
    daemon.wait_for_records(4);
    rewrite(&daemon, &[("[log]\n", "[log]\nsessions = \"off\"\n")]);
    daemon.reload();
    sessions(daemon.at(443), 8);
    let done = "sluice_sessions_closed_total{pool=\"shop\",end=\"done\"}";
    eventually("all have ended", || (daemon.metric(done) == 12.0).then_some(()));
    rewrite(&daemon, &[("sessions = \"off\"", "sessions = \"both\"")]);
    daemon.reload();
    sessions(daemon.at(443), 4);
    let records = daemon.wait_for_records(12);
    let starts = records.iter().filter(|record| record["end"].is_null()).count();
    assert_eq!((records.len(), starts), (12, 4), "four ends, then none, then four starts and ends: {records:#?}");
    rewrite(&daemon, &[("sessions = \"both\"", "sample = 0.0")]);
    daemon.reload();
    sessions(daemon.at(443), 4);
    eventually("they are counted", || (daemon.metric("sluice_log_sampled_out_total") == 4.0).then_some(()));
    assert_eq!(daemon.records().len(), 12);
}

#[test]
fn target_that_cannot_be_opened_changes_nothing() {
    let (daemon, _backend) = start("");
    let elsewhere = TempDir::new();
    let old = format!("target = \"{}\"", daemon.dir().join("log").display());
    let log_at =
        |path: &Path| rewrite(&daemon, &[(&old, &format!("target = \"{}\"", path.display())), (":443", ":444")]);
    let back = |path: &Path| rewrite(&daemon, &[(&format!("target = \"{}\"", path.display()), &old), (":444", ":443")]);
    let closed = elsewhere.path().join("log");
    let missing = daemon.dir().join("none/log");
    for (path, why) in [
        (&missing, "No such file or directory".to_owned()),
        (
            &closed,
            format!(
                "Permission denied (os error 13): the process gave up writing in {} when it started; a restart is needed",
                elsewhere.path().display()
            ),
        ),
    ] {
        log_at(path);
        let said = refused(&daemon);
        assert!(said.contains(&format!("cannot open log file {}: {why}", path.display())), "{said}");
        back(path);
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    session(daemon.at(443));
    daemon.wait_for_records(1);
}

#[test]
fn limits_change() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let body = |most: u32| {
        format!(
            "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\nmax-connections = {most}\n\
             [pool.p]\nbackends = [\"{{ip}}:1001\"]\n"
        )
    };
    let daemon = Daemon::start_on(address, &body(100), "max-connections = 2\n", |command| command);
    let open = |count: u64| {
        eventually(&format!("{count} connections"), || {
            (daemon.json("/v1/status")["connections"] == count).then_some(())
        });
    };
    // The third one waits for the process' limit; the fourth is refused by the listener's.
    let _clients: Vec<_> = (0..3).map(|_| connect(daemon.at(443))).collect();
    open(2);
    daemon.write_config(&body(100), "max-connections = 3\n");
    daemon.reload();
    open(3);
    daemon.write_config(&body(3), "max-connections = 10\n");
    daemon.reload();
    // The reset may come before it knows that it is connected.
    let _fourth = TcpStream::connect(daemon.at(443));
    let refused = "sluice_listener_rejected_total{listener=\"l\",reason=\"limit_reached\"}";
    eventually("the fourth is refused", || (daemon.metric(refused) == 1.0).then_some(()));
    open(3);
}

#[test]
fn another_file_of_a_check_counts() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let real = OpenSsl::start(free_port(own_loopback()), &authority.issue("shop.test", 100), &["-www"]);
    let address = own_loopback();
    let body = |ca: &str| {
        format!(
            "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n[pool.p]\n\
             [[pool.p.backend]]\nname = \"b\"\naddress = \"{}\"\n[pool.p.health]\ncheck = \"tls\"\nsni = \"shop.test\"\n\
             ca = \"{{dir}}/{ca}\"\ninterval = \"100ms\"\n",
            real.address
        )
    };
    let daemon = Daemon::start_on(address, &body("own.pem"), "", |command| {
        let config = command.get_args().last().unwrap().to_string_lossy().into_owned();
        let dir = Path::new(&config).parent().unwrap();
        fs::copy(authority.path(), dir.join("own.pem")).unwrap();
        fs::copy(other.path(), dir.join("other.pem")).unwrap();
        command
    });
    daemon.wait_for_state("b", "up");
    daemon.write_config(&body("other.pem"), "");
    daemon.reload();
    daemon.wait_for_state("b", "down");
    assert_eq!(daemon.json("/v1/backends")[0]["check"]["reason"], "certificate_issuer");
    daemon.write_config(&body("own.pem"), "");
    daemon.reload();
    daemon.wait_for_state("b", "up");
}

#[test]
fn state_file_moves_with_what_it_has() {
    let (daemon, _backend) = start("state-file = \"{dir}/a.json\"\n");
    let elsewhere = TempDir::new();
    let states = |path: &Path| -> Value { serde_json::from_str(&read(path)).unwrap_or_default() };
    let (a, b) = (daemon.dir().join("a.json"), daemon.dir().join("b.json"));
    let backend = format!("shop/{}", daemon.at(1001));
    assert_eq!(daemon.ask("drain", &json!({ "backend": backend }))["result"]["kept"], true);
    let before = states(&a);
    assert_eq!(before["overrides"][0]["backend"], backend);
    rewrite(&daemon, &[("a.json", "b.json")]);
    daemon.reload();
    assert_eq!(states(&b), before, "what was said is there without another word");
    assert_eq!(daemon.ask("weight", &json!({ "backend": backend, "weight": 7 }))["result"]["kept"], true);
    assert_ne!(states(&b), before);
    assert_eq!(states(&a), before, "the old one is left alone");
    // Where it cannot be written, that is said, with what helps.
    let inside = b.display().to_string();
    rewrite(&daemon, &[(&inside, &elsewhere.path().join("c.json").display().to_string())]);
    daemon.reload();
    daemon.wait_for_log("cannot write the state file");
    daemon.wait_for_log("a restart is needed for that");
}
