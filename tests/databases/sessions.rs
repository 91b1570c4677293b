//! Real `PostgreSQL` behind a listener that looks at nothing, with psql and pgbench in front of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, ExitStatus, Output, Stdio};

use crate::support::servers::postgres::{Postgres, psql, psql_of_stdin};
use crate::support::servers::{Process, answer, finish, free_port, printed};
use crate::support::{Daemon, eventually, own_loopback};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

const WHO: &str = "SHOW cluster_name";

#[test]
fn psql_gets_answers_with_and_without_tls() {
    let pair = Pair::start("round-robin");
    check_psql(&pair, "disable", "f", &["done"]);
    // Both sides say close_notify and close at the same time. The kernel of a side that closes with the other's
    // close_notify unread sends RST instead of FIN, through sluice or without it, so now and then a reset is the truth.
    check_psql(&pair, "require", "t", &["done", "client_reset", "backend_reset"]);

    // A result of many packets arrives as it does without sluice.
    let many = "SELECT md5(g::text) FROM generate_series(1, 200000) g";
    let through = printed(&mut psql(pair.at, "require", many));
    assert!(through == printed(&mut psql(pair.one.address, "require", many)), "{} bytes", through.len());
}

/// Sessions of psql get answers from both servers, encrypted or not, and end like this.
#[track_caller]
fn check_psql(pair: &Pair, sslmode: &str, encrypted: &str, ends: &[&str]) {
    let before = pair.daemon.records().len();
    let mut answered = BTreeSet::new();
    let mut one = || {
        let query = "SELECT current_setting('cluster_name'), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = printed(&mut psql(pair.at, sslmode, query));
        let (name, ssl) = row.split_once('|').expect("two columns");
        assert_eq!(ssl, encrypted);
        answered.insert(name.to_owned());
    };
    let mut count = 0;
    // With TLS the server resets after both have sent FIN, in some sessions: that is no error. Others are done.
    let records = loop {
        (0..10).for_each(|_| one());
        count += 10;
        let records = pair.daemon.wait_for_records(before + count).split_off(before);
        let done = records.iter().filter(|record| record["end"] == "done").count();
        if done > 3 {
            break records;
        }
        assert!(count < 60, "{done} of {count} are done: {records:?}");
    };
    assert_eq!(answered, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    assert_eq!(records.len(), count);
    for record in records {
        assert!(ends.iter().any(|end| record["end"] == *end), "{record}");
        assert_eq!((&record["tries"], &record["route"]), (&1.into(), &"default".into()), "{record}");
        assert!(record["bytes_up"].as_u64() > Some(50) && record["bytes_down"].as_u64() > Some(50), "{record}");
    }
}

#[test]
fn source_hash_keeps_a_client_and_its_cancel_request_on_one_server() {
    let pair = Pair::start("consistent-hash");
    let name = printed(&mut psql(pair.at, "disable", WHO));
    for _ in 0..5 {
        assert_eq!(printed(&mut psql(pair.at, "require", WHO)), name);
    }
    // psql sends a cancel request on a connection of its own when it is interrupted.
    let server = pair.address_of(&name);
    let mut sleeper = psql(pair.at, "disable", "SELECT pg_sleep(60)");
    let mut sleeper = Process::spawn(sleeper.stdout(Stdio::null()).stderr(Stdio::piped()), Signal::SIGKILL);
    eventually("the query runs", || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
        (printed(&mut psql(server, "disable", running)) == "1").then_some(())
    });
    kill(sleeper.pid(), Signal::SIGINT).expect("interrupt psql");
    let status = eventually("psql ends", || sleeper.ended());
    let said = std::io::read_to_string(sleeper.child.stderr.take().expect("piped")).unwrap();
    assert!(said.contains("canceling statement due to user request"), "{status}: {said}");
}

#[test]
fn pgbench_loses_no_transaction_and_uses_both_servers() {
    let pair = Pair::start("least-connections");
    pair.initialise_pgbench();
    let run = finish(pgbench(pair.at).args(["-c", "8", "-j", "2", "-T", "4"]));
    let summary = answer(&run).expect("pgbench succeeds");
    assert!(summary.contains("number of failed transactions: 0 "), "{summary}");
    assert!(aborted(&run) == 0, "{run:?}");

    // Eight clients and the connection that asks for the scale.
    for record in pair.daemon.wait_for_records(9) {
        assert_eq!((&record["end"], &record["tries"]), (&"done".into(), &1.into()), "{record}");
    }
    for row in pair.daemon.json("/v1/backends").as_array().expect("a list") {
        assert!(row["total"].as_u64() >= Some(4), "{row}");
        assert!(row["bytes_up"].as_u64() > Some(1000), "{row}");
    }
}

/// Processes that take over from each other.
const UPGRADES: u32 = 100;

/// A client that is told one thing after another.
struct Interactive {
    process: Process,
    answers: BufReader<ChildStdout>,
}

impl Interactive {
    #[track_caller]
    fn start(mut command: Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()), Signal::SIGKILL);
        let answers = BufReader::new(process.child.stdout.take().expect("piped"));
        Self { process, answers }
    }

    /// Says something that is answered with one line.
    #[track_caller]
    fn says(&mut self, words: &str, want: &str) {
        let stdin = self.process.child.stdin.as_mut().expect("piped");
        stdin.write_all(words.as_bytes()).and_then(|()| stdin.write_all(b"\n")).expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        assert_eq!(line.trim(), want);
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        drop(self.process.child.stdin.take());
        eventually("psql ends", || self.process.ended())
    }
}

#[test]
fn transactions_go_on_while_processes_take_over_from_each_other() {
    let pair = Pair::start("least-connections");
    pair.initialise_pgbench();
    // A transaction that is longer than all of it, through TLS; a query that runs while processes change; clients that
    // come and go, and some that stay.
    let mut transaction = Interactive::start(psql_of_stdin(pair.at, "require"));
    transaction.says("BEGIN; CREATE TEMP TABLE t AS SELECT 42 AS answer; SELECT count(*) FROM t;", "1");
    let mut query = psql(pair.at, "disable", "SELECT pg_sleep(6), 43");
    let query = std::thread::spawn(move || printed(&mut query));
    let load = |more: &[&str]| {
        let mut load = pgbench(pair.at);
        load.args(["-N", "-c", "4", "-j", "2", "-T", "4"]).args(more);
        std::thread::spawn(move || finish(&mut load))
    };
    let mut runs = Vec::new();
    let (mut staying, mut passing) = (load(&[]), load(&["-C"]));
    for _ in 0..UPGRADES {
        pair.daemon.upgrade();
        for (run, more) in [(&mut staying, &[][..]), (&mut passing, &["-C"])] {
            if run.is_finished() {
                runs.push(std::mem::replace(run, load(more)));
            }
        }
    }
    transaction.says("SELECT answer FROM t; COMMIT;", "42");
    assert!(transaction.ends().success());
    assert_eq!(query.join().expect("psql").trim(), "|43");
    for run in runs.into_iter().chain([staying, passing]) {
        let run = run.join().expect("pgbench");
        let summary = answer(&run).expect("pgbench succeeds");
        assert!(summary.contains("number of failed transactions: 0 "), "{summary}");
        assert_eq!(aborted(&run), 0, "{run:?}");
    }
    // psql and its server may meet with their resets, as above.
    let records = pair.daemon.records();
    let wrong: Vec<_> = records.iter().filter(|record| record["end"] != "done").collect();
    assert!(wrong.len() <= 1, "{wrong:?}");
}

#[test]
fn killed_server_is_not_noticed_by_new_connections() {
    let mut pair = Pair::start("least-connections");
    pair.initialise_pgbench();
    let mut load = pgbench(pair.at);
    load.args(["-N", "-C", "-c", "8", "-j", "2", "-T", "8"]);
    let (at, load) = (pair.at, std::thread::spawn(move || finish(&mut load)));
    eventually("pgbench is at work on both", || {
        let worked = |name: &str| pair.daemon.records().iter().filter(|record| record["backend"] == name).count();
        (worked("one") >= 10 && worked("two") >= 10).then_some(())
    });

    let killing = Timestamp::now();
    pair.one.kill();
    for run in 0..30 {
        assert_eq!(answer(&finish(&mut psql(at, "prefer", WHO))), Ok("two".to_owned()), "run {run} after the kill");
    }
    pair.daemon.wait_for_state("one", "down");

    // Only what was in flight on the killed server may have been lost: at most a session for each client that gave up.
    let run = load.join().expect("pgbench");
    let lost = aborted(&run);
    let records = pair.daemon.records();
    let ended_later = |record: &&Value| record["time"].as_str().unwrap().parse::<Timestamp>().unwrap() >= killing;
    let cut = records.iter().filter(|record| record["backend"] == "one").filter(ended_later).count();
    assert!(lost <= cut && lost < 8, "{cut} sessions were cut: {run:?}");
    let two_after = records.iter().filter(|record| record["backend"] == "two").filter(ended_later).count();
    assert!(two_after > 30 + 8, "pgbench went on with the other server: {two_after}");

    pair.one.start_again();
    pair.daemon.wait_for_state("one", "up");
    eventually("the server that came back gets connections", || {
        (printed(&mut psql(at, "prefer", WHO)) == "one").then_some(())
    });
}

#[test]
fn server_added_by_reload_gets_connections_and_no_client_notices() {
    let pair = Pair::start_with("round-robin", &["one"]);
    pair.initialise_pgbench();
    let mut load = pgbench(pair.at);
    load.args(["-N", "-C", "-c", "4", "-j", "2", "-T", "8"]);
    let load = std::thread::spawn(move || finish(&mut load));
    let worked = |name: &str| pair.daemon.records().iter().filter(|record| record["backend"] == name).count();
    eventually("pgbench is at work", || (worked("one") >= 10).then_some(()));
    pair.reload_with("round-robin", &["one", "two"]);
    eventually("the new server gets connections", || (worked("two") >= 10).then_some(()));
    let run = load.join().expect("pgbench");
    let summary = answer(&run).expect("pgbench succeeds");
    assert!(summary.contains("number of failed transactions: 0 ") && aborted(&run) == 0, "{summary}");
}

/// Two servers behind one listener.
struct Pair {
    one: Postgres,
    two: Postgres,
    at: SocketAddr,
    daemon: Daemon,
}

impl Pair {
    /// Both servers run and are in the pool.
    #[track_caller]
    fn start(balance: &str) -> Self {
        Self::start_with(balance, &["one", "two"])
    }

    /// Both servers run; those named are in the pool.
    #[track_caller]
    fn start_with(balance: &str, pooled: &[&str]) -> Self {
        let address = own_loopback();
        let [one, two] = ["one", "two"].map(|name| Postgres::start(free_port(address), name));
        let at = free_port(address);
        let addresses = [("one", one.address), ("two", two.address)];
        let daemon = Daemon::start_on(address, &Self::body(at, addresses, balance, pooled), "", |command| command);
        for name in pooled {
            daemon.wait_for_state(name, "up");
        }
        Self { one, two, at, daemon }
    }

    fn body(at: SocketAddr, addresses: [(&str, SocketAddr); 2], balance: &str, pooled: &[&str]) -> String {
        let mut body = format!(
            "[[listener]]\nname = \"databases\"\nprotocol = \"tcp\"\nbind = [\"{at}\"]\npool = \"databases\"\n\
            [pool.databases]\nbalance = \"{balance}\"\n\
            [pool.databases.health]\ncheck = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"1s\"\nrise = 2\nfall = 3\n"
        );
        for (name, address) in addresses.iter().filter(|(name, _)| pooled.contains(name)) {
            // Writing into a string cannot fail.
            let _ = write!(body, "[[pool.databases.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        body
    }

    /// Reloads with another set of servers in the pool.
    #[track_caller]
    fn reload_with(&self, balance: &str, pooled: &[&str]) {
        let addresses = [("one", self.one.address), ("two", self.two.address)];
        self.daemon.write_config(&Self::body(self.at, addresses, balance, pooled), "");
        self.daemon.reload();
    }

    fn address_of(&self, name: &str) -> SocketAddr {
        match name {
            "one" => self.one.address,
            "two" => self.two.address,
            other => panic!("unknown server {other}"),
        }
    }

    /// Makes pgbench's tables in each, past sluice.
    #[track_caller]
    fn initialise_pgbench(&self) {
        for server in [&self.one, &self.two] {
            printed(pgbench(server.address).args(["-i", "-s", "1", "-q"]));
        }
    }
}

fn pgbench(at: SocketAddr) -> Command {
    let mut command = Postgres::program("pgbench");
    command.env("PGHOST", at.ip().to_string()).env("PGPORT", at.port().to_string()).env("PGSSLMODE", "disable");
    command
}

/// How many of pgbench's clients gave up.
fn aborted(run: &Output) -> usize {
    String::from_utf8_lossy(&run.stderr).lines().filter(|line| line.contains(" aborted ")).count()
}
