//! Never lose or alter a byte: thousands of random sessions, orderly and broken off, through one daemon, every byte
//! compared and every end judged, on every setting of `relay`, with pipes and while the kernel gives none.
//! `SLUICE_TEST_SEED` repeats a run. `SLUICE_TEST_SESSIONS` and `SLUICE_TEST_SHORT_SESSIONS` lengthen it, or
//! `SLUICE_TEST_SECONDS` does by the clock: sessions are judged and forgotten as they end, so millions fit.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "bytes/ledger.rs"]
mod ledger;
#[path = "bytes/shortage.rs"]
mod shortage;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger::{Goal, Holdings, Ledger, from_env};
use nix::sys::signal::Signal;
use shortage::{take_pipes_away, without_privilege};
use support::judge::{Direction, Verdict};
use support::log_tail::LogTail;
use support::plan::{KINDS, Relay};
use support::{Backend, Daemon, eventually, own_loopback};

const SESSIONS: u64 = 20_000;
/// Sessions of the run without pipes now and then.
const SHORT_SESSIONS: u64 = 4000;
/// Sessions of the run with upgrades, and the fewest of these.
const UPGRADE_SESSIONS: u64 = 20_000;
const UPGRADES: u64 = 100;
/// Sessions of the run with reloads, and the fewest of these.
const RELOAD_SESSIONS: u64 = 8000;
const RELOADS: u64 = 200;
/// Memory of the daemon that may be left after any number of sessions. Measured: 0.9 to 1.4 MiB, after 4 000 as after
/// 50 000.
const MOST_LEFT: u64 = 3 << 20;
/// The longest that records and backends may be behind their clients.
const LAG: Duration = Duration::from_mins(1);

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
hello-timeout = "60s"
[[listener.route]]
sni = ["auto.test"]
pool = "auto"
[[listener.route]]
sni = ["copy.test"]
pool = "copy"
[[listener.route]]
sni = ["splice.test"]
pool = "splice"
[[listener]]
name = "tcp-auto"
protocol = "tcp"
bind = ["{ip}:444"]
pool = "auto"
[[listener]]
name = "tcp-copy"
protocol = "tcp"
bind = ["{ip}:445"]
pool = "copy"
[[listener]]
name = "tcp-splice"
protocol = "tcp"
bind = ["{ip}:446"]
pool = "splice"
[pool.auto]
backends = ["{ip}:1001"]
[pool.copy]
backends = ["{ip}:1001"]
relay = "copy"
[pool.splice]
backends = ["{ip}:1001"]
relay = "splice"
"#;

#[test]
fn every_byte_and_every_end_arrives_as_it_was_sent_on_every_path() {
    let verdict = run(Goal::from_env("SLUICE_TEST_SESSIONS", SESSIONS), Trouble::None);
    if verdict.judged >= SESSIONS {
        assert!(KINDS.iter().all(|(kind, _)| verdict.ends.keys().any(|(seen, _)| seen == kind)), "{:?}", verdict.ends);
        for direction in Direction::BOTH {
            let bytes = |relay, path| verdict.bytes(relay, direction, path);
            assert!(bytes(Relay::Auto, "copy") > 0 && bytes(Relay::Auto, "mixed") > 0, "{:#?}", verdict.moved);
            assert!(bytes(Relay::Copy, "copy") > 0, "{:#?}", verdict.moved);
            assert!(bytes(Relay::Splice, "splice") > 0, "{:#?}", verdict.moved);
        }
        // What came with the hello was read to be looked at; everything that a server says is spliced.
        let down = &verdict.moved[&(Relay::Splice, Direction::Down)];
        assert!(down.keys().eq(["splice"]), "{down:?}");
    }
}

#[test]
fn while_pipes_run_short_every_byte_arrives_too() {
    let verdict = run(Goal::from_env("SLUICE_TEST_SHORT_SESSIONS", SHORT_SESSIONS), Trouble::FewPipes);
    if verdict.judged >= SHORT_SESSIONS {
        for direction in Direction::BOTH {
            for relay in [Relay::Auto, Relay::Splice] {
                let bytes = |path| verdict.bytes(relay, direction, path);
                assert!(bytes("copy") > 0 && bytes("mixed") > 0, "{:#?}", verdict.moved);
            }
        }
    }
}

#[test]
fn while_processes_take_over_from_each_other_every_byte_arrives_too() {
    run(Goal::from_env("SLUICE_TEST_UPGRADE_SESSIONS", UPGRADE_SESSIONS), Trouble::Upgrades);
}

#[test]
fn while_configurations_change_every_byte_arrives_too() {
    run(Goal::from_env("SLUICE_TEST_RELOAD_SESSIONS", RELOAD_SESSIONS), Trouble::Reloads);
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Pipes only half of the time; otherwise those of two pages, which are of no use.
    FewPipes,
    /// Another process takes over again and again.
    Upgrades,
    /// Another configuration comes into force again and again.
    Reloads,
}

/// One at a time: what one takes away the other would miss, because the daemon gives up the right to more.
static BUDGET: Mutex<()> = Mutex::new(());

/// Plays sessions through a daemon until the goal is reached; every byte, every end and every record must be right.
#[track_caller]
fn run(goal: Goal, trouble: Trouble) -> Verdict {
    let _budget = BUDGET.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = from_env("SLUICE_TEST_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 % 1_000_000_000)
    });
    eprintln!("SLUICE_TEST_SEED={seed}, {goal:?}, {trouble:?}");
    let ledger = Arc::new(Ledger::new(seed, goal));
    let address = own_loopback();
    let backend = Backend::start((address, 1001), {
        let ledger = Arc::clone(&ledger);
        move |stream| ledger.serve(stream)
    });
    let mut daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| match trouble {
        Trouble::FewPipes => without_privilege(command),
        Trouble::None | Trouble::Upgrades | Trouble::Reloads => command,
    });
    let before = Holdings::of(&daemon);
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let tail = thread::scope(|scope| {
        let tail = if trouble == Trouble::Upgrades { LogTail::of_several(&daemon) } else { LogTail::new(&daemon) };
        let tail = scope.spawn(|| ledger.judge_records(&daemon, tail, &over));
        let changing = match trouble {
            Trouble::Upgrades => Some(scope.spawn(|| upgrade_until(&daemon, &over))),
            Trouble::Reloads => Some(scope.spawn(|| reload_until(&daemon, &over))),
            Trouble::None | Trouble::FewPipes => None,
        };
        if trouble == Trouble::FewPipes {
            scope.spawn(|| take_pipes_away(&over));
        }
        // Also when this thread panics, or the others would run for ever.
        let end = SetAtEnd(&over);
        ledger.run_clients(&daemon);
        let all_ended = || {
            // In this order: one that comes meanwhile has not ended either.
            let ended = ledger.ended();
            ended == u64::from(backend.accepted())
        };
        assert!(within_lag(all_ended), "the backend's sessions end");
        ledger.judge_servers();
        ledger.assert_no_failures();
        // The verdict tells what is missing if they do not all come.
        let _ = within_lag(|| ledger.judge.count() >= ledger.begun());
        drop(end);
        if let Some(changing) = changing {
            changing.join().unwrap();
        }
        tail.join().unwrap()
    });
    let took = begun.elapsed();
    assert_clean(&daemon, before);
    let fallbacks = daemon.metric("sluice_relay_fallbacks_total{reason=\"no_pipe\"}");
    let counted = Direction::BOTH.map(|direction| ["copy", "splice"].map(|path| relayed(&daemon, path, direction)));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_exit();
    tail.read_rest(|line| ledger.judge.line(line));
    let verdict = ledger.judge.close();
    let (sessions, mebibytes) = (ledger.begun(), verdict.total() >> 20);
    eprintln!("{trouble:?}: {sessions} sessions, {mebibytes} MiB in {took:?}, {fallbacks} times without a pipe");
    verdict.ends.iter().for_each(|((kind, end), count)| eprintln!("{kind:?}, {end}: {count}"));
    verdict.moved.iter().for_each(|((relay, direction), paths)| eprintln!("{relay:?}, {direction:?}: {paths:?} bytes"));
    let Verdict { wrong, wrong_count, .. } = &verdict;
    assert!(wrong.is_empty(), "seed {seed}, {wrong_count} wrong records:\n{}", wrong.join("\n"));
    assert_eq!(verdict.judged, sessions, "seed {seed}: exactly one record per connection");
    assert_eq!(verdict.planned, verdict.recorded, "seed {seed}: bytes of orderly sessions");
    assert_eq!(fallbacks > 0.5, trouble == Trouble::FewPipes, "{fallbacks} times without a pipe");
    for (direction, counted) in Direction::BOTH.into_iter().zip(counted) {
        assert_counted(&verdict, direction, counted);
    }
    verdict
}

/// Has another process take over, again and again.
fn upgrade_until(daemon: &Daemon, over: &AtomicBool) {
    let (mut count, mut sessions, mut longest) = (0, 0, 0.0_f64);
    while !over.load(Ordering::SeqCst) || count < UPGRADES {
        let done = daemon.upgrade();
        count += 1;
        sessions += done["sessions"].as_u64().unwrap();
        longest = longest.max(done["pause_ms"].as_f64().unwrap());
    }
    eprintln!("{count} upgrades with {sessions} sessions, the longest pause {longest:.1} ms");
    assert!(sessions > count, "sessions were open meanwhile: {sessions} in {count} upgrades");
}

/// Has pools, a listener and limits come, change and go, again and again; the end is as the beginning was.
fn reload_until(daemon: &Daemon, over: &AtomicBool) {
    let more = "[[listener]]\nname = \"more\"\nprotocol = \"tcp\"\nbind = [\"{ip}:447\"]\npool = \"more\"\n\
                [pool.more]\nbackends = [\"{ip}:1001\"]\n";
    let other = CONFIG.replace("[pool.copy]\n", "[pool.copy]\nconnect-tries = 2\nmax-connections = 5000\n") + more;
    let (mut count, mut sessions) = (0, 0);
    while !over.load(Ordering::SeqCst) || count < RELOADS {
        for body in [&other, CONFIG] {
            daemon.write_config(body, "workers = 2\n");
            daemon.reload();
            sessions += daemon.metric("sluice_connections_active") as u64;
            count += 1;
        }
    }
    eprintln!("{count} reloads with {sessions} sessions");
    assert!(sessions > count, "sessions were open meanwhile: {sessions} in {count} reloads");
    assert_eq!(daemon.metric("sluice_config_generation") as u64, count + 1);
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until what the clients left behind is done; says whether it was before [`LAG`] was over.
fn within_lag(done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() >= LAG {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Bytes that the daemon counted.
fn relayed(daemon: &Daemon, path: &str, direction: Direction) -> u64 {
    let name = format!("sluice_relay_bytes_total{{path=\"{path}\",direction=\"{}\"}}", direction.name());
    daemon.metric(&name) as u64
}

/// Metrics and records tell the same of a direction, and each setting has it its way.
#[track_caller]
fn assert_counted(verdict: &Verdict, direction: Direction, [copied, spliced]: [u64; 2]) {
    let of = |path: &str| Relay::ALL.iter().map(|relay| verdict.bytes(*relay, direction, path)).sum::<u64>();
    let counted = format!("{direction:?}: {copied} copied, {spliced} spliced; {:#?}", verdict.moved);
    assert_eq!(copied + spliced, of("copy") + of("splice") + of("mixed"), "{counted}");
    assert!(copied >= of("copy") && spliced >= of("splice"), "{counted}");
    let copy_only = verdict.moved.get(&(Relay::Copy, direction));
    assert!(copy_only.is_none_or(|paths| paths.keys().eq(["copy"])), "{counted}");
}

/// Nothing is left over in the daemon.
#[track_caller]
fn assert_clean(daemon: &Daemon, before: Holdings) {
    assert!(daemon.metric("sluice_pipes_in_use").abs() < 0.5, "pipes in use");
    for listener in ["tls", "tcp-auto", "tcp-copy", "tcp-splice"] {
        let name = format!("sluice_listener_connections_active{{listener=\"{listener}\"}}");
        assert!(daemon.metric(&name).abs() < 0.5, "{name}");
    }
    // Spare pipes are closed at the next heartbeat.
    let after = eventually("descriptors are back", || {
        Some(Holdings::of(daemon)).filter(|after| after.descriptors <= before.descriptors)
    });
    eprintln!("before: {before}\nafter: {after}");
    let left = after.memory.saturating_sub(before.memory);
    assert!(left <= MOST_LEFT, "{left} bytes of memory more than at the start");
}
