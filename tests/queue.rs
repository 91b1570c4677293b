//! `queue-timeout`: who finds no place waits in one line over all workers, in order of arrival, and nobody is forgotten.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::SockRef;
use support::counting::Counting;
use support::hello::client_hello;
use support::{Daemon, alert_of, connect, eventually, own_loopback};

const GLOBAL: &str = "workers = 2\n";

/// A tls listener on 443 and a tcp listener on 444, both in front of backend `b` on 1001.
fn config(pool: &str) -> String {
    config_with(pool, "")
}

fn config_with(pool: &str, backend: &str) -> String {
    format!(
        r#"
[[listener]]
name = "tls"
bind = ["{{ip}}:443"]
pool = "p"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{{ip}}:444"]
pool = "p"
[pool.p]
passive.failures = 0
{pool}
[[pool.p.backend]]
name = "b"
address = "{{ip}}:1001"
{backend}
"#
    )
}

const ONE: &str = "max-connections = 1\nqueue-timeout = \"20s\"";

fn start(body: &str) -> (Daemon, Counting) {
    let address = own_loopback();
    let backends = Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
    (start_on(address, body), backends)
}

fn start_on(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, GLOBAL, |command| command)
}

fn waiting(daemon: &Daemon) -> u64 {
    daemon.json("/v1/status")["pools"][0]["waiting"].as_u64().unwrap()
}

#[track_caller]
fn wait_for_waiting(daemon: &Daemon, count: u64) {
    eventually(&format!("{count} wait"), || (waiting(daemon) == count).then_some(()));
}

/// A client that has said its first words.
fn client(at: SocketAddr) -> TcpStream {
    let mut stream = connect(at);
    stream.write_all(&client_hello(Some("any.test"), &[])).unwrap();
    stream
}

/// Clients that wait, in this order.
#[track_caller]
fn line(daemon: &Daemon, port: u16, count: u64) -> Vec<TcpStream> {
    let join = |position| {
        let stream = client(daemon.at(port));
        wait_for_waiting(daemon, position);
        stream
    };
    (1..=count).map(join).collect()
}

/// Waits until a backend has greeted; its letter.
#[track_caller]
fn greeted(mut stream: &TcpStream) -> char {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("served");
    assert_ne!(byte[0], 0x15, "refused");
    byte[0].into()
}

#[track_caller]
fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Whether nothing has been answered yet.
fn is_unserved(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    silent
}

fn ends(daemon: &Daemon, count: usize, end: &str) -> Vec<Value> {
    eventually(&format!("{count} records of {end}"), || {
        let records: Vec<Value> = daemon.records().into_iter().filter(|record| record["end"] == end).collect();
        (records.len() == count).then_some(records)
    })
}

#[test]
fn those_who_wait_are_served_in_order_of_arrival_over_both_workers() {
    let (daemon, backends) = start(&config(ONE));
    let mut served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 40);
    let workers = daemon.json("/v1/status")["worker_connections"].clone();
    assert!(workers.as_array().unwrap().iter().all(|count| count.as_u64() > Some(3)), "both take part: {workers}");
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
        assert!((Duration::from_millis(400)..Duration::from_millis(600)).contains(&took), "{port}: {took:?}");
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
    while begun.elapsed() < Duration::from_millis(500) {
        assert_eq!(waiting(&daemon), 2, "both keep their turns");
        thread::sleep(Duration::from_millis(20));
    }
    let spent = daemon.cpu_time() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU in 500 ms");
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

#[test]
fn reload_that_makes_room_wakes_those_who_wait() {
    let more_room: [(&str, String); 4] = [
        ("a higher limit", config("max-connections = 5\nqueue-timeout = \"20s\"")),
        ("no limit", config("queue-timeout = \"20s\"")),
        ("a higher limit and no queue", config("max-connections = 5")),
        ("another backend", config_with("queue-timeout = \"20s\"\nbackends = [\"{ip}:1002\"]", "max-connections = 1")),
    ];
    for (what, after) in more_room {
        let before = if what == "another backend" {
            config_with("queue-timeout = \"20s\"", "max-connections = 1")
        } else {
            config(ONE)
        };
        let (daemon, _backends) = start(&before);
        let served = client(daemon.at(443));
        greeted(&served);
        let line = line(&daemon, 443, 3);
        daemon.write_config(&after, GLOBAL);
        daemon.reload();
        for next in &line {
            greeted(next);
        }
        wait_for_waiting(&daemon, 0);
        // Whoever comes now finds no line.
        greeted(&client(daemon.at(444)));
        drop(served);
    }
}

#[test]
fn reload_without_a_queue_leaves_nobody_behind() {
    let (daemon, _backends) = start(&config(ONE));
    let served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 2);
    daemon.write_config(&config("max-connections = 1"), GLOBAL);
    daemon.reload();
    // A new client is refused at once and takes nobody's turn.
    let mut new = client(daemon.at(443));
    let mut answer = Vec::new();
    new.read_to_end(&mut answer).unwrap();
    assert_eq!(alert_of(&answer), Some(80));
    assert_eq!(ends(&daemon, 1, "limit_reached").len(), 1);
    let mut served = served;
    for next in line {
        end(served);
        greeted(&next);
        served = next;
    }
}

/// Two backends, of which only `b` takes connections and has one place.
fn two(spare: &str) -> String {
    config_with(
        "queue-timeout = \"20s\"\n[pool.p.health]\ncheck = \"tcp\"\ninterval = \"50ms\"\ndown-interval = \"50ms\"\nrise = 1\nfall = 1",
        &format!("max-connections = 1\n[[pool.p.backend]]\nname = \"spare\"\naddress = \"{{ip}}:{spare}\""),
    )
}

#[test]
fn backend_that_comes_up_wakes_those_who_wait() {
    let address = own_loopback();
    let _one = Counting::start(&[(address, 1001).into()]);
    let daemon = start_on(address, &two("1005"));
    daemon.wait_for_state("spare", "down");
    let served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 3);
    let _spare = Counting::start(&[(address, 1005).into()]);
    line.iter().for_each(|next| assert_eq!(greeted(next), 'a'));
    assert_eq!(waiting(&daemon), 0);
}

#[test]
fn operator_who_enables_a_backend_wakes_those_who_wait() {
    let (daemon, _backends) = start(&two("1002"));
    for command in ["disable", "drain"] {
        assert!(daemon.cli(&[command, "p/spare"]).status.success());
        let served = client(daemon.at(443));
        assert_eq!(greeted(&served), 'a');
        let line = line(&daemon, 443, 3);
        assert!(daemon.cli(&["enable", "p/spare"]).status.success());
        line.iter().for_each(|next| assert_eq!(greeted(next), 'b', "{command}"));
        line.into_iter().chain([served]).for_each(end);
        eventually("it is over", || (daemon.json("/v1/status")["pools"][0]["active"] == 0).then_some(()));
    }
}

#[test]
fn waiting_ends_when_no_backend_takes_connections_any_more() {
    let (daemon, _backends) = start(&config_with("queue-timeout = \"20s\"", "max-connections = 1"));
    let served = client(daemon.at(443));
    greeted(&served);
    let line = line(&daemon, 443, 3);
    assert!(daemon.cli(&["disable", "p/b"]).status.success());
    for mut next in line {
        let mut answer = Vec::new();
        next.read_to_end(&mut answer).unwrap();
        assert_eq!(alert_of(&answer), Some(80));
    }
    assert_eq!(ends(&daemon, 3, "no_backend").len(), 3);
    assert_eq!(waiting(&daemon), 0);
}

#[test]
fn stopping_ends_waiting() {
    for (signal, global) in [(Signal::SIGTERM, "shutdown-grace = \"300ms\"\n"), (Signal::SIGINT, "")] {
        let address = own_loopback();
        let _backends = Counting::start(&[(address, 1001).into()]);
        let global = format!("{GLOBAL}{global}");
        let mut daemon = Daemon::start_on(address, &config(ONE), &global, |command| command);
        let served = client(daemon.at(443));
        greeted(&served);
        let line = line(&daemon, 443, 5);
        daemon.signal(signal);
        assert!(daemon.wait_for_exit().success());
        assert_eq!(ends(&daemon, 6, "shutdown").len(), 6, "{signal}");
        drop((line, served));
    }
}

#[test]
fn who_was_sent_away_by_a_backend_waits_without_a_place_there() {
    let address = own_loopback();
    let _backends = Counting::start(&[(address, 1001).into()]);
    // Nobody listens on 1005.
    let spare =
        "max-connections = 1\n[[pool.p.backend]]\nname = \"dead\"\naddress = \"{ip}:1005\"\nmax-connections = 1";
    let daemon = start_on(address, &config_with("queue-timeout = \"20s\"", spare));
    let served = client(daemon.at(443));
    greeted(&served);
    let next = client(daemon.at(443));
    wait_for_waiting(&daemon, 1);
    let rows = daemon.json("/v1/backends");
    let active =
        |name: &str| rows.as_array().unwrap().iter().find(|row| row["backend"] == name).unwrap()["active"].clone();
    assert_eq!((active("b"), active("dead")), (json!(1), json!(0)), "{rows:#}");
    end(served);
    greeted(&next);
}
