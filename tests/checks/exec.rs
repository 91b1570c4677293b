//! The check `exec`: programs that end in every way, and what they get and leave behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::support::checked::{Checked, phases};
use crate::support::servers::free_port;
use crate::support::{TempDir, eventually, own_loopback};

/// A check that has a shell do `script`.
fn shell(script: &str) -> String {
    format!("check = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']")
}

#[track_caller]
fn checked(checks: &[(SocketAddr, String)]) -> Checked {
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|(address, check)| (*address, check.as_str())).collect();
    Checked::start(own_loopback(), &checks)
}

fn here() -> SocketAddr {
    free_port(own_loopback())
}

#[test]
fn exit_status_is_the_verdict_and_the_last_line_the_evidence() {
    let checked = checked(&[
        (here(), shell("echo one; echo all is well")),
        (here(), shell("echo starting; echo disk is full >&2; exit 2")),
        (here(), shell("kill -9 $$")),
        (here(), shell("head -c 3000000 /dev/zero | tr '\\0' x; exit 1")),
        (here(), shell("cat; printf '\\033[2Jred\\n\\n'; exit 3")),
        (here(), "check = \"exec\"\ncommand = [\"/bin/false\"]".to_owned()),
    ]);
    let well = checked.expect(0, "ok", "exit", "/bin/sh ended with status 0: all is well");
    assert_eq!(phases(&well), ["wait", "run"]);
    checked.expect(1, "failed", "exit", "status 2: disk is full");
    checked.expect(2, "failed", "signal", "signal 9");
    let long = checked.expect(3, "failed", "exit", "status 1: xxxx");
    assert!(long["detail"].as_str().unwrap().len() < 350, "{long:#}");
    // Nothing to read, and nothing that a terminal would obey.
    checked.expect(4, "failed", "exit", "status 3: \\u{1b}[2Jred");
    checked.expect(5, "failed", "exit", "/bin/false ended with status 1");
}

#[test]
fn environment_and_arguments_are_what_is_documented() {
    let dir = TempDir::new();
    let path = dir.path().join("seen");
    let script = format!(
        "env > {0}; echo \"$0 $1 $2|$(pwd)\" >> {0}; ls -l /proc/self/fd | grep -c anon_inode >> {0}; true",
        path.display()
    );
    let check = format!(
        "check = \"exec\"\nport = 1234\ncommand = [\"/bin/sh\", \"-c\", '''{script}''', \"zero\", \"with blank\", \"$HOME\"]"
    );
    let address = here();
    let checked = checked(&[(address, check)]);
    checked.expect(0, "ok", "exit", "status 0");
    let seen = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = seen.lines().collect();
    // The daemon has epoll and the like, and would not be without.
    assert_eq!(lines.pop(), Some("0"), "descriptors of the daemon stay with it");
    assert_eq!(lines.pop(), Some("zero with blank $HOME|/"));
    // The shell adds some of its own.
    lines.retain(|line| !["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own)));
    lines.sort_unstable();
    let ip = format!("SLUICE_ADDRESS={}", address.ip());
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    assert_eq!(lines, [path.as_str(), &ip, "SLUICE_BACKEND=b", "SLUICE_POOL=p0", "SLUICE_PORT=1234"]);
}

/// Whether there is a process of this number.
fn is_alive(pid: &str) -> bool {
    // One that is dead and not yet waited for has no command line any more.
    fs::read(Path::new("/proc").join(pid).join("cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = TempDir::new();
    let path = dir.path().join("pids");
    let script = format!(
        "trap \"\" TERM; sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; echo waiting; wait",
        path.display()
    );
    let checked = checked(&[(here(), format!("{}\ntimeout = \"2s\"", shell(&script)))]);
    // The first check of the daemon itself is over.
    fs::remove_file(&path).expect("it ran");
    checked.expect(0, "failed", "timeout", "timed out after 2000 ms: ran /bin/sh");
    let pids = fs::read_to_string(&path).expect("it ran again");
    for pid in pids.split_whitespace() {
        eventually(&format!("process {pid} is gone"), || (!is_alive(pid)).then_some(()));
    }
    assert_eq!(pids.split_whitespace().count(), 2, "the program and what it started");
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", checked.daemon.pid())).unwrap();
    eventually("the daemon has waited for its children", || children().trim().is_empty().then_some(()));
}

#[test]
fn few_programs_run_at_once_and_the_others_wait_for_their_turn() {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("running")).unwrap();
    let root = dir.path().display();
    let script = format!("cd {root}; touch running/$$; ls running | wc -l >> counts; sleep 0.2; rm running/$$");
    let checks: Vec<_> = (0..40).map(|_| (here(), format!("{}\ntimeout = \"15s\"", shell(&script)))).collect();
    let checked = checked(&checks);
    let counts = || fs::read_to_string(dir.path().join("counts")).unwrap_or_default();
    eventually("every program has run", || (counts().lines().count() >= checks.len()).then_some(()));
    let most = counts().lines().map(|line| line.trim().parse::<u32>().unwrap()).max().unwrap();
    eprintln!("{most} programs at once");
    assert!((2..=16).contains(&most), "{most} at once");
    for at in 0..checks.len() {
        eventually("the check is over", || {
            let list = checked.daemon.json("/v1/backends");
            (list[at]["state"] == "up").then_some(())
        });
    }
}

#[test]
fn a_program_that_has_no_turn_says_nothing() {
    // Longer than the daemon waits for first answers.
    let slow = format!("{}\ntimeout = \"10s\"", shell("sleep 4"));
    let mut checks: Vec<_> = (0..17).map(|_| (here(), slow.clone())).collect();
    // Pools are in the order of their names, so number 9 comes last; all are checked at once at start.
    checks[9].1 = format!("{}\ntimeout = \"300ms\"", shell("true"));
    let checked = checked(&checks);
    let list = checked.daemon.json("/v1/backends");
    let last = list.as_array().unwrap().last().unwrap();
    let detail = last["check"]["detail"].as_str().unwrap();
    assert!(last["pool"] == "p9" && detail.contains("16 programs of checks run already"), "{last:#}");
    eventually("there is a turn", || (checked.probe(9)["result"] == "ok").then_some(()));
}
