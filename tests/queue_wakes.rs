//! What makes room for those who wait in a pool's line, or ends their waiting: reloads, backends that come up, operators,
//! the end of the process. The line itself is in `queue.rs`.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;

use nix::sys::signal::Signal;
use serde_json::json;
use support::counting::Counting;
use support::line::{
    GLOBAL, ONE, client, config, config_with, end, ends, greeted, line, start, start_on, wait_for_waiting, waiting,
};
use support::{Daemon, alert_of, eventually, own_loopback};

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
    for next in &line {
        assert_eq!(greeted(next), 'a');
    }
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
        for next in &line {
            assert_eq!(greeted(next), 'b', "{command}");
        }
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
