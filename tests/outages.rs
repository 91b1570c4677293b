//! Outages under load: how soon no new session goes to a backend that was killed, stopped or cut off by a firewall, and
//! how many clients notice; a backend that comes and goes. Needs root, for namespaces. `--nocapture` shows the figures.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use support::namespace::Namespace;
use support::servers::{Certificate, Clients, Nginx};
use support::speaker::{Says, Speaker, ask_from, hello};
use support::{Daemon, eventually, own_loopback};

const CLIENTS: usize = 4;

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
connect-timeout = "250ms"
first-byte-timeout = "5s"
[[pool.p.backend]]
name = "a"
address = "{ip}:1001"
[[pool.p.backend]]
name = "b"
address = "{ip}:1002"
[pool.p.health]
check = "tls-hello"
interval = "500ms"
fast-interval = "100ms"
timeout = "250ms"
down-interval = "300ms"
[pool.p.passive]
failures = 3
eject = "500ms"
"#;

/// Two real servers with clients in front, in a namespace of their own.
struct World {
    // In the order in which they end.
    daemon: Daemon,
    a: Nginx,
    _b: Nginx,
    _certificate: Certificate,
    space: Namespace,
}

/// What an outage came to.
struct Outage {
    /// Until the last session that went to the dead one, or tried.
    last: Duration,
    noticed: usize,
    slowest: Duration,
    sessions: usize,
}

impl World {
    /// A server that is silent for so long has failed.
    fn new(first_byte: &str) -> Self {
        let (space, address) = (Namespace::new(), own_loopback());
        let certificate = Certificate::for_name("a.test");
        let start = |port, name: &str| space.enter(|| Nginx::start((address, port).into(), name, &certificate));
        let (a, b) = (start(1001, "a"), start(1002, "b"));
        let config = CONFIG.replace("first-byte-timeout = \"5s\"", &format!("first-byte-timeout = \"{first_byte}\""));
        let daemon = space.enter(|| Daemon::start_on(address, &config, "", |command| command));
        Self { daemon, a, _b: b, _certificate: certificate, space }
    }

    /// Has clients ask all the time while `strike` happens and after it; waits until backend `a` takes no more sessions,
    /// and for many that were served since.
    #[track_caller]
    fn outage(&self, what: &str, strike: impl FnOnce()) -> Outage {
        let at = self.daemon.at(443);
        let clients = self.space.enter(|| Clients::start(CLIENTS, move || ask(at)));
        clients.wait_for(200, Instant::now(), "served");
        let since = jiff::Timestamp::now();
        let struck = Instant::now();
        strike();
        let event = self.left(since);
        clients.wait_for(300, Instant::now(), "served");
        let attempts = clients.stop();
        let after: Vec<_> = attempts.iter().filter(|attempt| attempt.ended >= struck).collect();
        let outage = Outage {
            last: moment(&event).duration_since(since).unsigned_abs(),
            noticed: after.iter().filter(|attempt| attempt.answer.is_err()).count(),
            slowest: after.iter().map(|attempt| attempt.ended - attempt.begun).max().unwrap_or_default(),
            sessions: after.len(),
        };
        eprintln!(
            "{what}: {} after {:?} by {}; {} of {} clients noticed, the slowest waited {:?}",
            event["to"], outage.last, event["detail"], outage.noticed, outage.sessions, outage.slowest
        );
        outage
    }

    /// A client waits for one time-out at most, whatever the machine adds to it.
    #[track_caller]
    fn no_one_is_passed_on_twice(&self) {
        let records = self.daemon.records();
        assert!(records.iter().all(|record| record["tries"].as_u64() <= Some(2)), "{records:?}");
    }

    /// Waits until backend `a` takes no more sessions, and has done so since; tells how that came.
    #[track_caller]
    fn left(&self, since: jiff::Timestamp) -> Value {
        let is_it = |event: &&Value| event["backend"] == "a" && event["to"] != "up" && moment(event) > since;
        eventually("it takes no more", || self.daemon.json("/v1/events").as_array()?.iter().find(is_it).cloned())
    }
}

fn moment(event: &Value) -> jiff::Timestamp {
    event["time"].as_str().unwrap().parse().unwrap()
}

/// One session as far as its ServerHello.
fn ask(at: SocketAddr) -> Result<String, String> {
    match ask_from([127, 0, 0, 1], at, &hello()) {
        Ok(answer) if answer.starts_with(&[0x16, 3, 3]) => Ok("served".to_owned()),
        Ok(answer) => Err(format!("{answer:02x?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn killed_backend_is_noticed_by_those_only_who_were_there() {
    let mut world = World::new("5s");
    let pid = world.a.pid();
    let outage = world.outage("SIGKILL", || kill(pid, Signal::SIGKILL).unwrap());
    assert!(outage.noticed <= CLIENTS, "{} noticed", outage.noticed);
    assert!(outage.last < Duration::from_secs(4), "{:?}", outage.last);
    world.no_one_is_passed_on_twice();
    world.a.kill();
}

#[test]
fn stopped_backend_is_left_after_a_few_who_wait_for_it() {
    let world = World::new("250ms");
    let pid = world.a.pid();
    let outage = world.outage("SIGSTOP", || {
        let since = jiff::Timestamp::now();
        kill(pid, Signal::SIGSTOP).unwrap();
        // It goes on once it was left: who waited is served then.
        thread::scope(|scope| {
            scope.spawn(|| {
                world.left(since);
                kill(pid, Signal::SIGCONT).unwrap();
            });
        });
    });
    // The kernel of a stopped server takes connections and hellos: nobody else can be tried then.
    assert_eq!(outage.noticed, 0, "those who waited were served in the end");
    let waited = |record: &&Value| record["backend"] == "a" && record["first_byte_ms"].as_f64() > Some(200.0);
    let waited = eventually("they are recorded", || {
        let waited = world.daemon.records().iter().filter(waited).count();
        (waited > 0).then_some(waited)
    });
    // Each of them asks again only once it was answered.
    assert!(waited <= CLIENTS, "{waited} waited for a server that had stopped");
    assert!(outage.last < Duration::from_secs(4), "{:?}", outage.last);
}

#[test]
fn backend_behind_a_firewall_is_left_and_nobody_notices() {
    for what in ["drop", "reject", "reject with tcp reset"] {
        let world = World::new("5s");
        let a = world.daemon.at(1001);
        // The kernel loads what a rule needs when it meets the first, which may hold everything up.
        world.space.firewall(world.daemon.at(9), what);
        // Sessions that are there go on: what is tested is who comes then.
        let outage = world.outage(what, || {
            world.space.firewall(a, &format!("tcp flags & (syn|ack) == syn {what}"));
        });
        assert_eq!(outage.noticed, 0, "{what}");
        assert!(outage.last < Duration::from_secs(4), "{what}: {:?}", outage.last);
        world.no_one_is_passed_on_twice();
        world.space.open();
        world.daemon.wait_for_state("a", "up");
    }
}

#[test]
fn backend_that_comes_and_goes_is_noticed_by_nobody() {
    let (space, address) = (Namespace::new(), own_loopback());
    let [a, b] = [1001, 1002].map(|port| space.enter(|| Speaker::start((address, port), Says::Hello)));
    // No checks: live traffic alone sees it.
    let config = CONFIG.split("[pool.p.health]").next().unwrap().to_owned();
    let config = format!("{config}[pool.p.passive]\nfailures = 3\neject = \"150ms\"\n");
    let daemon = space.enter(|| Daemon::start_on(address, &config, "", |command| command));
    let at = daemon.at(443);
    let clients = space.enter(|| Clients::start(CLIENTS, move || ask(at)));
    clients.wait_for(100, Instant::now(), "served");
    for _ in 0..8 {
        // The scenario, not a wait for something: down and up again, 300 ms each.
        space.firewall(daemon.at(1001), "tcp flags & (syn|ack) == syn reject with tcp reset");
        thread::sleep(Duration::from_millis(300));
        space.open();
        thread::sleep(Duration::from_millis(300));
    }
    let attempts = clients.stop();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.answer.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} noticed: {failed:?}", failed.len(), attempts.len());
    let events = daemon.json("/v1/events");
    let of = |reason: &str| events.as_array().unwrap().iter().filter(|event| event["reason"] == reason).count();
    let longest = events.as_array().unwrap().iter().filter_map(|event| {
        event["detail"].as_str()?.split("ejection ").nth(1)?.split(' ').next()?.parse::<u32>().ok()
    });
    let longest = longest.max().unwrap();
    eprintln!("{} sessions, {} ejections, up to {longest} in a row", attempts.len(), of("ejected"));
    assert!((3..=24).contains(&of("ejected")), "{events}");
    assert!(longest >= 3, "they grow: {events}");
    assert!(a.accepted() > 0);
    // To stop they call themselves, which works from inside only.
    space.enter(|| drop((a, b)));
}
