//! What checks cost the control plane: system calls per check with a thousand backends, against a recorded bound, and the
//! processor's time, which is printed. Run with `--nocapture` to see the figures.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::arrivals::Arrivals;
use support::strace::{Bound, Calls};
use support::{Daemon, eventually};

const COUNT: usize = 1000;
/// Measured: 5.00 (`socket`, `setsockopt`, `connect`, `getpeername`, `close`), and 0.13 waits: several begin at once.
const CHECK: Bound = Bound { calls: 5.3, waits: 0.5 };

#[test]
fn a_tcp_check_costs_no_more_system_calls_than_recorded() {
    let arrivals = Arrivals::start();
    let body = format!(
        "[[listener]]\nname = \"plain\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n\
         [pool.p]\nbackends = {}\n[pool.p.health]\ncheck = \"tcp\"\ninterval = \"2s\"\n",
        arrivals.list(COUNT)
    );
    let daemon = Daemon::start_with(&body, "workers = 1\n", |command| command);
    let first = eventually("the first round", || arrivals.seen().get(COUNT - 1).copied());
    let seen_since = |since: Instant| arrivals.seen().iter().rev().take_while(|at| **at > since).count();
    eventually("steady", || (first.elapsed() > Duration::from_millis(2200)).then_some(()));

    let (begun, busy) = (Instant::now(), busy(&daemon));
    eventually("three rounds", || (seen_since(begun) >= 3 * COUNT).then_some(()));
    let (took, busy) = (begun.elapsed(), self::busy(&daemon).saturating_sub(busy));
    let checks = seen_since(begun) as f64;
    let share = busy.as_secs_f64() / took.as_secs_f64() * 100.0;
    let each = busy.as_secs_f64() * 1e6 / checks;
    eprintln!("{COUNT} backends every 2 s: {share:.2} % of a core, {each:.0} us per check, over {took:?}");
    // Far above what is measured: the time of a busy machine is no bound to be held to.
    assert!(share < 20.0, "{share} %");

    let calls = Calls::of_thread(&daemon, "sluice", || {
        let begun = Instant::now();
        eventually("two rounds", || (seen_since(begun) >= 2 * COUNT).then_some(()));
    });
    // Each check connects once, whenever strace came and went.
    calls.judge("check", calls.count("connect") as f64, CHECK);
}

/// Time that all threads of the daemon have run.
fn busy(daemon: &Daemon) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let ran = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    Duration::from_nanos(tasks.map(|task| ran(task.unwrap())).sum())
}
