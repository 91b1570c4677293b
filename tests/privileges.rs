//! What a running daemon may still do: no capabilities, no new privileges, little of the file system.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Backend, Daemon, TempDir, own_loopback, sluice};

const CONFIG: &str = r#"
[[listener]]
name = "l"
bind = ["{ip}:443"]
protocol = "tcp"
pool = "p"

[pool.p]
backends = ["{ip}:1001"]
"#;

/// A line of `/proc/PID/task/TID/status` of every thread.
fn of_threads(daemon: &Daemon, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let line = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    tasks.map(|task| line(task.unwrap())).collect()
}

#[test]
fn no_thread_keeps_what_only_the_start_needed() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| command);
    assert!(of_threads(&daemon, "NoNewPrivs").iter().all(|value| value == "1"));
    // Privileged ports may be needed by a reload, so that right can be raised again; larger pipes are used all the time.
    let (bind, resource) = (1_u64 << 10, 1_u64 << 24);
    let sets = |key: &str| -> Vec<u64> {
        let read = |text: String| u64::from_str_radix(&text, 16).unwrap();
        of_threads(&daemon, key).into_iter().map(read).collect()
    };
    let threads = sets("CapEff");
    assert!(threads.len() >= 4, "control, log and two workers: {threads:?}");
    assert!(threads.iter().all(|set| set & !resource == 0), "{threads:x?}");
    assert!(sets("CapPrm").iter().all(|set| set & !(resource | bind) == 0));
    assert!(sets("CapInh").iter().chain(&sets("CapAmb")).all(|set| *set == 0));
}

#[test]
fn reload_may_still_bind_a_privileged_port() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    daemon.write_config(&CONFIG.replace(":443", ":80"), "");
    daemon.reload();
    std::net::TcpStream::connect(daemon.at(80)).expect("the new port is bound");
}

#[test]
fn files_elsewhere_are_closed_to_the_daemon() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    let check =
        |file: &str| format!("{CONFIG}\n[pool.p.health]\ncheck = \"tls\"\nca = \"{file}\"\nsni = \"a.example\"\n");
    let authority = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem();
    let inside = daemon.dir().join("ca.pem");
    let elsewhere = TempDir::new();
    let outside = elsewhere.path().join("ca.pem");
    for path in [&inside, &outside] {
        fs::write(path, &authority).unwrap();
    }
    daemon.write_config(&check(inside.to_str().unwrap()), "");
    daemon.reload();
    daemon.write_config(&check(outside.to_str().unwrap()), "");
    let output = daemon.cli(&["reload", "--wait"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn a_check_that_starts_a_program_may_come_later_and_the_log_says_what_it_does_without() {
    let daemon = Daemon::start(CONFIG);
    let said = "the program of its `exec` check may use only files that the process could when it started";
    assert!(!daemon.log().contains(said));
    daemon.write_config(&format!("{CONFIG}[pool.p.health]\ncheck = \"exec\"\ncommand = [\"/bin/true\"]\n"), "");
    daemon.reload();
    daemon.wait_for_log(said);
    let at = daemon.at(1001).to_string();
    daemon.wait_for_state(&at, "up");
}

#[test]
fn configuration_that_anybody_may_write_is_refused_to_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test runs as root");
    let address = own_loopback();
    let (dir, open) = (TempDir::new(), TempDir::new());
    let write = |dir: &TempDir| {
        let file = dir.path().join("sluice.toml");
        let config = format!("[global]\nstatus-socket = \"{}\"\n{CONFIG}", dir.path().join("s").display());
        fs::write(&file, config.replace("{ip}", &address.to_string())).unwrap();
        file
    };
    let (file, in_open) = (write(&dir), write(&open));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for file in [file, in_open] {
        let output = sluice().arg("run").arg("-c").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("anybody may write") && said.contains("chmod o-w"), "{said}");
        // Looking at it is no danger.
        assert!(sluice().arg("check").arg("-q").arg("-c").arg(&file).status().unwrap().success());
    }
}
