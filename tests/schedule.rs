//! When backends are checked: the pace in every state, spread while all is steady, once for all who ask the same, and what
//! a reload changes of it.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::arrivals::Arrivals;
use support::speaker::{Says, Speaker, ask, backend, events, wait_for_answers};
use support::{Backend, Daemon, eventually, own_loopback};

const LISTENER: &str = "[[listener]]\nname = \"tls\"\nbind = [\"{ip}:443\"]\npool = \"p\"\n";
/// Of a busy machine, on top of every pause.
const LATE: Duration = Duration::from_millis(700);
/// How much sooner, when the arrival before it was seen that late.
const EARLY: Duration = Duration::from_millis(80);

fn pool(name: &str, backends: &str, check: &str) -> String {
    format!("[pool.{name}]\nbackends = {backends}\n[pool.{name}.health]\n{check}\n")
}

/// A pool with one backend called `a`, and a check.
fn one(check: &str) -> String {
    format!(
        "{LISTENER}[pool.p]\n[[pool.p.backend]]\nname = \"a\"\naddress = \"{{ip}}:1001\"\n[pool.p.health]\n{check}\n"
    )
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A pause that was meant to be `base`, give or take a tenth.
fn about(base: Duration) -> Range<Duration> {
    (base * 9 / 10).saturating_sub(EARLY)..base * 11 / 10 + LATE
}

/// Waits for arrival number `number`, from 0.
#[track_caller]
fn arrival(speaker: &Speaker, number: usize) -> Instant {
    eventually(&format!("arrival {number}"), || speaker.arrivals().get(number).copied())
}

#[test]
fn pace_follows_the_state() {
    let (fast, down, steady) = (ms(100), ms(1500), ms(3000));
    let address = own_loopback();
    let speaker = Speaker::start((address, 1001), Says::Hello);
    let check = "check = \"tls-hello\"\ninterval = \"3s\"\nfast-interval = \"100ms\"\ndown-interval = \"1500ms\"\n\
                 rise = 3\nfall = 3";
    let daemon = Daemon::start_on(address, &one(check), "", |command| command);
    // The very first success is enough, whatever `rise` says.
    assert_eq!((backend(&daemon, "a")["state"].clone(), speaker.accepted()), (json!("up"), 1));
    // The first pause is any part of the interval; the next ones are whole.
    let spread = arrival(&speaker, 1) - arrival(&speaker, 0);
    assert!((ms(20)..steady + LATE).contains(&spread), "{spread:?}");
    let gap = |from: usize| arrival(&speaker, from + 1) - arrival(&speaker, from);
    // A check that has come and was not answered yet would hear what the speaker is told next.
    let answered = || {
        eventually("no check is under way", || {
            (checks(&daemon, "p", "a") == speaker.arrivals().len() as u64).then_some(())
        });
    };
    assert!(about(steady).contains(&gap(1)), "steady: {:?}", gap(1));
    answered();
    speaker.tell(Says::Closes);
    // One check that is still content may be on its way.
    let mut at = speaker.arrivals().len();
    let told = Instant::now();
    daemon.wait_for_state("a", "down");
    assert!(told.elapsed() < steady * 11 / 10 + 2 * fast + 2 * LATE, "{:?}", told.elapsed());
    for nth in 0..2 {
        assert!(about(fast).contains(&gap(at + nth)), "failure {}: {:?}", nth + 2, gap(at + nth));
    }
    for nth in 2..4 {
        assert!(about(down).contains(&gap(at + nth)), "down: {:?}", gap(at + nth));
    }
    let event = events(&daemon, "closed").remove(0);
    assert_eq!((&event["from"], &event["to"], &event["by"]), (&json!("up"), &json!("down"), &json!("check")));
    let phases: Vec<&str> =
        event["evidence"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases.first(), Some(&"connect"), "{event}");
    assert!(event["evidence"][0]["took_ms"].as_f64().unwrap() > 0.0, "{event}");

    answered();
    at = speaker.arrivals().len();
    speaker.tell(Says::Hello);
    daemon.wait_for_state("a", "up");
    for nth in 0..2 {
        assert!(about(fast).contains(&gap(at + nth)), "success {}: {:?}", nth + 2, gap(at + nth));
    }
    assert!(about(steady).contains(&gap(at + 2)), "steady again: {:?}", gap(at + 2));
}

#[test]
fn first_failure_is_down_and_counts_as_nothing_to_lose() {
    let address = own_loopback();
    let check = "check = \"tcp\"\ninterval = \"100ms\"\ndown-interval = \"100ms\"\nfall = 5\nrise = 2";
    let daemon = Daemon::start_on(address, &one(check), "", |command| command);
    // Never proven: the first failure is the proof to the contrary, and no client is sent there.
    let row = backend(&daemon, "a");
    assert_eq!((&row["state"], &row["check"]["last"]), (&json!("down"), &json!("failed")), "{row}");
    assert_eq!(support::alert_of(&ask(&daemon, 1).unwrap()), Some(80));
    assert_eq!(row["connect_errors"], 0);
    let _backend = Backend::naming((address, 1001), "a");
    daemon.wait_for_state("a", "up");
    let states: Vec<(Value, Value)> = daemon
        .json("/v1/events")
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["from"].clone(), event["to"].clone()))
        .collect();
    let want = [(json!("unknown"), json!("down")), (json!("down"), json!("up"))];
    assert_eq!(states, want, "unknown and down are both no traffic, and two things to know");
}

#[test]
fn live_failure_brings_the_next_check_forward_and_a_flood_of_them_does_not_flood_the_backend() {
    let address = own_loopback();
    let speaker = Speaker::start((address, 1001), Says::Alert(40));
    let daemon = Daemon::start_on(address, &one("check = \"tcp\"\ninterval = \"24h\""), "", |command| command);
    assert_eq!(speaker.accepted(), 1);
    // A second prober's pause: the check that follows comes 100 ms after the last one at the earliest.
    ask(&daemon, 1);
    let pause = arrival(&speaker, 2) - arrival(&speaker, 1);
    assert!(pause < ms(100) + LATE, "{pause:?}");
    eventually("the check is over", || (checks(&daemon, "p", "a") == 2).then_some(()));
    let begun = Instant::now();
    for _ in 0..300 {
        ask(&daemon, 1);
    }
    wait_for_answers(&daemon, "a", "alert", 301);
    let (took, made) = (begun.elapsed(), checks(&daemon, "p", "a") - 2);
    assert!(made <= took.as_millis() as u64 / 100 + 1, "{made} checks in {took:?}");
    assert!(backend(&daemon, "a")["state"] == "up");
}

/// Checks that were made of a backend.
fn checks(daemon: &Daemon, pool: &str, name: &str) -> u64 {
    let label = format!("pool=\"{pool}\",backend=\"{name}\"");
    let of = |result| daemon.metric(&format!("sluice_backend_checks_total{{{label},result=\"{result}\"}}")) as u64;
    of("ok") + of("failed")
}

#[test]
fn steady_checks_of_many_backends_do_not_march_in_step() {
    const COUNT: usize = 200;
    let arrivals = Arrivals::start();
    let body = format!("{LISTENER}{}", pool("p", &arrivals.list(COUNT), "check = \"tcp\"\ninterval = \"2s\""));
    let daemon = Daemon::start(&body);
    // All at once first; the pause after it is any part of the interval, so that two intervals later all are steady.
    let first = eventually("the first round", || arrivals.seen().get(COUNT - 1).copied());
    let from = first + ms(2200);
    let seen = eventually("four rounds", || {
        let steady: Vec<Instant> = arrivals.seen().into_iter().filter(|at| *at > from).collect();
        (steady.len() >= 4 * COUNT).then_some(steady)
    });
    let took = *seen.last().unwrap() - seen[0];
    assert!((ms(6000)..ms(14_000)).contains(&took), "{took:?}");
    // When they are due, which no stalled machine changes.
    let list = daemon.json("/v1/backends");
    let due = |row: &Value| row["check"]["next_at"].as_str()?.parse::<jiff::Timestamp>().ok();
    let mut due: Vec<i64> =
        list.as_array().unwrap().iter().filter_map(due).map(jiff::Timestamp::as_millisecond).collect();
    due.sort_unstable();
    assert!(due.len() > COUNT * 9 / 10, "{} of {COUNT} wait for their time", due.len());
    let most = (0..due.len()).map(|at| due[at..].iter().take_while(|later| **later < due[at] + 100).count()).max();
    let share = COUNT / 20;
    eprintln!("{} checks in {took:?}; the busiest 100 ms have {most:?}, their share is {share}", seen.len());
    assert!(most.unwrap() <= 4 * share, "{most:?} in 100 ms");
}

#[test]
fn no_more_than_256_checks_of_a_pool_run_at_once() {
    const COUNT: usize = 700;
    // Accepted by the kernel, and never answered.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
    socket.listen(2000).unwrap();
    let listener = TcpListener::from(socket);
    let port = listener.local_addr().unwrap().port();
    let list: Vec<String> =
        (0..COUNT).map(|number| format!("\"127.91.{}.{}:{port}\"", number / 250, number % 250 + 1)).collect();
    let check = "check = \"tls-hello\"\ninterval = \"24h\"\ndown-interval = \"24h\"\ntimeout = \"1s\"";
    let body = format!("{LISTENER}{}", pool("p", &format!("[{}]", list.join(", ")), check));
    let daemon = Daemon::start_unready(own_loopback(), &body, "");
    let mut most = 0;
    eventually("all were checked", || {
        most = most.max(daemon.descriptors());
        let list = daemon.json("/v1/backends");
        list.as_array()?.iter().all(|row| row["check"]["last"] == "failed").then_some(())
    });
    eprintln!("{most} descriptors at most");
    // The daemon has some thirty of its own.
    assert!((200..256 + 60).contains(&most), "{most}");
}

#[test]
fn backend_of_several_pools_is_checked_once_and_all_of_them_learn_it() {
    let address = own_loopback();
    let speaker = Speaker::start((address, 1001), Says::Hello);
    let check = "check = \"tls-hello\"\ninterval = \"100ms\"\nfast-interval = \"50ms\"\ndown-interval = \"100ms\"";
    let pools: String = ["p", "q", "r"].map(|name| pool(name, "[\"{ip}:1001\"]", check)).concat();
    // Another check of the same address is one of its own.
    let other = pool("s", "[\"{ip}:1001\"]", &format!("{check}\ntimeout = \"900ms\""));
    let daemon = Daemon::start_on(address, &format!("{LISTENER}{pools}{other}"), "", |command| command);
    let name = daemon.at(1001).to_string();
    let states = |state: &str| {
        let list = daemon.json("/v1/backends");
        list.as_array().unwrap().iter().all(|row| row["state"] == state)
    };
    assert!(states("up"));
    speaker.tell(Says::Closes);
    eventually("all are down", || states("down").then_some(()));
    speaker.tell(Says::Hello);
    eventually("all are up", || states("up").then_some(()));
    speaker.tell(Says::Closes);
    eventually("all are down", || states("down").then_some(()));
    let (arrived, made) = eventually("between two checks", || {
        let before = speaker.accepted();
        let made = ["p", "q", "r", "s"].map(|pool| checks(&daemon, pool, &name));
        let is_even = made[0] == made[1] && made[1] == made[2];
        (speaker.accepted() == before && is_even && made[0] + made[3] == u64::from(before)).then_some((before, made))
    });
    assert!(arrived >= 14, "{made:?}");
    let told: Vec<Value> = events(&daemon, "closed").iter().map(|event| event["pool"].clone()).collect();
    for pool in ["p", "q", "r", "s"] {
        assert_eq!(told.iter().filter(|told| *told == pool).count(), 2, "{pool}: {told:?}");
    }
}

#[test]
fn reload_leaves_checks_alone_that_did_not_change() {
    let address = own_loopback();
    let speaker = Speaker::start((address, 1001), Says::Hello);
    let check = "check = \"tls-hello\"\ninterval = \"24h\"";
    let daemon = Daemon::start_on(address, &one(check), "", |command| command);
    let next = || backend(&daemon, "a")["check"]["next_at"].clone();
    let before = eventually("it is known when the next one is", || Some(next()).filter(Value::is_string));
    daemon.write_config(&one(check).replace("[pool.p]\n", "[pool.p]\nconnect-timeout = \"3s\"\n"), "");
    daemon.reload();
    assert_eq!((speaker.accepted(), next()), (1, before.clone()));
    // A check that changed is made at once; until it says otherwise what is known stays.
    daemon.write_config(&one(&format!("{check}\ntimeout = \"900ms\"\nrise = 5")), "");
    daemon.reload();
    assert_eq!((speaker.accepted(), backend(&daemon, "a")["state"].clone()), (2, json!("up")));
    eventually("a time of its own", || (next() != before).then_some(()));
    assert_eq!(events(&daemon, "server_hello").len(), 1, "it was up all the time");
}

#[test]
fn checks_of_a_backend_that_was_removed_stop() {
    let address = own_loopback();
    let speakers = [1001, 1002].map(|port| Speaker::start((address, port), Says::Hello));
    let check = "check = \"tls-hello\"\ninterval = \"40ms\"";
    let body = |list: &str| format!("{LISTENER}{}", pool("p", list, check));
    let daemon = Daemon::start_on(address, &body("[\"{ip}:1001\", \"{ip}:1002\"]"), "", |command| command);
    arrival(&speakers[0], 5);
    daemon.write_config(&body("[\"{ip}:1002\"]"), "");
    daemon.reload();
    // Some may have been on their way, or in the backend's queue: then it is over for good.
    let of = |speaker: &Speaker| speaker.arrivals().len();
    eventually("no check comes while the other gets twenty", || {
        let (left, others) = (of(&speakers[0]), of(&speakers[1]));
        arrival(&speakers[1], others + 20);
        (of(&speakers[0]) == left).then_some(())
    });
}
