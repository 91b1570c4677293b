//! What ready connections and fast open save on a path of ten milliseconds: a network namespace with an interface whose
//! packets a program holds back (`tests/data/paths/slow_path.py`). Needs root, as namespaces do.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::servers::{Process, printed, program};
use support::{TempDir, eventually};

const DELAY_MS: f64 = 5.0;
const CLIENTS: usize = 15;

/// A namespace that goes with the test.
struct Namespace(String);

impl Namespace {
    #[track_caller]
    fn new(name: &str) -> Self {
        let name = format!("sluice-{}-{name}", std::process::id());
        printed(program("/usr/sbin/ip").args(["netns", "add", &name]));
        Self(name)
    }

    fn inside(&self, program_path: &str) -> Command {
        let mut command = program("/usr/sbin/ip");
        command.args(["netns", "exec", &self.0, program_path]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/ip").args(["netns", "del", &self.0]).status();
    }
}

/// Milliseconds from the hello to the first byte of the answer, the median of several clients, with these lines in the
/// pool.
#[track_caller]
fn measure(name: &str, pool: &str) -> f64 {
    let namespace = Namespace::new(name);
    printed(namespace.inside("/usr/sbin/sysctl").args(["-qw", "net.ipv4.tcp_fastopen=3"]));
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut path = namespace.inside("/usr/bin/python3");
    path.arg(data.join("paths/slow_path.py")).args([DELAY_MS.to_string(), CLIENTS.to_string()]);
    path.arg(data.join("hello/curl-h2.bin")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut path = Process::spawn(&mut path, Signal::SIGKILL);
    let mut lines = BufReader::new(path.child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    let dir = TempDir::new();
    let root = dir.path().display();
    let config = format!(
        "[global]\nworkers = 1\nstatus-socket = \"{root}/s.sock\"\n[log]\ntarget = \"{root}/log\"\n\
         [[listener]]\nname = \"tls\"\nbind = [\"127.0.0.1:443\"]\npool = \"far\"\n\
         [pool.far]\nbackends = [\"10.9.0.2:1001\"]\n{pool}\n"
    );
    fs::write(dir.path().join("c.toml"), config).unwrap();
    let mut sluice = namespace.inside(env!("CARGO_BIN_EXE_sluice"));
    sluice.args(["run", "-q", "-c"]).arg(dir.path().join("c.toml"));
    let _sluice = Process::spawn(&mut sluice, Signal::SIGINT);
    let ready = if pool.contains("preconnect") { 2 } else { 0 };
    eventually("sluice is ready, and its connections are", || {
        let mut metrics = Command::new("/usr/bin/curl");
        metrics.args(["-s", "--unix-socket"]).arg(dir.path().join("s.sock")).arg("http://sluice/metrics");
        let text = String::from_utf8(metrics.output().ok()?.stdout).ok()?;
        let line = text.lines().find(|line| line.starts_with("sluice_backend_ready_connections{"))?;
        (line.rsplit_once(' ')?.1.parse::<f64>().ok()? >= f64::from(ready)).then_some(())
    });
    path.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut times: Vec<f64> = lines.map(|line| line.unwrap().parse().unwrap()).collect();
    assert_eq!(times.len(), CLIENTS, "every client got an answer");
    // The first may bring the cookie of fast open.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
fn ready_connections_and_fast_open_save_a_round_trip() {
    let round_trip = 2.0 * DELAY_MS;
    let plain = measure("plain", "");
    let ready = measure("ready", "preconnect = 2");
    let fast_open = measure("fast-open", "tcp-fast-open = true");
    println!(
        "hello to first byte over {round_trip} ms: {plain} ms, ready connections {ready} ms, fast open {fast_open} ms"
    );
    assert!(plain >= 2.0 * round_trip, "one to connect and one for the answer: {plain} ms");
    for (what, time) in [("ready connections", ready), ("fast open", fast_open)] {
        assert!(time >= round_trip, "{what}: {time} ms");
        assert!(plain - time >= 0.7 * round_trip, "{what} save a round trip: {time} ms instead of {plain} ms");
    }
}
