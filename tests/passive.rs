//! What live traffic shows of a backend: its first answers, ejections and what becomes of them.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::fmt::Write as _;
use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};
use support::scripted::Client;
use support::speaker::{SERVER_HELLO, Says, Speaker, TWO, ask, backend, events, hello, wait_for_answers};
use support::{Daemon, eventually, own_loopback};

/// One listener for each way that bytes take, and one for databases.
const PATHS: [&str; 4] = ["auto", "copy", "splice", "db"];

#[test]
fn first_answers_are_counted_whichever_way_the_bytes_take() {
    let address = own_loopback();
    let mut body = String::new();
    for (at, path) in PATHS.into_iter().enumerate() {
        let (protocol, relay) = if path == "db" { ("postgres", "auto") } else { ("tls", path) };
        write!(
            body,
            "[[listener]]\nname = \"{path}\"\nprotocol = \"{protocol}\"\nbind = [\"{{ip}}:{}\"]\n\
             [[listener.route]]\nsni = [\"a.test\"]\npool = \"{path}\"\n\
             [pool.{path}]\nrelay = \"{relay}\"\nfirst-byte-timeout = \"1500ms\"\n\
             [[pool.{path}.backend]]\nname = \"{path}\"\naddress = \"{{ip}}:{}\"\n\
             [pool.{path}.passive]\nfailures = 0\n",
            443 + at,
            1001 + at
        )
        .unwrap();
    }
    let speakers: Vec<Speaker> = (1001..1005).map(|port| Speaker::start((address, port), Says::Hello)).collect();
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let warned = b"\x15\x03\x03\0\x02\x01\x70\x16\x03\x03\0\x06\x02\0\0\x02\x03\x03";
    for ((path, speaker), port) in PATHS.into_iter().zip(&speakers).zip(443..) {
        let ask = || {
            let mut client = Client::new(daemon.at(port));
            if path == "db" {
                client = client.asked();
            }
            client.say(&hello());
            client
        };
        let cases = [
            (Says::Hello, "server_hello", 1),
            (Says::Bytes(warned), "server_hello", 2),
            (Says::Alert(40), "alert", 1),
            (Says::Alert(80), "alert", 2),
            (Says::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "other", 1),
            (Says::Closes, "closed", 1),
            (Says::Resets, "reset", 1),
        ];
        for (says, answer, count) in cases {
            speaker.tell(says);
            let mut client = ask();
            match says {
                Says::Hello => client.expect(&SERVER_HELLO),
                Says::Alert(alert) => assert_eq!(client.rest(), [0x15, 3, 3, 0, 2, 2, alert]),
                Says::Bytes(bytes) => assert_eq!(client.rest(), bytes),
                Says::Closes => client.expect_silence(),
                Says::Resets => assert!(client.0.read(&mut [0]).is_err(), "a reset"),
                Says::Nothing => {}
            }
            wait_for_answers(&daemon, path, answer, count);
        }
        // Silence is seen, and the session goes on all the same.
        speaker.tell(Says::Nothing);
        let mut patient = ask();
        wait_for_answers(&daemon, path, "silence", 1);
        speaker.tell(Says::Hello);
        patient.expect(&SERVER_HELLO);
        patient.say(b"and more");
        patient.expect(b"and more");
        // A client that leaves before the answer says nothing of the server.
        speaker.tell(Says::Nothing);
        let leaving = ask();
        socket2::SockRef::from(&leaving.0).set_linger(Some(Duration::ZERO)).unwrap();
        drop(leaving);
        // Only then may the server close: whoever was first would otherwise be left to chance.
        eventually("the one that left is over", || (daemon.json("/v1/sessions").as_array()?.len() == 1).then_some(()));
        speaker.tell(Says::Closes);
        drop(patient);
        let want = [("server_hello", 2), ("alert", 2), ("other", 1), ("closed", 1), ("reset", 1), ("silence", 1)];
        eventually("all sessions are over", || (daemon.json("/v1/sessions") == json!([])).then_some(()));
        for (answer, count) in want {
            let labels = format!("pool=\"{path}\",backend=\"{path}\",answer=\"{answer}\"");
            assert_eq!(daemon.metric(&format!("sluice_backend_first_answers_total{{{labels}}}")), f64::from(count));
        }
        assert_eq!(backend(&daemon, path)["state"], "unchecked");
    }
}

#[test]
fn an_ejection_is_told_everywhere_with_what_it_rests_on() {
    let address = own_loopback();
    let (silent, _b) = (Speaker::start((address, 1001), Says::Nothing), Speaker::start((address, 1002), Says::Hello));
    // Its check is content with a connection: that must not take it down, nor bring it back.
    let body = format!("{TWO}eject = \"1h\"\n[pool.p.health]\ncheck = \"tcp\"\ninterval = \"50ms\"\n");
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let mut waiting: Vec<Client> = (0..3).map(|network| Client::from([127, 100, network, 1], daemon.at(443))).collect();
    for client in &mut waiting {
        client.say(&hello());
    }
    daemon.wait_for_state("a", "ejected");
    let event = events(&daemon, "ejected").remove(0);
    assert_eq!(
        (&event["backend"], &event["from"], &event["to"], &event["by"]),
        (&json!("a"), &json!("up"), &json!("ejected"), &json!("live")),
        "{event}"
    );
    let detail = event["detail"].as_str().unwrap();
    assert!(detail.starts_with("failures in a row, the last: silence instead of a ServerHello after "), "{detail}");
    assert!(detail.ends_with("; for 3600 s, ejection 1 in a row"), "{detail}");
    let took: f64 = detail.split(" after ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((60.0..10_000.0).contains(&took), "{detail}");
    // The session that it names is one of those that go on.
    let named = detail.split("(session ").nth(1).unwrap().split(')').next().unwrap();
    let sessions = daemon.json("/v1/sessions");
    assert!(sessions.as_array().unwrap().iter().any(|session| session["session"] == named), "{named}: {sessions}");

    let row = backend(&daemon, "a");
    assert_eq!(
        (&row["ejections"], &row["ejection"]["in_a_row"], &row["effective_weight"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(row["ejection"]["detail"], detail);
    assert_eq!(daemon.json("/v1/status")["pools"][0]["backends"]["ejected"], 1);
    let label = "pool=\"p\",backend=\"a\"";
    assert_eq!(daemon.metric(&format!("sluice_backend_state{{{label},state=\"ejected\"}}")), 1.0);
    assert_eq!(daemon.metric(&format!("sluice_backend_up{{{label}}}")), 0.0);
    assert_eq!(daemon.metric(&format!("sluice_backend_ejections_total{{{label}}}")), 1.0);
    let route = daemon.ask("route", &json!({ "listener": "tls", "sni": "a.test" }))["result"].clone();
    assert_eq!(route["backend"], "b");
    let why = route["others"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("ejected until ") && why.ends_with(detail), "{why}");
    let listed = String::from_utf8(daemon.cli(&["events", "--pool", "p"]).stdout).unwrap();
    assert!(listed.contains("\tp\ta\tup\tejected\tlive\tejected\tfailures in a row"), "{listed}");
    let told = daemon.ask("events", &json!({ "pool": "p", "limit": 1 }))["result"].clone();
    assert_eq!(told[0]["id"], event["id"], "{told}");
    daemon.wait_for_log("\"ejected\"");
    let line = daemon.log().lines().find(|line| line.contains("\"ejected\"")).map(str::to_owned);
    let line: Value = serde_json::from_str(&line.expect("a line in the log")).unwrap();
    assert_eq!((&line["backend"], &line["detail"]), (&json!("a"), &json!(detail)), "{line}");

    // Who waits is served by it once it speaks; who comes is served by the other, whatever the checks of the first say.
    let checks = backend(&daemon, "a")["check"]["at"].clone();
    eventually("one more check", || (backend(&daemon, "a")["check"]["at"] != checks).then_some(()));
    assert_eq!(backend(&daemon, "a")["state"], "ejected");
    assert_eq!(ask(&daemon, 1).unwrap(), SERVER_HELLO);
    silent.tell(Says::Hello);
    for client in &mut waiting {
        client.expect(&SERVER_HELLO);
    }
}

#[test]
fn ejections_grow_in_a_row_and_a_calm_stretch_begins_anew() {
    let address = own_loopback();
    let _b = Speaker::start((address, 1002), Says::Hello);
    let body = format!("{TWO}eject = \"1s\"\n");
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let ejected = |count: usize| {
        eventually(&format!("ejection {count}"), || {
            // Nobody notices: `b` takes what `a` refuses.
            assert_eq!(ask(&daemon, 1).unwrap(), SERVER_HELLO);
            Some(events(&daemon, "ejected")).filter(|events| events.len() >= count)
        })
    };
    let returned = |count: usize| {
        eventually(&format!("return {count}"), || {
            Some(events(&daemon, "returned")).filter(|events| events.len() >= count)
        })
    };
    let moment = |event: &Value| event["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for nth in 1..=3_usize {
        let (out, back) = (ejected(nth)[nth - 1].clone(), returned(nth)[nth - 1].clone());
        let detail = out["detail"].as_str().unwrap();
        assert!(detail.contains("Connection refused"), "{detail}");
        assert!(detail.ends_with(&format!("for {nth} s, ejection {nth} in a row")), "{detail}");
        let took = moment(&back).duration_since(moment(&out)).unsigned_abs();
        let want = Duration::from_secs(nth as u64);
        // The coarse clock has up to 10 ms of its own; the machine may be busy.
        assert!(
            (want.saturating_sub(Duration::from_millis(12))..want + Duration::from_secs(3)).contains(&took),
            "{nth}: {took:?}"
        );
        assert_eq!(
            (&back["from"], &back["to"], &back["by"]),
            (&json!("ejected"), &json!("unchecked"), &json!("clock"))
        );
    }
    // Well again for longer than the last ejection took.
    let mut a = Speaker::start((address, 1001), Says::Hello);
    let calm_until = moment(&returned(3)[2]).checked_add(Duration::from_millis(3600)).unwrap();
    eventually("calm", || {
        assert_eq!(ask(&daemon, 1).unwrap(), SERVER_HELLO);
        (jiff::Timestamp::now() > calm_until).then_some(())
    });
    assert!(a.accepted() > 0, "it takes traffic again");
    assert_eq!(events(&daemon, "ejected").len(), 3);
    a.stop();
    let detail = ejected(4)[3]["detail"].as_str().unwrap().to_owned();
    assert!(detail.ends_with("for 1 s, ejection 1 in a row"), "{detail}");
    assert_eq!(backend(&daemon, "a")["ejections"], 4);
    eventually("three refusals for each ejection", || {
        let tries = daemon.records().iter().filter(|record| record["tries"] == 2).count();
        assert!(tries <= 14, "{tries}");
        (tries >= 12).then_some(())
    });
}

#[test]
fn no_more_are_ejected_than_the_share_and_never_the_last_one() {
    // Four backends, three of them dead; how many may be out at once.
    for (share, most) in [("0.5", 2), ("0.25", 1), ("0.0", 1), ("1.0", 3)] {
        let address = own_loopback();
        let _one = Speaker::start((address, 1004), Says::Hello);
        let backends = "\"{ip}:1001\", \"{ip}:1002\", \"{ip}:1003\", \"{ip}:1004\"";
        let body = format!(
            "[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n[pool.p]\nconnect-tries = 4\n\
             balance = \"round-robin\"\nbackends = [{backends}]\n\
             [pool.p.passive]\nfailures = 1\neject = \"1h\"\nmax-ejected = {share}\n"
        );
        let daemon = Daemon::start_on(address, &body, "workers = 1\n", |command| command);
        for _ in 0..20 {
            assert_eq!(ask(&daemon, 1).unwrap(), SERVER_HELLO);
        }
        let ejected = || {
            let list = daemon.json("/v1/backends");
            list.as_array().unwrap().iter().filter(|row| row["state"] == "ejected").count()
        };
        eventually(&format!("{most} of 4 with {share}"), || (ejected() == most).then_some(()));
        daemon.wait_for_records(20);
        assert_eq!(ejected(), most, "{share}");
    }
}

#[test]
fn one_without_another_beside_it_is_not_ejected_and_comes_back_when_the_other_goes() {
    let address = own_loopback();
    let (a, b) = (Speaker::start((address, 1001), Says::Nothing), Speaker::start((address, 1002), Says::Hello));
    let body = format!("{TWO}eject = \"1h\"\n");
    let lonely = body.replace("backup = true", "weight = 0");
    let daemon = Daemon::start_on(address, &lonely, "", |command| command);
    let mut waiting = Vec::new();
    let mut wait_in_vain = |count: u64| {
        let before = backend(&daemon, "a")["first_answers"]["silence"].as_u64().unwrap();
        for _ in 0..count {
            let mut client = Client::new(daemon.at(443));
            client.say(&hello());
            waiting.push(client);
        }
        wait_for_answers(&daemon, "a", "silence", before + count);
    };
    wait_in_vain(10);
    assert_eq!(backend(&daemon, "a")["ejections"], 0, "one of weight 0 is no other");

    daemon.write_config(&body, "");
    daemon.reload();
    // The row is long enough by now.
    wait_in_vain(1);
    daemon.wait_for_state("a", "ejected");
    let drained = daemon.cli(&["drain", "p/b"]);
    assert!(drained.status.success());
    daemon.wait_for_state("a", "unchecked");
    let back = events(&daemon, "returned").remove(0);
    assert_eq!((&back["backend"], &back["detail"]), (&json!("a"), &json!("no other backend takes connections")));
    let operator = events(&daemon, "operator").remove(0);
    assert_eq!((&operator["from"], &operator["to"]), (&json!("unchecked"), &json!("draining")), "{operator}");
    assert_eq!(operator["by"], "operator");
    assert!(operator["detail"].as_str().unwrap().starts_with("drain, by uid "), "{operator}");
    wait_in_vain(10);
    assert_eq!(backend(&daemon, "a")["ejections"], 1, "the last one");

    // With the other back it goes again, and comes back when the configuration knows of no ejections.
    assert!(daemon.cli(&["enable", "p/b"]).status.success());
    wait_in_vain(1);
    daemon.wait_for_state("a", "ejected");
    daemon.write_config(&body.replace("failures = 3", "failures = 0").replace("eject = \"1h\"", ""), "");
    daemon.reload();
    daemon.wait_for_state("a", "unchecked");
    wait_in_vain(10);
    assert_eq!(backend(&daemon, "a")["ejections"], 2);
    assert_eq!((a.accepted() > 30, b.accepted()), (true, 0));
}
