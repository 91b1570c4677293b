//! Counts the system calls of one worker with strace: counts are nearly free of noise where times are not. And holds one up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::servers::program;
use super::{Daemon, eventually};

/// Bounds of one kind of work, per unit.
#[derive(Clone, Copy)]
pub struct Bound {
    /// System calls apart from waits.
    pub calls: f64,
    /// `epoll_wait`.
    pub waits: f64,
}

/// strace, which must not outlive the test: it would hold the worker.
struct Tracer(Child);

impl Tracer {
    /// Attaches strace to the thread called so, and to no other.
    #[track_caller]
    fn attach(daemon: &Daemon, name: &str, arguments: &[&str]) -> Self {
        let task = thread(daemon, name);
        let mut strace = program("/usr/bin/strace");
        // Without -f only this one thread.
        strace.args(["-q", "-p", &task.to_string()]).args(arguments);
        let mut strace = Self(strace.stderr(Stdio::null()).spawn().expect("start strace"));
        let status = format!("/proc/{}/task/{task}/status", daemon.pid());
        eventually("strace is attached", || {
            assert!(strace.0.try_wait().unwrap().is_none(), "strace has ended: may this user trace?");
            let status = fs::read_to_string(&status).unwrap();
            status.lines().any(|line| line == format!("TracerPid:\t{}", strace.0.id())).then_some(())
        });
        strace
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
            let _ = self.0.wait();
        }
    }
}

/// A worker that is held in its next wait, as one that is stuck, until this is dropped.
pub struct Held(Tracer);

impl Held {
    #[track_caller]
    pub fn worker(daemon: &Daemon) -> Self {
        // A minute, in microseconds.
        let hold = "inject=epoll_wait:delay_enter=60000000";
        Self(Tracer::attach(daemon, "worker-0", &["-o", "/dev/null", "-e", "trace=epoll_wait", "-e", hold]))
    }
}

/// How often each system call was made.
pub struct Calls(BTreeMap<String, u64>);

impl Calls {
    /// Counts the calls of a daemon's first worker while `work` is done.
    #[track_caller]
    pub fn of_worker(daemon: &Daemon, work: impl FnOnce()) -> Self {
        Self::of_thread(daemon, "worker-0", work)
    }

    /// Counts the calls of the thread called so; the first one, which has the program's name, is the control plane.
    #[track_caller]
    pub fn of_thread(daemon: &Daemon, name: &str, work: impl FnOnce()) -> Self {
        let output = daemon.dir().join("calls");
        let mut strace = Tracer::attach(daemon, name, &["-c", "-U", "calls,name", "-o", output.to_str().unwrap()]);
        work();
        kill(Pid::from_raw(strace.0.id() as i32), Signal::SIGINT).unwrap();
        eventually("strace ends", || strace.0.try_wait().unwrap());
        Self::parse(&fs::read_to_string(&output).unwrap())
    }

    #[track_caller]
    fn parse(table: &str) -> Self {
        let rows = table.lines().filter_map(|line| {
            let mut columns = line.split_whitespace();
            Some((columns.next()?.parse().ok()?, columns.next()?))
        });
        let calls: BTreeMap<String, u64> =
            rows.filter(|(_, name)| *name != "total").map(|(count, name)| (name.to_owned(), count)).collect();
        assert!(!calls.is_empty(), "{table}");
        Self(calls)
    }

    /// How often this one was made.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// System calls and waits per unit.
    fn per_unit(&self, units: f64) -> (f64, f64) {
        let (mut calls, mut waits) = (0, 0);
        for (name, count) in &self.0 {
            match name.as_str() {
                "epoll_wait" => waits += count,
                // The standard library and tokio check descriptors where debug assertions are on.
                "fcntl" if cfg!(debug_assertions) => {}
                _ => calls += count,
            }
        }
        (calls as f64 / units, waits as f64 / units)
    }

    /// Whether so many units of work cost no more.
    pub fn is_within(&self, units: f64, bound: Bound) -> bool {
        let (calls, waits) = self.per_unit(units);
        calls <= bound.calls && waits <= bound.waits
    }

    /// Prints calls per unit and holds them to the bound.
    #[track_caller]
    pub fn judge(&self, unit: &str, units: f64, bound: Bound) {
        let (calls, waits) = self.per_unit(units);
        let mut list = String::new();
        for (name, count) in &self.0 {
            write!(list, " {name} {:.2}", *count as f64 / units).unwrap();
        }
        eprintln!("per {unit}: {calls:.2} system calls and {waits:.2} waits:{list}");
        assert!(self.is_within(units, bound), "{calls:.2} and {waits:.2} waits per {unit}:{list}");
    }
}

/// The thread called so.
#[track_caller]
fn thread(daemon: &Daemon, name: &str) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let is_it = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    let path = tasks.find(is_it).unwrap_or_else(|| panic!("no thread called {name}"));
    path.file_name().unwrap().to_str().unwrap().parse().unwrap()
}
