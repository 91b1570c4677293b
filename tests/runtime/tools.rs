//! Tools for HAProxy that people have: socat one-liners, hatop, Ansible's module, the Prometheus exporter. Each is the
//! real program, and sluice is told nothing of it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::runtime_api::{cell, start, wait_for_cell};
use crate::support::servers::{Process, printed, program};
use crate::support::{eventually, exchange};
use nix::sys::signal::Signal;

#[test]
fn socat_one_liners_work() {
    let (_daemon, _backend, socket) = start("");
    program("/usr/bin/socat");
    let shell = |line: &str| {
        let mut shell = program("/bin/sh");
        printed(shell.arg("-c").arg(line.replace("SOCKET", &socket.display().to_string())))
    };
    let down = shell("echo 'show stat' | socat stdio SOCKET | awk -F, '$18 == \"DOWN\" { print $1 \"/\" $2 }'");
    assert_eq!(down, "shop/b");
    assert_eq!(shell("echo 'disable server shop/a' | socat - UNIX-CONNECT:SOCKET"), "");
    assert_eq!(shell("echo 'show stat -1 4 -1' | socat - SOCKET | cut -d, -f1,2,18 | grep a,"), "shop,a,MAINT");
    assert_eq!(shell("echo 'enable server shop/a; get weight shop/a' | socat stdio SOCKET"), "100 (initial 100)");
    let version = shell("echo 'show info' | socat stdio SOCKET | sed -n 's/^Version: //p'");
    assert!(version.starts_with("2."), "{version}");
}

#[test]
fn the_prometheus_exporter_scrapes_servers() {
    let (daemon, _backend, socket) = start("");
    let address = daemon.at(9101);
    let mut exporter = program("/usr/bin/prometheus-haproxy-exporter");
    exporter.arg(format!("--haproxy.scrape-uri=unix:{}", socket.display()));
    exporter.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let _exporter = Process::spawn(&mut exporter, Signal::SIGTERM);
    let metrics = eventually("the exporter answers", || {
        let answer = exchange(address, b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned()).filter(|text| text.contains("haproxy_up 1"))
    });
    for line in [
        "haproxy_server_up{backend=\"shop\",server=\"a\"} 1",
        "haproxy_server_up{backend=\"shop\",server=\"b\"} 0",
        "haproxy_backend_up{backend=\"shop\"} 1",
        "haproxy_server_weight{backend=\"shop\",server=\"a\"} 100",
        "haproxy_exporter_csv_parse_failures_total 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
}

#[test]
fn ansible_drains_disables_and_enables() {
    let (daemon, _backend, socket) = start("");
    let module = |arguments: &str| {
        let mut ansible = program("/usr/bin/ansible");
        ansible.env("HOME", daemon.dir()).env("LC_ALL", "C.UTF-8").env("ANSIBLE_NOCOLOR", "1");
        ansible.env("ANSIBLE_LOCAL_TEMP", daemon.dir()).env("ANSIBLE_REMOTE_TEMP", daemon.dir());
        ansible.args(["localhost", "-c", "local", "-m", "community.general.haproxy", "-a"]);
        let socket = socket.display();
        printed(ansible.arg(format!("host=a backend=shop socket={socket} wait=yes wait_interval=1 {arguments}")))
    };
    for (arguments, status) in [
        ("state=drain", "DRAIN"),
        ("state=enabled weight=30", "UP"),
        ("state=disabled shutdown_sessions=yes", "MAINT"),
        ("state=enabled weight=100%", "UP"),
    ] {
        let said = module(arguments);
        assert!(said.contains("\"changed\": true"), "{arguments}: {said}");
        assert_eq!(cell(&socket, "shop", "a", "status"), status, "{arguments}: {said}");
    }
    assert_eq!(cell(&socket, "shop", "a", "weight"), "100");
}

/// hatop in a terminal of 100 columns.
struct Hatop {
    folder: PathBuf,
}

impl Hatop {
    fn start(folder: &Path, socket: &Path) -> Self {
        program("/usr/bin/hatop");
        let hatop = Self { folder: folder.to_owned() };
        printed(
            hatop
                .tmux()
                .args(["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30"])
                .arg(format!("hatop -s {}", socket.display())),
        );
        hatop
    }

    fn tmux(&self) -> Command {
        let mut tmux = program("/usr/bin/tmux");
        tmux.arg("-S").arg(self.folder.join("tmux")).env("TERM", "xterm").env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        tmux
    }

    fn press(&self, keys: &[&str]) {
        printed(self.tmux().arg("send-keys").args(keys));
    }

    /// Waits until the screen shows a line that begins and goes on so.
    #[track_caller]
    fn shows(&self, begin: &str, then: &str) {
        eventually(&format!("hatop shows {begin} {then}"), || {
            let screen = printed(self.tmux().args(["capture-pane", "-p"]));
            screen.lines().any(|line| line.starts_with(begin) && line.contains(then)).then_some(())
        });
    }
}

impl Drop for Hatop {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.tmux().arg("kill-server").stderr(Stdio::null()).status();
    }
}

#[test]
fn hatop_shows_and_changes_servers() {
    let (daemon, _backend, socket) = start("");
    let hatop = Hatop::start(daemon.dir(), &socket);
    hatop.shows("a  ", " UP ");
    hatop.shows("b  ", " DOWN ");
    hatop.shows(">>> shop", "");
    // Down to the first server; then its key for maintenance, and the one that ends it.
    hatop.press(&["Down", "Down", "Down", "Down"]);
    eventually("the cursor is on the server", || {
        let screen = printed(hatop.tmux().args(["capture-pane", "-p", "-e"]));
        screen.lines().any(|line| line.contains("\u{1b}[7ma ")).then_some(())
    });
    hatop.press(&["F10"]);
    wait_for_cell(&socket, ["shop", "a", "status"], "MAINT");
    hatop.shows("a  ", " MAINT ");
    hatop.press(&["F9"]);
    wait_for_cell(&socket, ["shop", "a", "status"], "UP");
    hatop.shows("a  ", " UP ");
    hatop.press(&["F8"]);
    wait_for_cell(&socket, ["shop", "a", "weight"], "110");
    // There is no key for draining: its command line is the way.
    hatop.press(&["5"]);
    hatop.shows("> ", "");
    hatop.press(&["set server shop/a state drain", "Enter"]);
    wait_for_cell(&socket, ["shop", "a", "status"], "DRAIN");
    hatop.press(&["Escape", "1"]);
    hatop.shows("a  ", " DRAIN ");
}
