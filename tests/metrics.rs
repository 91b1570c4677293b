//! `/metrics`: the documented families and no others, in the format that was asked for, content with `promtool`, and without a
//! word that a client sent.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use support::authority::Authority;
use support::hello::client_hello;
use support::metrics::{Family, families, lint, request, scrape};
use support::servers::free_port;
use support::servers::openssl::OpenSsl;
use support::{Backend, Daemon, connect, eventually, exchange, own_loopback};

/// Everything that has metrics of its own: limits, names, a hashed pool, a certificate.
const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
max-connections = 1000
[[listener.route]]
sni = ["*.secure.test"]
pool = "secure"
[[listener.route]]
sni = ["**.shop.test"]
pool = "shop"
[pool.shop]
balance = "consistent-hash"
backends = ["localhost:1003"]
max-connections = 500
[[pool.shop.backend]]
address = "{ip}:1001"
name = "one:[1]"
max-connections = 100
[pool.secure]
backends = ["TLS"]
[pool.secure.health]
check = "tls"
sni = "secure.test"
ca = "CA"
interval = "100ms"
"#;

struct Everything {
    daemon: Daemon,
    _backend: Backend,
    _server: OpenSsl,
}

fn everything() -> Everything {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let authority = Authority::new("metrics");
    let server = OpenSsl::start(free_port(own_loopback()), &authority.issue("secure.test", 30), &["-www"]);
    let config = CONFIG.replace("TLS", &server.address.to_string());
    let config = config.replace("CA", &authority.path().display().to_string());
    let metrics = format!("metrics = \"{address}:9117\"\n");
    let daemon = Daemon::start_on(address, &config, &metrics, |command| command);
    Everything { daemon, _backend: backend, _server: server }
}

/// An open session that has exchanged something.
fn session(daemon: &Daemon, sni: &str) -> TcpStream {
    let mut stream = connect(daemon.at(443));
    let hello = client_hello(Some(sni), &[]);
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut vec![0; hello.len()]).unwrap();
    stream
}

/// Families of the tables in docs/metrics.md.
fn documented() -> BTreeMap<String, Family> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, _unit, meaning, _] = cells[..] else { return None };
        let name = name.strip_prefix('`')?.strip_suffix('`')?.to_owned();
        assert!(!meaning.is_empty(), "{name} has a meaning");
        let labels: BTreeSet<String> = labels
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        Some((name, Family { kind: kind.to_owned(), labels, samples: 0 }))
    });
    rows.collect()
}

#[test]
fn every_family_is_documented_with_type_and_labels_and_every_documented_one_is_there() {
    let Everything { daemon, .. } = &everything();
    drop(session(daemon, "a.shop.test"));
    daemon.ask("status", &serde_json::Value::Null);
    daemon.wait_for_records(1);
    let text = eventually("the certificate was seen", || {
        Some(scrape(daemon)).filter(|text| text.contains("\nsluice_backend_certificate_expiry_timestamp_seconds{"))
    });
    let mut found = families(&text);
    for (name, family) in &mut found {
        assert!(family.samples > 0, "{name} has a sample");
        family.samples = 0;
    }
    let documented = documented();
    assert!(documented.len() > 60, "the tables are read");
    assert_eq!(found, documented);
}

#[test]
fn promtool_is_content_with_a_fresh_and_a_busy_daemon() {
    let Everything { daemon, .. } = &everything();
    lint(&scrape(daemon), daemon.dir());
    let open: Vec<TcpStream> = (0..20).map(|number| session(daemon, &format!("{number}.shop.test"))).collect();
    for _ in 0..5 {
        exchange(daemon.at(443), b"GET / HTTP/1.1\r\n\r\n").unwrap();
        exchange(daemon.at(443), &client_hello(Some("nobody.test"), &[])).unwrap();
    }
    daemon.wait_for_records(10);
    daemon.ask("fly", &serde_json::Value::Null);
    let text = scrape(daemon);
    assert!(text.contains("sluice_backend_connections_active{pool=\"shop\",backend=\"one:[1]\"} 20.0\n"), "{text}");
    assert!(
        text.contains("sluice_control_commands_total{command=\"unknown\",result=\"no_such_method\"} 1\n"),
        "{text}"
    );
    lint(&text, daemon.dir());
    drop(open);
}

#[test]
fn format_is_the_one_that_was_asked_for_and_samples_are_the_same() {
    let Everything { daemon, .. } = &everything();
    let get = |accept: &str| request(daemon.at(9117), &format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n"));
    let (head, text) = get("");
    assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    assert!(!text.contains("# EOF") && text.contains("\n# TYPE sluice_reloads_total counter\n"), "{text}");
    let (head, open) = get("accept: text/html, application/openmetrics-text; version=1.0.0\r\n");
    assert!(
        head.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n") && open.contains("\n# TYPE sluice_reloads counter\n"), "{open}");
    let names = |text: &str| -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    assert_eq!(names(&text), names(&open));
    for method in ["HEAD", "POST", "OPTIONS"] {
        let (head, _) = request(daemon.at(9117), &format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 405 "), "{method}: {head}");
    }
}

#[test]
fn nothing_that_a_client_sent_is_in_a_label_and_series_do_not_grow_with_clients() {
    let Everything { daemon, .. } = &everything();
    // Ends that did not happen yet are left out, so one of each comes first.
    drop(session(daemon, "first.shop.test"));
    exchange(daemon.at(443), &client_hello(Some("first.nobody.test"), &[])).unwrap();
    daemon.wait_for_records(2);
    let count = |text: &str| -> usize { families(text).values().map(|family| family.samples).sum() };
    let before = count(&scrape(daemon));
    for number in 0..50 {
        drop(session(daemon, &format!("guest-{number}.shop.test")));
        exchange(daemon.at(443), &client_hello(Some(&format!("stranger-{number}.test")), &[])).unwrap();
        daemon.ask(&format!("method-{number}"), &serde_json::Value::Null);
    }
    daemon.wait_for_records(102);
    let text = scrape(daemon);
    for word in ["guest", "stranger", "method-", "client"] {
        let label = format!("=\"{word}-");
        assert!(!text.contains(&label) && !text.contains("guest-") && !text.contains("stranger-"), "{word} in {text}");
    }
    // One for the methods that are not known.
    assert_eq!(count(&text), before + 1);
}

#[test]
fn histograms_have_the_documented_bounds_and_count_every_session() {
    let Everything { daemon, .. } = &everything();
    for number in 0..7 {
        drop(session(daemon, &format!("{number}.shop.test")));
    }
    daemon.wait_for_records(7);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let text = scrape(daemon);
    let histograms: Vec<String> =
        families(&text).into_iter().filter(|(_, family)| family.kind == "histogram").map(|(name, _)| name).collect();
    assert_eq!(histograms.len(), 5);
    for name in histograms {
        let row = document.lines().find(|line| line.contains(&format!("`{name}`")) && line.matches('|').count() == 3);
        let bounds: Vec<f64> = row
            .and_then(|row| row.rsplit('|').nth(1))
            .unwrap_or_else(|| panic!("no bounds of {name}"))
            .split(',')
            .map(|bound| bound.trim().parse().unwrap())
            .collect();
        let marked = if name.contains("backend") { "backend=\"one:[1]\"" } else { "" };
        let of = |suffix: &str| -> Vec<&str> {
            let start = format!("{name}{suffix}");
            text.lines().filter(|line| line.starts_with(&start) && line.contains(marked)).collect()
        };
        let shown: Vec<f64> = of("_bucket")
            .iter()
            .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(shown[..shown.len() - 1], bounds, "{name}");
        assert_eq!(shown.last(), Some(&f64::INFINITY), "{name}");
        assert!(of("_count")[0].ends_with(" 7") && of("_bucket").last().unwrap().ends_with(" 7"), "{name}: {text}");
    }
}
