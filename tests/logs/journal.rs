//! `target = "journal"` with a real systemd-journald, in a mount namespace of its own.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::logged::{CONFIG, logging, sessions};
use crate::support::servers::{Process, printed, program};
use crate::support::{Backend, Daemon, eventually, exchange, own_loopback, through};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A journal with a `/run` and a `/var/log` that nobody else sees.
struct Journald {
    process: Process,
}

impl Journald {
    fn start() -> Self {
        let script = "mount -t tmpfs none /run && mount -t tmpfs none /var/log && mkdir -p /run/systemd/journal \
                      /run/log/journal && exec /usr/lib/systemd/systemd-journald";
        let mut command = program("/usr/bin/unshare");
        command.args(["-m", "sh", "-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
        let journald = Self { process: Process::spawn(&mut command, Signal::SIGTERM) };
        eventually("the journal listens", || journald.root().join("run/systemd/journal/socket").exists().then_some(()));
        journald
    }

    /// Its view of the files.
    fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.process.pid()).into()
    }

    /// Has a command run where it is.
    fn beside<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let pid = self.process.pid().to_string();
        through(command, "/usr/bin/nsenter", &["-m", "-t", &pid])
    }

    /// What it has of sluice.
    fn entries(&self) -> Vec<Value> {
        let mut journalctl = program("/usr/bin/journalctl");
        journalctl.args(["--quiet", "--all", "--output=json", "--no-pager", "--identifier=sluice", "--directory"]);
        journalctl.arg(self.root().join("run/log/journal"));
        printed(&mut journalctl).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.entries().into_iter().find(|entry| is(entry)))
    }
}

fn start(journald: &Journald) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::naming((address, 1001), "one");
    let log = "format = \"json\"\ntarget = \"journal\"";
    let daemon = Daemon::start_on(address, CONFIG, "", |command| journald.beside(logging(command, log)));
    (daemon, backend)
}

#[test]
fn records_have_their_fields_and_messages_their_priority() {
    let journald = Journald::start();
    let (daemon, _backend) = start(&journald);
    sessions(daemon.at(443), 4);
    exchange(daemon.at(443), b"SSH-2.0-x\r\n").unwrap();
    let done = journald.wait_for("a record", |entry| entry["SLUICE_END"] == "done");
    for (field, value) in [
        ("SLUICE_LISTENER", "tls"),
        ("SLUICE_SNI", "a.shop.test"),
        ("SLUICE_POOL", "shop"),
        ("SLUICE_BACKEND", &daemon.at(1001).to_string()),
        ("SLUICE_BYTES_DOWN", "3"),
        ("SLUICE_TLS", "1.3"),
        ("SLUICE_CODE", "--"),
        ("SYSLOG_IDENTIFIER", "sluice"),
        ("PRIORITY", "6"),
        ("_COMM", "sluice"),
    ] {
        assert_eq!(done[field], value, "{field} of {done}");
    }
    assert!(done.get("SLUICE_BLAME").is_none(), "what is not known has no field: {done}");
    let message: Value = serde_json::from_str(done["MESSAGE"].as_str().unwrap()).unwrap();
    assert_eq!(message["session"], done["SLUICE_SESSION"]);
    let refused = journald.wait_for("a refusal", |entry| entry["SLUICE_END"] == "not_tls");
    assert_eq!(
        (&refused["SLUICE_BLAME"], &refused["SLUICE_DETAIL"]),
        (&"client".into(), &"first bytes are ssh, not TLS".into())
    );
    let ready = journald.wait_for("a message", |entry| entry["SLUICE_MESSAGE"] == "ready");
    assert_eq!((&ready["PRIORITY"], &ready["SLUICE_LEVEL"]), (&"6".into(), &"INFO".into()));
}

#[test]
fn large_entry_and_an_error_arrive_whole() {
    let journald = Journald::start();
    let (daemon, _backend) = start(&journald);
    // A problem of the configuration that names a key of 300 KB: more than a datagram holds.
    let key = "x".repeat(300_000);
    daemon.write_config(&format!("{key} = 1\n{CONFIG}"), "");
    assert!(!daemon.cli(&["reload", "--wait"]).status.success());
    let large = journald
        .wait_for("the error", |entry| entry["SLUICE_MESSAGE"].as_str().is_some_and(|message| message.contains(&key)));
    assert_eq!(large["PRIORITY"], "3");
    assert!(serde_json::from_str::<Value>(large["MESSAGE"].as_str().unwrap()).is_ok(), "it is whole");
    assert!(daemon.metric("sluice_log_dropped_total").abs() < 0.5);
}
