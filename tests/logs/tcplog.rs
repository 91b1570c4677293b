//! `format = "tcplog"` as others read it: lnav's reader of HAProxy's logs finds in it what the metrics count, halog takes the
//! lines for TCP logs, and a real HAProxy writes the same fields about the same clients.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use crate::support::hello::client_hello;
use crate::support::logged::logging;
use crate::support::servers::{Process, answer, finish, printed, program};
use crate::support::{Backend, Daemon, eventually, exchange, own_loopback};
use nix::sys::signal::Signal;
use serde_json::Value;

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
[[listener.route]]
sni = ["shop.test"]
pool = "shop"
[[listener.route]]
sni = ["gone.test"]
pool = "gone"
[pool.shop]
balance = "round-robin"
[[pool.shop.backend]]
name = "one"
address = "{ip}:1001"
[[pool.shop.backend]]
name = "two"
address = "{ip}:1002"
[pool.gone]
[[pool.gone.backend]]
name = "off"
address = "{ip}:1003"
"#;

struct Logged {
    daemon: Daemon,
    _backends: [Backend; 2],
}

fn start() -> Logged {
    let address = own_loopback();
    let backends = [1001, 1002].map(|port| Backend::naming((address, port), "hello"));
    let log = "format = \"tcplog\"\ntarget = \"{dir}/tcplog\"";
    let daemon = Daemon::start_on(address, CONFIG, "", |command| logging(command, log).arg("--quiet"));
    Logged { daemon, _backends: backends }
}

/// The lines, once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {}", path.display()), || {
        let lines: Vec<String> = fs::read_to_string(path).ok()?.lines().map(str::to_owned).collect();
        (lines.len() == count).then_some(lines)
    })
}

/// Lines as syslog would store them.
fn stored(lines: &[String], path: &Path) {
    let lines: Vec<String> = lines.iter().map(|line| format!("Nov 24 18:00:00 host haproxy[7]: {line}\n")).collect();
    fs::write(path, lines.concat()).unwrap();
}

#[test]
fn lnav_finds_in_the_lines_what_the_metrics_count() {
    let Logged { daemon, .. } = &start();
    for _ in 0..30 {
        assert_eq!(exchange(daemon.at(443), &client_hello(Some("shop.test"), &[])).unwrap(), b"hello");
    }
    let file = daemon.dir().join("haproxy.log");
    stored(&lines(&daemon.dir().join("tcplog"), 30), &file);
    let query = "SELECT server_name, backend_name, frontend_name, termination_state, count(*) AS lines, sum(tt) AS millis, \
                 sum(bytes_read) AS bytes, max(retries) AS retries FROM haproxy_log GROUP BY server_name, termination_state";
    let mut lnav = program("/usr/bin/lnav");
    lnav.env("HOME", daemon.dir()).args(["-n", "-c", &format!(";{query}"), "-c", ":write-json-to -"]).arg(&file);
    let rows: Vec<Value> = serde_json::from_str(&printed(&mut lnav)).unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    let mut all = 0.0;
    for row in &rows {
        assert_eq!(
            [&row["backend_name"], &row["frontend_name"], &row["termination_state"]],
            ["shop", "tls", "--"],
            "{row}"
        );
        let of = |name: &str| daemon.metric(&format!("sluice_{name}{{pool=\"shop\",backend={}}}", row["server_name"]));
        let count = row["lines"].as_f64().unwrap();
        assert_eq!(count, of("backend_connections_total"), "{row}");
        // Milliseconds are cut off in each line.
        let seconds = of("backend_session_seconds_sum");
        let millis = row["millis"].as_f64().unwrap();
        assert!(millis <= seconds * 1000.0 + 1.0 && millis >= seconds * 1000.0 - count * 1.5, "{seconds} s: {row}");
        assert_eq!((row["bytes"].as_f64().unwrap(), &row["retries"]), (count * 5.0, &Value::from(0)), "{row}");
        all += count;
    }
    assert_eq!(all, daemon.metric("sluice_sessions_closed_total{pool=\"shop\",end=\"done\"}"));
}

#[test]
fn halog_takes_the_lines_for_tcp_logs() {
    let Logged { daemon, .. } = &start();
    exchange(daemon.at(443), &client_hello(Some("shop.test"), &[])).unwrap();
    exchange(daemon.at(443), b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let file = daemon.dir().join("haproxy.log");
    stored(&lines(&daemon.dir().join("tcplog"), 2), &file);
    let halog = |arguments: &[&str]| {
        let mut halog = program("/usr/bin/halog");
        halog.args(arguments).stdin(Stdio::from(File::open(&file).unwrap()));
        answer(&finish(&mut halog)).unwrap()
    };
    assert_eq!(halog(&["-q", "-c"]), "2");
    assert_eq!(halog(&["-q", "-H", "-c"]), "0", "none is of HTTP");
    assert_eq!(halog(&["-q", "-Q", "-c"]), "0", "the queues are where it looks for them");
    assert_eq!(halog(&["-q", "-ac", "1", "-ad", "0", "-c"]).lines().count(), 1, "dates are read");
}

/// What stands between slashes, by what kind of thing it is.
fn shape(line: &str) -> Vec<Vec<&str>> {
    let kind = |part: &str| match part {
        "-1" => "none",
        _ if part.parse::<u64>().is_ok() => "number",
        _ if part.parse::<SocketAddr>().is_ok() => "address",
        _ if part.len() == 2 && part.chars().all(|c| c == '-' || c.is_ascii_alphabetic()) => "code",
        _ => "name",
    };
    line.split(' ')
        .map(|word| if word.starts_with('[') { vec!["date"] } else { word.split('/').map(kind).collect() })
        .collect()
}

struct HaProxy {
    _process: Process,
}

impl HaProxy {
    /// One with a frontend for each pool, named as our listener is.
    fn start(daemon: &Daemon) -> Self {
        let at = |port: u16| daemon.at(port).to_string();
        let config = format!(
            "global\n    log stdout format raw local0\n    maxconn 100\ndefaults\n    mode tcp\n    log global\n    \
             option tcplog\n    retries 0\n    timeout connect 2s\n    timeout client 5s\n    timeout server 5s\n\
             frontend tls\n    bind {}\n    default_backend shop\nfrontend tls2\n    bind {}\n    default_backend gone\n\
             frontend tls3\n    bind {}\n    default_backend empty\n\
             backend shop\n    server one {}\nbackend gone\n    server off {}\nbackend empty\n",
            at(2001),
            at(2002),
            at(2003),
            at(1001),
            at(1003),
        );
        let file = daemon.dir().join("haproxy.cfg");
        fs::write(&file, config).unwrap();
        let mut command = program("/usr/sbin/haproxy");
        command.args(["-db", "-f"]).arg(&file).stderr(Stdio::null());
        command.stdout(File::create(daemon.dir().join("theirs")).unwrap());
        let process = Process::spawn(&mut command, Signal::SIGTERM);
        eventually("haproxy listens", || std::net::TcpStream::connect(daemon.at(2003)).ok());
        Self { _process: process }
    }
}

#[test]
fn lines_have_the_fields_and_the_order_of_a_real_haproxy() {
    let Logged { daemon, .. } = &start();
    let _haproxy = HaProxy::start(daemon);
    let hello = |sni| client_hello(Some(sni), &[]);
    // The same three clients for both: one is served, one meets a closed port, and for one there is no server.
    exchange(daemon.at(443), &hello("shop.test")).unwrap();
    exchange(daemon.at(443), &hello("gone.test")).unwrap();
    exchange(daemon.at(443), &hello("nobody.test")).unwrap();
    for port in [2001, 2002, 2003] {
        // A connection without a server is closed, or reset when the hello comes late.
        let _ = exchange(daemon.at(port), &hello("shop.test"));
    }
    // Which of the two in turn was first is chance.
    let ours = by_backend(&daemon.dir().join("tcplog"), ["shop/", "gone/off", "tls/<NOSRV>"]);
    let theirs = by_backend(&daemon.dir().join("theirs"), ["shop/one", "gone/off", "empty/<NOSRV>"]);
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!(our.split(' ').count(), 9, "{our}");
        let (mut our_shape, mut their_shape) = (shape(our), shape(their));
        // Times that never came about: ours has one of the hello, which theirs does not wait for.
        if our.contains("tls/<NOSRV>") {
            our_shape[4].clear();
            their_shape[4].clear();
        }
        assert_eq!(our_shape, their_shape, "{our}\n{their}");
        let date = |line: &str| line.split(' ').nth(1).unwrap().trim_matches(['[', ']']).to_owned();
        assert_eq!(date(our).len(), date(their).len(), "{our}\n{their}");
        let moment = |line: &str| jiff::civil::DateTime::strptime("%d/%b/%Y:%H:%M:%S%.f", date(line)).unwrap();
        let apart = moment(our).duration_since(moment(their)).abs();
        assert!(apart.as_mins() < 10, "the same clock: {our}\n{their}");
    }
    let word = |line: &str, number: usize| line.split(' ').nth(number).unwrap().to_owned();
    for (our, their) in ours.iter().zip(&theirs).take(2) {
        for (number, what) in [(5, "bytes"), (6, "code")] {
            assert_eq!(word(our, number), word(their, number), "{what}: {our}\n{their}");
        }
    }
}

/// The first line of each `backend/server` whose name begins so, once all are there.
#[track_caller]
fn by_backend(path: &Path, wanted: [&str; 3]) -> [String; 3] {
    eventually(&format!("lines of three in {}", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        let of = |name: &str| {
            let whole = |line: &&str| line.split(' ').count() == 9;
            text.lines()
                .filter(whole)
                .find(|line| line.split(' ').nth(3).is_some_and(|backend| backend.starts_with(name)))
        };
        let found: Vec<String> = wanted.iter().filter_map(|name| of(name).map(str::to_owned)).collect();
        found.try_into().ok()
    })
}
