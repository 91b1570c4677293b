//! `queue-timeout`: who finds no place waits in one line over all workers, in order of arrival, until the time is over or
//! the client leaves. What else ends waiting is in `queue_wakes.rs`.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::hello::client_hello;
use support::line::{
    ONE, client, config, config_with, end, ends, greeted, is_unserved, line, reset, start, start_on, wait_for_waiting,
    waiting,
};
use support::{alert_of, eventually, own_loopback};

#[test]
fn those_who_wait_are_served_in_order_of_arrival_over_both_workers() {
    let (daemon, backends) = start(&config(ONE));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 40);
    let workers = daemon.json("/v1/status")["workers"].clone();
    assert!(
        workers.as_array().unwrap().iter().all(|worker| worker["connections"].as_i64() > Some(3)),
        "both take part: {workers}"
    );
    for (position, next) in line.into_iter().enumerate() {
        assert!(is_unserved(&next), "client {position} before its turn");
        end(served);
        greeted(&next);
        served = next;
    }
    assert_eq!((waiting(&daemon), backends.all().most()), (0, 1));
    assert_eq!(daemon.metric("sluice_pool_queued_total{pool=\"p\"}"), 40.0);
    assert_eq!(daemon.metric("sluice_pool_full_total{pool=\"p\"}"), 0.0, "nobody waited in vain");
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let (daemon, _backends) = start(&config_with("queue-timeout = \"20s\"", "max-connections = 1"));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 6);
    let at = daemon.at(443);
    thread::scope(|scope| {
        // They keep coming while places become free; one that overtook would keep the place.
        let crowd = scope.spawn(move || (0..200).map(|_| client(at)).collect::<Vec<_>>());
        for next in line {
            end(served);
            greeted(&next);
            served = next;
        }
        let crowd = crowd.join().unwrap();
        wait_for_waiting(&daemon, 200);
        assert!(crowd.iter().all(is_unserved));
    });
}

#[test]
fn no_wake_up_is_lost_in_a_storm() {
    for (pool, backend) in
        [("max-connections = 4", ""), ("", "max-connections = 4"), ("max-connections = 4", "max-connections = 4")]
    {
        let (daemon, backends) = start(&config_with(&format!("{pool}\nqueue-timeout = \"60s\""), backend));
        let (begun, at) = (Instant::now(), daemon.at(443));
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        let stream = client(at);
                        greeted(&stream);
                        end(stream);
                    }
                });
            }
        });
        assert!(begun.elapsed() < support::DEADLINE, "2 000 sessions took {:?}", begun.elapsed());
        assert_eq!(waiting(&daemon), 0);
        assert_eq!(backends.all().most(), 4, "with {pool} {backend}");
        let active = || daemon.json("/v1/status")["pools"][0]["active"] == 0;
        eventually("all places are given back", || active().then_some(()));
    }
}

#[test]
fn waiting_ends_after_its_time() {
    let (daemon, _backends) = start(&config("max-connections = 1\nqueue-timeout = \"500ms\""));
    let served = client(daemon.at(443));
    greeted(&served);
    for port in [443, 444] {
        let begun = Instant::now();
        let mut late = client(daemon.at(port));
        let mut answer = Vec::new();
        let result = late.read_to_end(&mut answer);
        let took = begun.elapsed();
        assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&took), "{port}: {took:?}");
        if port == 443 {
            assert_eq!((result.unwrap(), alert_of(&answer)), (7, Some(80)));
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
    let records = ends(&daemon, 2, "queue_timeout");
    for record in &records {
        assert_eq!((&record["pool"], &record["backend"]), (&"p".into(), &Value::Null), "{record}");
        assert!(record["detail"].as_str().unwrap().contains("became free in 500 ms"), "{record}");
    }
    assert_eq!(daemon.metric("sluice_pool_full_total{pool=\"p\"}"), 2.0);
    assert_eq!((waiting(&daemon), is_unserved(&served)), (0, true));
}

#[test]
fn clients_that_leave_give_up_their_turn() {
    let (daemon, _backends) = start(&config(ONE));
    let served = client(daemon.at(443));
    greeted(&served);
    let mut line = line(&daemon, 443, 4);
    let last = line.pop().unwrap();
    // FIN, RST and both halves closed.
    line[0].shutdown(Shutdown::Write).unwrap();
    wait_for_waiting(&daemon, 3);
    reset(line.pop().unwrap());
    wait_for_waiting(&daemon, 2);
    drop(line);
    wait_for_waiting(&daemon, 1);
    end(served);
    greeted(&last);
    let records = ends(&daemon, 3, "client_gone");
    assert!(records.iter().all(|record| record["backend"].is_null()), "{records:?}");
}

#[test]
fn tcp_client_may_have_finished_and_keeps_its_turn() {
    let (daemon, _backends) = start(&config(ONE));
    let served = client(daemon.at(443));
    greeted(&served);
    let first = client(daemon.at(444));
    wait_for_waiting(&daemon, 1);
    first.shutdown(Shutdown::Write).unwrap();
    let second = client(daemon.at(444));
    wait_for_waiting(&daemon, 2);
    let before = daemon.cpu_time();
    // The worker goes on serving others and does not spin; nothing tells when a FIN has been noticed.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(waiting(&daemon), 2, "both keep their turns");
        thread::sleep(Duration::from_millis(100));
    }
    let spent = daemon.cpu_time().saturating_sub(before);
    assert!(spent < Duration::from_millis(800), "{spent:?} of CPU in 2 s");
    reset(second);
    wait_for_waiting(&daemon, 1);
    end(served);
    greeted(&first);
    let mut rest = Vec::new();
    assert_eq!((&first).read_to_end(&mut rest).unwrap(), 0, "and its end");
    assert_eq!(ends(&daemon, 1, "client_gone").len(), 1);
}

#[test]
fn bytes_sent_while_waiting_arrive() {
    let address = own_loopback();
    let _echo = support::Backend::echo((address, 1001));
    let daemon = start_on(address, &config(ONE));
    for port in [443, 444] {
        let mut served = client(daemon.at(port));
        let hello = client_hello(Some("any.test"), &[]);
        served.read_exact(&mut vec![0; hello.len()]).unwrap();
        let mut next = client(daemon.at(port));
        wait_for_waiting(&daemon, 1);
        next.write_all(b"more of it").unwrap();
        // Nothing tells that it was noticed; a few turns of the worker's loop are enough to notice it.
        for _ in 0..5 {
            assert_eq!(waiting(&daemon), 1);
        }
        end(served);
        let mut answer = vec![0; hello.len() + 10];
        next.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(&hello) && answer.ends_with(b"more of it"), "port {port}");
        end(next);
        eventually("it is over", || (daemon.json("/v1/status")["pools"][0]["active"] == 0).then_some(()));
    }
}
