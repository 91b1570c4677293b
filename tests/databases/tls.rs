//! Real clients and servers on a listener that speaks PostgreSQL: psql of Debian (libpq 15) and psycopg (libpq 18) in
//! every sslmode, PostgreSQL 15 and 17 told apart by server name, and both ways to cancel a query.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::servers::postgres::{Build, Postgres, naming, psql, psycopg};
use crate::support::servers::{Process, answer, finish, free_port, printed};
use crate::support::{Daemon, eventually, own_loopback};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

/// Who answers, and whether the connection is encrypted at the server.
const WHO: &str = "SELECT current_setting('cluster_name'), ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// The same with psycopg.
const ASK: &str = "
import psycopg
with psycopg.connect('') as connection:
    name, ssl = connection.execute('''SELECT current_setting('cluster_name'), ssl FROM pg_stat_ssl
                                      WHERE pid = pg_backend_pid()''').fetchone()
    print(f'{name}|{ssl}')
";

/// A client's close_notify may meet the other's, and the kernel then sends RST for bytes that nobody reads any more.
const ENDS: [&str; 3] = ["done", "client_reset", "backend_reset"];

/// Servers, each behind a name and a pool of its own, `NAME.db.test`; and `all.db.test` for a pool of all of them.
struct Cluster {
    servers: Vec<Postgres>,
    at: SocketAddr,
    daemon: Daemon,
}

impl Cluster {
    #[track_caller]
    fn start(builds: &[(&str, Build)]) -> Self {
        let address: Ipv4Addr = own_loopback();
        let start = |(name, build): &(&str, Build)| {
            Postgres::start_build(*build, free_port(address), name, &format!("{name}.db.test"))
        };
        let servers: Vec<Postgres> = builds.iter().map(start).collect();
        let at = free_port(address);
        let mut body = format!("[[listener]]\nname = \"databases\"\nprotocol = \"postgres\"\nbind = [\"{at}\"]\n");
        let (mut pools, mut all) = (String::new(), "[pool.all]\n".to_owned());
        for pool in builds.iter().map(|(name, _)| *name).chain(["all"]) {
            // Writing into a string cannot fail.
            let _ = write!(body, "[[listener.route]]\nsni = [\"{pool}.db.test\"]\npool = \"{pool}\"\n");
        }
        for ((name, _), server) in builds.iter().zip(&servers) {
            let backend = format!("name = \"{name}\"\naddress = \"{}\"\n", server.address);
            let _ = write!(pools, "[pool.{name}]\n[[pool.{name}.backend]]\n{backend}");
            let _ = write!(all, "[[pool.all.backend]]\n{backend}");
        }
        let daemon = Daemon::start_on(address, &(body + &pools + &all), "workers = 2", |command| command);
        Self { servers, at, daemon }
    }

    /// A client that names a server gets this answer, and leaves a record that says so.
    #[track_caller]
    fn check(&self, client: &mut Command, name: &str, want: &str) -> Value {
        let known = self.daemon.records().len();
        let host = format!("{name}.db.test");
        assert_eq!(printed(naming(client, &host, self.at)), want);
        let record = self.daemon.wait_for_records(known + 1)[known].clone();
        assert_eq!((&record["sni"], &record["pool"]), (&host.into(), &name.into()), "{record}");
        assert_eq!((&record["backend"], &record["tries"]), (&name.into(), &1.into()), "{record}");
        assert!(ENDS.iter().any(|end| record["end"] == *end), "{record}");
        record
    }

    fn cancels(&self, result: &str) -> f64 {
        let labels = format!("{{listener=\"databases\",result=\"{result}\"}}");
        self.daemon.metric(&format!("sluice_postgres_cancels_total{labels}"))
    }
}

/// A client gets an error with this text soon, and nothing else is tried after it.
#[track_caller]
fn check_error(client: &mut Command, text: &str) {
    let begun = Instant::now();
    let said = answer(&finish(client)).expect_err("no connection");
    // The hello-timeout is 5 s: whoever waits for that hangs.
    assert!(begun.elapsed() < Duration::from_millis(4900), "{:?}: {said}", begun.elapsed());
    assert!(said.contains(text), "{said}");
}

const TLS_REQUIRED: &str = "FATAL:  TLS required: connect with sslmode=require or stronger";

#[test]
fn clients_of_both_generations_reach_the_server_they_name() {
    let cluster = Cluster::start(&[("one", Build::Debian), ("two", Build::Debian)]);
    let at = cluster.at;
    for (name, server) in ["one", "two"].into_iter().zip(&cluster.servers) {
        for sslmode in ["prefer", "require", "verify-full"] {
            let mut old = psql(at, sslmode, WHO);
            let record = cluster.check(old.env("PGSSLROOTCERT", server.certificate()), name, &format!("{name}|t"));
            assert_eq!(record["alpn"], Value::Null, "{record}");
            let mut new = psycopg(at, sslmode, ASK);
            let record = cluster.check(new.env("PGSSLROOTCERT", server.certificate()), name, &format!("{name}|True"));
            assert_eq!((&record["alpn"], &record["tls"]), (&"postgresql".into(), &"1.3".into()), "{record}");
        }
    }
    // A result of many packets arrives as it does without sluice.
    let many = "SELECT md5(g::text) FROM generate_series(1, 200000) g";
    let through = printed(naming(&mut psql(at, "require", many), "one.db.test", at));
    assert!(through == printed(&mut psql(cluster.servers[0].address, "require", many)), "{} bytes", through.len());

    // The certificate is the server's own: that of another does not pass for it.
    let mut stranger = psql(at, "verify-full", WHO);
    stranger.env("PGSSLROOTCERT", cluster.servers[1].certificate());
    check_error(naming(&mut stranger, "one.db.test", at), "certificate verify failed");

    // GSSENCRequest first, as clients with Kerberos credentials send it, then TLS on the same connection.
    let script = "
import os, socket, ssl
at = socket.create_connection((os.environ['PGHOST'], os.environ['PGPORT']), 10)
at.sendall(bytes.fromhex('0000000804d21630'))
assert at.recv(9) == b'N'
at.sendall(bytes.fromhex('0000000804d2162f'))
assert at.recv(9) == b'S'
context = ssl.create_default_context(cafile=os.environ['PGSSLROOTCERT'])
at = context.wrap_socket(at, server_hostname='two.db.test')
packet = b'user\\0postgres\\0\\0'
at.sendall((8 + len(packet)).to_bytes(4) + bytes.fromhex('00030000') + packet)
print(at.recv(1).decode())
";
    // Six from each server, the large result and the stranger.
    let known = cluster.daemon.wait_for_records(14).len();
    let mut client = psycopg(at, "disable", script);
    assert_eq!(printed(client.env("PGSSLROOTCERT", cluster.servers[1].certificate())), "R");
    let record = cluster.daemon.wait_for_records(known + 1)[known].clone();
    assert_eq!((&record["sni"], &record["backend"]), (&"two.db.test".into(), &"two".into()), "{record}");
}

#[test]
fn clients_without_tls_or_without_a_name_are_told_so_and_do_not_hang() {
    let cluster = Cluster::start(&[("one", Build::Debian)]);
    let at = cluster.at;
    for (known, mut client) in [psql(at, "disable", WHO), psycopg(at, "disable", ASK)].into_iter().enumerate() {
        check_error(naming(&mut client, "one.db.test", at), TLS_REQUIRED);
        let record = cluster.daemon.wait_for_records(known + 1)[known].clone();
        assert_eq!((&record["end"], &record["detail"]), (&"not_tls".into(), &"start-up packet without TLS".into()));
        assert_eq!((&record["pool"], &record["tries"]), (&Value::Null, &0.into()), "{record}");
    }
    // With sslmode=allow it tries TLS when it is turned away without.
    assert_eq!(printed(naming(&mut psql(at, "allow", WHO), "one.db.test", at)), "one|t");
    let records = cluster.daemon.wait_for_records(4).split_off(2);
    let count = |key: &str, value: &str| records.iter().filter(|record| record[key] == value).count();
    assert_eq!((count("end", "not_tls"), count("backend", "one")), (1, 1), "{records:?}");

    // Clients that are given an address send no name, and those that only prefer TLS then try without it.
    check_error(&mut psql(at, "require", WHO), "unrecognized name");
    check_error(&mut psql(at, "prefer", WHO), TLS_REQUIRED);
    check_error(&mut psycopg(at, "prefer", ASK), TLS_REQUIRED);
    let mut nobody = psycopg(at, "require", ASK);
    check_error(naming(&mut nobody, "nobody.db.test", at), "unrecognized name");
}

#[test]
fn version_17_takes_tls_in_both_ways() {
    let cluster = Cluster::start(&[("fifteen", Build::Debian), ("seventeen", Build::Wheel17)]);
    let certificate = cluster.servers[1].certificate();
    for negotiation in ["direct", "postgres"] {
        let mut client = psycopg(cluster.at, "verify-full", ASK);
        client.env("PGSSLNEGOTIATION", negotiation).env("PGSSLROOTCERT", &certificate);
        let record = cluster.check(&mut client, "seventeen", "seventeen|True");
        assert_eq!(record["alpn"], "postgresql", "{record}");
    }
    cluster.check(&mut psql(cluster.at, "require", WHO), "seventeen", "seventeen|t");
    cluster.check(&mut psql(cluster.at, "require", WHO), "fifteen", "fifteen|t");
    // Direct TLS is never turned into a request: version 15 does not know it and closes, and nobody hangs.
    let mut client = psycopg(cluster.at, "require", ASK);
    client.env("PGSSLNEGOTIATION", "direct");
    check_error(naming(&mut client, "fifteen.db.test", cluster.at), "SSL");
}

#[test]
fn interrupted_psql_cancels_its_own_query_only() {
    let cluster = Cluster::start(&[("one", Build::Debian), ("two", Build::Debian)]);
    let sleeps = |server: &Postgres| {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
        printed(&mut psql(server.address, "disable", running)) == "1"
    };
    let sleeper = |name: &str| {
        let mut client = psql(cluster.at, "require", "SELECT pg_sleep(60)");
        let client = naming(&mut client, &format!("{name}.db.test"), cluster.at);
        Process::spawn(client.stdout(Stdio::null()).stderr(Stdio::piped()), Signal::SIGKILL)
    };
    // Its name is inside TLS and its cancel request outside: it goes to both servers, of which one knows the key.
    let mut other = sleeper("two");
    eventually("the other query runs", || sleeps(&cluster.servers[1]).then_some(()));
    // The two workers take connections as the kernel deals them: several rounds, for both to see both.
    for round in 1..=4 {
        let known = cluster.daemon.records().len();
        let mut one = sleeper("one");
        eventually("the query runs", || sleeps(&cluster.servers[0]).then_some(()));
        kill(one.pid(), Signal::SIGINT).expect("interrupt psql");
        let status = eventually("psql ends", || one.ended());
        let said = std::io::read_to_string(one.child.stderr.take().expect("piped")).unwrap();
        assert!(said.contains("canceling statement due to user request"), "{status}: {said}");
        let records = cluster.daemon.wait_for_records(known + 2).split_off(known);
        let cancel = records.iter().find(|record| record["sni"] == Value::Null).expect("the cancel request");
        assert_eq!(cancel["detail"], "cancel request sent to 2 of 2 backends", "{cancel}");
        assert_eq!((&cancel["end"], &cancel["backend"]), (&"done".into(), &Value::Null), "{cancel}");
        assert_eq!(cluster.cancels("sent"), f64::from(round));
        assert!(sleeps(&cluster.servers[1]) && other.ended().is_none(), "the other query still runs");
    }
}

#[test]
fn encrypted_cancel_request_finds_the_server_of_its_query_by_the_source() {
    let cluster = Cluster::start(&[("one", Build::Debian), ("two", Build::Debian)]);
    // Six times, since a server picked at random is the right one every other time.
    let script = "
import psycopg, threading, time
def run(connection, said):
    try:
        connection.execute('SELECT pg_sleep(60)')
    except psycopg.errors.QueryCanceled as error:
        said.append(str(error))
with psycopg.connect('', autocommit=True) as watch:
    print(watch.execute('SHOW cluster_name').fetchone()[0])
    for _ in range(6):
        with psycopg.connect('', autocommit=True) as connection:
            said, until = [], time.monotonic() + 10
            thread = threading.Thread(target=run, args=(connection, said), daemon=True)
            thread.start()
            running = '''SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'
                         AND query LIKE '%%pg_sleep%%' '''
            while watch.execute(running, [connection.info.backend_pid]).fetchone()[0] == 0:
                assert time.monotonic() < until, 'the query does not run on the server of the watcher'
            connection.cancel_safe(timeout=10)
            thread.join(10)
            assert said == ['canceling statement due to user request'], said
";
    let mut client = psycopg(cluster.at, "require", script);
    let server = printed(naming(&mut client, "all.db.test", cluster.at));
    // The watcher, and for each query its own connection and that of its cancel request.
    let records = cluster.daemon.wait_for_records(13);
    assert_eq!(records.len(), 13);
    for record in records {
        assert_eq!((&record["sni"], &record["pool"]), (&"all.db.test".into(), &"all".into()), "{record}");
        assert_eq!((&record["backend"], &record["tries"]), (&server.clone().into(), &1.into()), "{record}");
        assert!(ENDS.iter().any(|end| record["end"] == *end), "{record}");
    }
    assert_eq!(["sent", "no_session", "rate_limited", "failed"].map(|result| cluster.cancels(result)), [0.0; 4]);
}
