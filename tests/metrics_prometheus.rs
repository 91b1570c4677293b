//! A real Prometheus: scrapes the metrics address in both formats, and answers queries about what happened.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::hello::client_hello;
use support::metrics::request;
use support::servers::{Process, free_port, program};
use support::{Backend, Daemon, TempDir, connect, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "shop"
[pool.shop]
backends = ["{ip}:1001", "{ip}:1002"]
[pool.shop.health]
check = "tcp"
interval = "100ms"
"#;

struct Prometheus {
    _process: Process,
    at: SocketAddr,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes a daemon, in OpenMetrics where it can (its default) or through a hop that asks for nothing.
    fn start(targets: &[(&str, SocketAddr)]) -> Self {
        let dir = TempDir::new();
        let jobs = targets.iter().fold(String::new(), |jobs, (name, at)| {
            jobs + &format!("- job_name: {name}\n  static_configs:\n  - targets: [\"{at}\"]\n")
        });
        let config = format!("global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n{jobs}");
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let at = free_port(own_loopback());
        let said = File::create(dir.path().join("said")).unwrap();
        let mut command = program("/usr/bin/prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address={at}")).arg("--log.level=error");
        command.stdout(Stdio::null()).stderr(said);
        let process = Process::spawn(&mut command, Signal::SIGTERM);
        Self { _process: process, at, _dir: dir }
    }

    /// The values of a query, by its first series; `None` as long as there is none.
    fn ask(&self, query: &str) -> Option<f64> {
        let escaped = query.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        std::net::TcpStream::connect(self.at).ok()?;
        let head = format!("GET /api/v1/query?query={escaped} HTTP/1.0\r\nHost: x\r\n\r\n");
        let (_, body) = request(self.at, &head);
        let answer: Value = serde_json::from_str(&body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    #[track_caller]
    fn expect(&self, query: &str, wanted: f64) {
        let mut last = None;
        eventually(&format!("{query} is {wanted}"), || {
            last = self.ask(query);
            last.filter(|value| (value - wanted).abs() < 1e-9)
        });
    }
}

/// Hands bytes on, and leaves what a client accepts out of its request, as an old scraper would.
fn without_accept(to: SocketAddr) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let kept: String =
            head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("accept")).collect();
        let mut server = connect(to);
        let _ = server.write_all(kept.as_bytes());
        let _ = std::io::copy(&mut server, &mut client);
    })
}

#[test]
fn a_real_prometheus_reads_both_formats_and_answers_queries() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let metrics = format!("metrics = \"{address}:9117\"\n");
    let daemon = Daemon::start_on(address, CONFIG, &metrics, |command| command);
    let hop = without_accept(daemon.at(9117));
    let prometheus = Prometheus::start(&[("open", daemon.at(9117)), ("text", hop.address)]);
    let hello = client_hello(Some("a.test"), &[]);
    for _ in 0..5 {
        let mut stream = connect(daemon.at(443));
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut vec![0; hello.len()]).unwrap();
    }
    daemon.wait_for_records(5);
    for job in ["open", "text"] {
        prometheus.expect(&format!("up{{job=\"{job}\"}}"), 1.0);
        let of = |labels: &str| format!("{{job=\"{job}\"{labels}}}");
        prometheus.expect(&format!("sum(sluice_backend_up{})", of("")), 1.0);
        let down = of(&format!(",backend=\"{}\",state=\"down\"", daemon.at(1002)));
        prometheus.expect(&format!("sluice_backend_state{down}"), 1.0);
        prometheus.expect(&format!("sluice_sessions_closed_total{}", of(",end=\"done\"")), 5.0);
        prometheus.expect(&format!("sluice_backend_session_seconds_count{} > 0", of("")), 5.0);
        let bucket = of(",le=\"+Inf\"");
        prometheus.expect(&format!("sum(sluice_backend_session_seconds_bucket{bucket})"), 5.0);
        // Each series once, and nothing that the scraper found wrong.
        prometheus.expect(&format!("scrape_samples_scraped{} - scrape_samples_post_metric_relabeling", of("")), 0.0);
        prometheus.expect(&format!("count(sluice_build_info{})", of("")), 1.0);
    }
}
