//! Shared by the integration tests: a daemon under test, loopback addresses of one's own, small backends and clients.
//! Every wait has a deadline; nothing sleeps to synchronise.

#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub mod arrivals;
pub mod authority;
pub mod backend;
pub mod checked;
pub mod counting;
pub mod dns;
pub mod heir;
pub mod hello;
pub mod judge;
pub mod line;
pub mod log_tail;
pub mod logged;
pub mod metrics;
pub mod named;
pub mod namespace;
pub mod plan;
pub mod proxy;
pub mod pump;
pub mod rewritten;
pub mod runtime_api;
pub mod scripted;
pub mod servers;
pub mod speaker;
pub mod strace;
pub mod talkers;
pub mod terminal;
pub mod tools;

pub use backend::{Backend, deaf};

/// The longest that anything may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `condition` gives something; panics with `what` after the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, condition)
}

/// As [`eventually`], with a deadline of its own.
#[track_caller]
pub fn within<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A folder that is removed when the test ends.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("sluice-test-{}-{count}", process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A loopback address that no other test uses, so that tests may choose any port on it and run side by side.
pub fn own_loopback() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let pid = process::id();
    // 15 bits of the process, 8 of the counter: 127.1-127.x.y, never 127.0.0.x.
    Ipv4Addr::new(127, 1 + (pid >> 8 & 0x7f) as u8, pid as u8, 1 + (count % 250) as u8)
}

/// The program under test.
pub fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_remove("NOTIFY_SOCKET").env_remove("SLUICE_SOCKET").env("NO_COLOR", "1");
    command
}

/// Runs a command through another program, such as prlimit, that takes it as its last arguments.
pub fn through<'a>(command: &'a mut Command, wrapper: &str, arguments: &[&str]) -> &'a mut Command {
    let mut wrapped = Command::new(wrapper);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdout(Stdio::null()).stderr(Stdio::null());
    *command = wrapped;
    command
}

/// A running daemon. Its log is JSON in a file; records and messages are lines of it.
pub struct Daemon {
    child: Child,
    heir: heir::Heir,
    dir: TempDir,
    /// Where the test's listeners and backends may live.
    pub address: Ipv4Addr,
}

impl Daemon {
    /// Starts a daemon with `body` after `[global]` and `[log]` and waits until it is ready. Everywhere, `{ip}` stands
    /// for [`Daemon::address`] and `{dir}` for the daemon's folder.
    #[track_caller]
    pub fn start(body: &str) -> Self {
        Self::start_with(body, "", |command| command)
    }

    /// As [`Daemon::start`], with more keys for `[global]` and a say in the command.
    #[track_caller]
    pub fn start_with(body: &str, global: &str, adjust: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        Self::start_on(own_loopback(), body, global, adjust)
    }

    /// As [`Daemon::start_with`], on an address that the test chose before.
    #[track_caller]
    pub fn start_on(
        address: Ipv4Addr,
        body: &str,
        global: &str,
        adjust: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let dir = TempDir::new();
        write_config(&dir, address, body, global);
        let mut command = sluice();
        command.arg("run").arg("-c").arg(dir.path().join("sluice.toml"));
        command.stdout(Stdio::null()).stderr(fs::File::create(dir.path().join("stderr")).unwrap());
        let child = adjust(&mut command).spawn().expect("start sluice");
        let mut daemon = Self { child, heir: heir::Heir::default(), dir, address };
        daemon.wait_for_status(|status| status == 200);
        daemon
    }

    /// Starts a daemon and waits only until its status socket answers and signals are heard.
    #[track_caller]
    pub fn start_unready(address: Ipv4Addr, body: &str, global: &str) -> Self {
        let dir = TempDir::new();
        write_config(&dir, address, body, global);
        let mut command = sluice();
        command.arg("run").arg("-c").arg(dir.path().join("sluice.toml"));
        command.stdout(Stdio::null()).stderr(fs::File::create(dir.path().join("stderr")).unwrap());
        let child = command.spawn().expect("start sluice");
        let mut daemon = Self { child, heir: heir::Heir::default(), dir, address };
        daemon.wait_for_status(|_| true);
        daemon
    }

    #[track_caller]
    fn wait_for_status(&mut self, good: impl Fn(u16) -> bool) {
        let daemon = self;
        let begun = Instant::now();
        while daemon.get("/readyz").is_none_or(|(status, _)| !good(status)) {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("sluice ended with {status} instead of starting:\n{}", daemon.stderr());
            }
            assert!(begun.elapsed() < DEADLINE, "not ready:\n{}{}", daemon.stderr(), daemon.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    pub fn pid(&self) -> Pid {
        self.heir.pid().unwrap_or(Pid::from_raw(self.child.id() as i32))
    }

    /// `ADDRESS:port` of this test.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Rewrites the configuration; `reload` then takes it.
    pub fn write_config(&self, body: &str, global: &str) {
        write_config(&self.dir, self.address, body, global);
    }

    /// Runs a command against this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = sluice();
        command.arg("--socket").arg(self.socket()).args(arguments);
        command.output().expect("run sluice")
    }

    /// `reload --wait` that must succeed.
    #[track_caller]
    pub fn reload(&self) {
        let output = self.cli(&["reload", "--wait"]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    /// HTTP GET over the status socket: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: sluice\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// HTTP GET of a JSON document.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// One request in the JSON dialect.
    #[track_caller]
    pub fn ask(&self, method: &str, params: &Value) -> Value {
        let mut stream = UnixStream::connect(self.socket()).expect("status socket");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = json!({ "v": 1, "id": 7, "method": method, "params": params });
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(&answer).expect("JSON")
    }

    /// The value of a metric line that begins with `name_and_labels`.
    #[track_caller]
    pub fn metric(&self, name_and_labels: &str) -> f64 {
        let (_, body) = self.get("/metrics").expect("metrics");
        let line = body.lines().find(|line| line.starts_with(&format!("{name_and_labels} ")));
        let line = line.unwrap_or_else(|| panic!("no metric {name_and_labels} in\n{body}"));
        line.rsplit_once(' ').unwrap().1.parse().expect("a number")
    }

    /// Waits until a backend is in a state.
    #[track_caller]
    pub fn wait_for_state(&self, backend: &str, state: &str) {
        eventually(&format!("{backend} is {state}"), || {
            let list = self.json("/v1/backends");
            let found = list.as_array()?.iter().find(|row| row["backend"] == backend)?.clone();
            (found["state"] == state).then_some(())
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log has this: it is written a little later than things happen.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        eventually(&format!("`{text}` is in the log"), || self.log().contains(text).then_some(()));
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get("session").is_some()).collect()
    }

    /// Waits until there are `count` records and returns them.
    #[track_caller]
    pub fn wait_for_records(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} records"), || Some(self.records()).filter(|records| records.len() >= count))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal sluice");
    }

    /// Waits until the daemon has ended.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually("sluice ends", || child.try_wait().unwrap());
        self.heir.wait().unwrap_or(status)
    }

    /// Memory that the daemon alone has and has written, in bytes. Pages of the program's file do not count: whether they
    /// are private depends on who else runs it.
    pub fn private_memory(&self) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).unwrap();
        let dirty = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        dirty.unwrap().split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Time of a processor that the daemon has used so far, in user and kernel mode.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may hold anything: the 12th and 13th field, in hundredths of a second (proc(5)).
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Time for which the first thread, the control plane, could have run but others had the processor.
    pub fn run_delay(&self) -> Duration {
        let schedstat = fs::read_to_string(format!("/proc/{}/schedstat", self.pid())).unwrap();
        Duration::from_nanos(schedstat.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// Descriptors that the daemon has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stderr of sluice ---\n{}", self.stderr());
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- last lines of its log ---\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

fn write_config(dir: &TempDir, address: Ipv4Addr, body: &str, global: &str) {
    let root = dir.path().display().to_string();
    let head = format!("[global]\nstatus-socket = \"{root}/s.sock\"\n{global}");
    let text = format!("{head}\n[log]\nformat = \"json\"\ntarget = \"{root}/log\"\n{body}");
    let text = text.replace("{ip}", &address.to_string()).replace("{dir}", &root);
    // Replaced as a whole, so that a reload never sees half of it.
    fs::write(dir.path().join("new.toml"), text).unwrap();
    fs::rename(dir.path().join("new.toml"), dir.path().join("sluice.toml")).unwrap();
}

/// Connects with read and write deadlines.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Sends `bytes` and reads to the end.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// What a TLS client is told by a fatal alert: its number.
pub fn alert_of(answer: &[u8]) -> Option<u8> {
    match answer {
        [0x15, 3, _, 0, 2, 2, alert] => Some(*alert),
        _ => None,
    }
}
