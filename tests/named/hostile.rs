//! Backends by name, with a DNS server that means harm or is broken: everything it can say is bounded in addresses,
//! questions, time and memory.

#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use crate::support::dns::{A, AAAA, CNAME, Dns, Record, SRV, Say, Way, address, name, service};
use crate::support::{Backend, Daemon, eventually, own_loopback};
use serde_json::Value;

const POOL: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "shop"
[pool.shop]
backends = ["TARGET"]
"#;

fn start(dns: &Dns, target: &str) -> Daemon {
    let global = format!("resolvers = [\"{}\"]\n", dns.address);
    Daemon::start_with(&POOL.replace("TARGET", target), &global, |command| command)
}

fn report(daemon: &Daemon) -> Value {
    daemon.json("/v1/status")["names"][0].clone()
}

/// The report, once the name was asked for.
#[track_caller]
fn reported(daemon: &Daemon) -> Value {
    eventually("the name is asked for", || Some(report(daemon)).filter(|report| report["next_at"].is_string()))
}

fn own(kind: u16, ttl: u32, data: Vec<u8>) -> Record {
    Record(None, kind, ttl, data)
}

/// As many addresses as a message holds: 65 535 bytes, 12 of the header, 30 of the question, 16 each.
fn full_message() -> Vec<Record> {
    (0..4090_u32).map(|number| own(A, 1, address(Ipv4Addr::from(0x0a00_0000 + number)))).collect()
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp_and_its_addresses_are_bounded() {
    let dns = Dns::start(own_loopback(), |question| match (question.kind, question.way) {
        (A, Way::Udp) => Say::Truncated,
        (A, Way::Tcp) => Say::Records(full_message()),
        _ => Say::Records(Vec::new()),
    });
    let daemon = start(&dns, "web.shop.test:443");
    let before = daemon.private_memory();
    let name = reported(&daemon);
    let addresses: Vec<&str> = name["addresses"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!((addresses.len(), name["left_out"].as_u64()), (256, Some(4090 - 256)));
    assert_eq!((addresses[0], addresses[255]), ("10.0.0.0:443", "10.0.0.255:443"));
    assert_eq!(daemon.json("/v1/backends").as_array().unwrap().len(), 256);
    let full = |question: &&crate::support::dns::Question| question.way == Way::Tcp;
    eventually("five more answers", || (dns.asked().iter().filter(full).count() >= 6).then_some(()));
    let grown = daemon.private_memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes after six full messages");
    assert_eq!(daemon.log().matches("name has more addresses than are used").count(), 1, "said once");
}

#[test]
fn chains_of_names_end() {
    for target in ["loop.shop.test:443", "endless.shop.test:443"] {
        let dns = Dns::start(own_loopback(), |question| {
            let next = match question.name.as_str() {
                "loop.shop.test." => "loop2.shop.test.".to_owned(),
                "loop2.shop.test." => "loop.shop.test.".to_owned(),
                // Every name leads to one more.
                other => format!("n{}.shop.test.", other.len() + 1).replace('n', &"n".repeat(other.len() % 40)),
            };
            Say::Records(vec![own(CNAME, 1, name(&next))])
        });
        let daemon = start(&dns, target);
        let name = reported(&daemon);
        assert!(name["resolved_at"].is_null() && name["error"].is_string(), "{name}");
        // Two families, and a retry or two while this is read.
        let asked = dns.asked().len();
        assert!((2..200).contains(&asked), "{target}: {asked} questions");
    }
}

#[test]
fn of_many_services_only_so_many_hosts_are_asked_for() {
    let dns = Dns::start(own_loopback(), |question| match question.kind {
        SRV if question.way == Way::Udp => Say::Truncated,
        SRV => Say::Records(
            (0..1500)
                .map(|number| own(SRV, 300, service(number / 100, number, 443, &format!("h{number}.t."))))
                .collect(),
        ),
        A => Say::Records(vec![own(
            A,
            300,
            address(Ipv4Addr::new(10, 0, question.name.len() as u8, question.name.as_bytes()[2])),
        )]),
        _ => Say::Code(3),
    });
    let daemon = start(&dns, "srv:_https._tcp.shop.test");
    let name = reported(&daemon);
    assert!(name["resolved_at"].is_string() && name["left_out"].as_u64() >= Some(1500 - 64), "{name}");
    let mut hosts: Vec<String> =
        dns.asked().into_iter().filter(|question| question.kind == A).map(|question| question.name).collect();
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 64);
    assert!(hosts.iter().all(|host| host.len() <= "h99.t.".len()), "of the lowest priority: {hosts:?}");
}

#[test]
fn a_time_to_live_of_nothing_is_a_second() {
    let dns = Dns::start(own_loopback(), |question| match question.kind {
        A => Say::Records(vec![own(A, 0, address(Ipv4Addr::new(10, 0, 0, 1)))]),
        AAAA => Say::Records(Vec::new()),
        _ => Say::Nothing,
    });
    let _daemon = start(&dns, "web.shop.test:443");
    let times = eventually("four questions", || {
        let times: Vec<_> =
            dns.asked().iter().filter(|question| question.kind == A).map(|question| question.at).collect();
        Some(times).filter(|times| times.len() >= 4)
    });
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause.as_millis() >= 990, "{pause:?} between questions");
    }
}

#[test]
fn answers_that_are_none_leave_the_last_good_set() {
    let backend_address = own_loopback();
    let _backend = Backend::naming((backend_address, 443), "a");
    let harm = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let stage = std::sync::Arc::clone(&harm);
    let dns = Dns::start(own_loopback(), move |question| {
        let elsewhere = |owner: &str| Record(Some(owner.to_owned()), A, 1, address(Ipv4Addr::new(10, 6, 6, 6)));
        match stage.load(std::sync::atomic::Ordering::SeqCst) {
            0 if question.kind == A => Say::Records(vec![own(A, 1, address(backend_address))]),
            0 => Say::Records(Vec::new()),
            1 => Say::Garbage(vec![0xff; 300]),
            2 => Say::Garbage(Vec::new()),
            // Of somebody else, which nobody asked for.
            3 => Say::Records(vec![elsewhere("evil.test.")]),
            4 => Say::Code(2),
            5 => Say::Code(5),
            // Not an address: three bytes.
            6 => Say::Records(vec![own(A, 1, vec![10, 6, 6])]),
            7 => Say::Records((0..200).map(|_| own(16, 1, vec![255; 256])).collect()),
            8 => Say::Forged,
            _ => Say::Nothing,
        }
    });
    let daemon = start(&dns, "web.shop.test:443");
    let good = serde_json::json!([format!("{backend_address}:443")]);
    for stage in 1..=9 {
        harm.store(0, std::sync::atomic::Ordering::SeqCst);
        eventually("fresh", || {
            let report = report(&daemon);
            (report["stale_since"].is_null() && report["resolved_at"].is_string()).then_some(())
        });
        harm.store(stage, std::sync::atomic::Ordering::SeqCst);
        let report = eventually(&format!("stale by harm {stage}"), || {
            Some(report(&daemon)).filter(|report| report["stale_since"].is_string())
        });
        assert_eq!(report["addresses"], good, "harm {stage}: {report}");
        assert!(report["error"].as_str().is_some_and(|error| error.len() < 300), "harm {stage}: {report}");
    }
    // Whoever forges answers does not fill the log: what is said is said once for each time.
    let warnings =
        || daemon.log().lines().filter(|line| line.contains("WARN") && !line.contains("descriptors")).count();
    eventually("each is said", || (warnings() >= 9).then_some(()));
    assert_eq!(warnings(), 9, "{}", daemon.log());
}
