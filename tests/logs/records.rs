//! Which records there are: a share of ordinary sessions, every failure, starts that join their ends, and floods summed up.
//! Whatever is left out is counted.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::HashSet;
use std::io::{Read, Write};

use crate::support::hello::client_hello;
use crate::support::logged::{CONFIG, logging, sessions};
use crate::support::{Backend, Daemon, connect, eventually, exchange, own_loopback};
use serde_json::Value;

fn start(log: &str) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::naming((address, 1001), "one");
    let log = format!("format = \"json\"\ntarget = \"{{dir}}/log\"\n{log}");
    (Daemon::start_on(address, CONFIG, "", |command| logging(command, &log)), backend)
}

fn ids(records: &[Value], is: impl Fn(&Value) -> bool) -> HashSet<&str> {
    records.iter().filter(|record| is(record)).filter_map(|record| record["session"].as_str()).collect()
}

#[test]
fn a_share_of_ordinary_sessions_is_recorded_and_all_that_went_wrong() {
    let (daemon, _backend) = start("sample = 0.25");
    sessions(daemon.at(443), 800);
    for _ in 0..40 {
        exchange(daemon.at(443), &client_hello(Some("nobody.test"), &[])).unwrap();
        exchange(daemon.at(443), b"SSH-2.0-x\r\n").unwrap();
    }
    let is_done = |record: &Value| record["end"] == "done";
    let all = eventually("as many are written or left out as there were", || {
        let left_out = daemon.metric("sluice_log_sampled_out_total") as usize;
        Some(daemon.records()).filter(|records| records.len() + left_out == 880)
    });
    let written = ids(&all, is_done).len();
    // Six standard deviations around 200.
    assert!((126..275).contains(&written), "{written} of 800");
    for end in ["no_route", "not_tls"] {
        assert_eq!(all.iter().filter(|record| record["end"] == end).count(), 40, "{end}");
    }
    assert_eq!(daemon.metric("sluice_log_dropped_total"), 0.0);
    assert_eq!(daemon.metric("sluice_sessions_closed_total{pool=\"shop\",end=\"done\"}"), 800.0, "metrics count all");
}

#[test]
fn a_sampled_start_and_its_end_are_both_written_or_neither() {
    let (daemon, _backend) = start("sample = 0.5\nsessions = \"both\"");
    sessions(daemon.at(443), 200);
    let all = eventually("two for each session, written or left out", || {
        let left_out = daemon.metric("sluice_log_sampled_out_total") as usize;
        Some(daemon.records()).filter(|records| records.len() + left_out == 400)
    });
    let (starts, ends) = (ids(&all, |record| record["end"].is_null()), ids(&all, |record| record["end"] == "done"));
    assert_eq!(starts, ends);
    assert!((50..150).contains(&starts.len()), "{}", starts.len());
}

#[test]
fn nothing_of_an_ordinary_session_is_recorded_with_a_sample_of_nothing() {
    let (daemon, _backend) = start("sample = 0.0");
    sessions(daemon.at(443), 40);
    exchange(daemon.at(443), b"SSH-2.0-x\r\n").unwrap();
    let records = daemon.wait_for_records(1);
    assert_eq!(records[0]["end"], "not_tls");
    eventually("the others are counted", || (daemon.metric("sluice_log_sampled_out_total") == 40.0).then_some(()));
}

#[test]
fn start_and_end_of_each_session_join_by_its_id() {
    let (daemon, _backend) = start("sessions = \"both\"");
    let mut open = connect(daemon.at(443));
    open.write_all(&client_hello(Some("open.shop.test"), &[])).unwrap();
    open.read_exact(&mut [0; 3]).unwrap();
    let begun = daemon.wait_for_records(1)[0].clone();
    assert_eq!(
        (&begun["end"], &begun["code"], &begun["sni"]),
        (&Value::Null, &Value::Null, &Value::from("open.shop.test"))
    );
    sessions(daemon.at(443), 100);
    drop(open);
    let all = daemon.wait_for_records(202);
    assert_eq!(all.len(), 202);
    let (starts, ends) = (ids(&all, |record| record["end"].is_null()), ids(&all, |record| !record["end"].is_null()));
    assert_eq!((starts.len(), &starts), (101, &ends));
    for (place, end) in all.iter().enumerate().filter(|(_, record)| !record["end"].is_null()) {
        let start = all.iter().position(|record| record["session"] == end["session"]).unwrap();
        assert!(start < place, "the start comes first: {end}");
        for key in ["listener", "client", "destination", "sni", "pool", "backend", "route", "ja4"] {
            assert_eq!(all[start][key], end[key], "{key}");
        }
        assert!(all[start]["duration_ms"].as_f64() <= end["duration_ms"].as_f64());
    }
}

#[test]
fn records_and_what_a_flood_was_summed_up_to_are_all_that_was_accepted() {
    const FLOOD: usize = 3000;
    let (daemon, _backend) = start("sample = 1.0");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..FLOOD / 4 {
                    exchange(daemon.at(443), b"SSH-2.0-x\r\n").unwrap();
                }
            });
        }
        sessions(daemon.at(443), 40);
    });
    let sums = || -> Vec<Value> {
        let log = daemon.log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["message"] == "refusals too many to record one by one").collect()
    };
    let summed = eventually("records and sums add up", || {
        let summed: u64 = sums().iter().map(|sum| sum["count"].as_u64().unwrap()).sum();
        (daemon.records().len() as u64 + summed == FLOOD as u64 + 40).then_some(summed)
    });
    assert!(summed > 0, "the flood was large enough");
    assert_eq!(daemon.metric("sluice_log_dropped_total"), summed as f64);
    let accepted = daemon.metric("sluice_listener_connections_total{listener=\"tls\"}");
    assert_eq!(accepted, (FLOOD + 40) as f64);
    for sum in sums() {
        let count = sum["count"].as_u64().unwrap();
        assert_eq!(sum["reasons"], format!("not_tls {count}"), "{sum}");
    }
    // The honest ones are all there.
    assert_eq!(daemon.records().iter().filter(|record| record["end"] == "done").count(), 40);
}
