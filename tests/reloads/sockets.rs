//! The status socket and the address for metrics move by a reload: the new one first, then the old one goes, and nobody who
//! is being served notices.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::namespace::Namespace;
use crate::support::rewritten::{cli_at, refused, rewrite};
use crate::support::{Backend, DEADLINE, Daemon, TempDir, deaf, eventually, own_loopback, sluice, through};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[listener]]
name = "l"
bind = ["{ip}:443"]
protocol = "tcp"
pool = "p"
[pool.p]
backends = ["{ip}:1001"]
"#;

fn start(global: &str) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    (Daemon::start_on(address, CONFIG, global, |command| command), backend)
}

fn status_at(socket: &Path) -> Option<Value> {
    let output = cli_at(socket, &["status", "--json"]);
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// A connection in the JSON dialect that stays.
struct Client(BufReader<UnixStream>);

impl Client {
    fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    #[track_caller]
    fn ask(&mut self, method: &str) -> Value {
        writeln!(self.0.get_mut(), "{}", json!({ "v": 1, "id": 1, "method": method, "params": {} })).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).expect("an answer")["result"].clone()
    }
}

#[test]
fn status_socket_moves_and_who_asked_for_it_is_answered() {
    let (daemon, _backend) = start("");
    let sockets = ["s.sock", "t.sock", "s.sock", "u.sock"].map(|name| daemon.dir().join(name));
    let mut clients: Vec<Client> = Vec::new();
    for pair in sockets.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        clients.push(Client::new(old));
        assert_eq!(clients.last_mut().unwrap().ask("status")["phase"], "running");
        let name = |path: &PathBuf| format!("status-socket = \"{}\"", path.display());
        rewrite(&daemon, &[(&name(old), &name(new))]);
        let output = cli_at(old, &["reload", "--wait"]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        assert!(!old.exists(), "the old file is gone");
        assert_eq!(fs::metadata(new).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(status_at(new).expect("the new one answers")["pid"], daemon.pid().as_raw());
        for client in &mut clients {
            assert_eq!(client.ask("status")["phase"], "running", "who is connected is served on");
        }
    }
    let mut daemon = daemon;
    assert!(cli_at(&sockets[3], &["stop", "--grace", "0s"]).status.success());
    assert!(daemon.wait_for_exit().success());
    assert!(sockets.iter().all(|socket| !socket.exists()), "the last one goes with the daemon");
}

#[test]
fn who_had_connected_to_the_old_socket_is_still_accepted() {
    let (daemon, _backend) = start("");
    for round in 0..20 {
        let (old, new) = (format!("{}.sock", ["s", "t"][round % 2]), format!("{}.sock", ["t", "s"][round % 2]));
        rewrite(&daemon, &[(&old, &new)]);
        let path = daemon.dir().join(&old);
        let mut asking = Client::new(&path);
        writeln!(asking.0.get_mut(), "{}", json!({ "v": 1, "id": 1, "method": "reload", "params": {} })).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Ok(stream) = UnixStream::connect(&path) {
                        stream.set_read_timeout(Some(DEADLINE)).unwrap();
                        assert_eq!(Client(BufReader::new(stream)).ask("status")["phase"], "running", "round {round}");
                    }
                });
            }
        });
        let mut line = String::new();
        asking.0.read_line(&mut line).unwrap();
        assert!(line.contains("\"ok\":true"), "{line}");
    }
}

#[test]
fn status_socket_that_cannot_be_opened_changes_nothing() {
    let (daemon, _backend) = start("");
    let elsewhere = TempDir::new();
    let (taken, file) = (daemon.dir().join("taken"), daemon.dir().join("file"));
    let _taken = UnixListener::bind(&taken).unwrap();
    fs::write(&file, "something").unwrap();
    let closed = elsewhere.path().join("s.sock");
    let why = format!("the process gave up writing in {} when it started; a restart", elsewhere.path().display());
    let own = daemon.socket().display().to_string();
    for (path, why) in [(&taken, "another daemon answers"), (&file, "it is no socket"), (&closed, why.as_str())] {
        rewrite(&daemon, &[(&own, path.to_str().unwrap()), (":443", ":444")]);
        let said = refused(&daemon);
        assert!(said.contains(why), "{said}");
        assert!(daemon.socket().exists());
        rewrite(&daemon, &[(path.to_str().unwrap(), &own), (":444", ":443")]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "something");
    // When something else fails, the new one goes as it came.
    let _port = deaf(daemon.at(444));
    let fresh = daemon.dir().join("fresh");
    rewrite(&daemon, &[(&own, fresh.to_str().unwrap()), (":443", ":444")]);
    assert!(refused(&daemon).contains("cannot bind"));
    assert!(!fresh.exists() && status_at(&daemon.socket()).is_some());
    rewrite(&daemon, &[(fresh.to_str().unwrap(), &own), (":444", ":443")]);
    // The same socket by another name is no move.
    let other_name = daemon.dir().join("./s.sock");
    rewrite(&daemon, &[(&own, other_name.to_str().unwrap())]);
    daemon.reload();
    assert!(status_at(&daemon.socket()).is_some());
}

#[test]
fn status_socket_of_the_service_manager_stays() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| {
        let config = PathBuf::from(command.get_args().last().unwrap());
        let socket = config.with_file_name("s.sock").display().to_string();
        through(command, "systemd-socket-activate", &["-l", &socket, "--fdname=status"])
    });
    let own = daemon.socket().display().to_string();
    let other = daemon.dir().join("t.sock");
    let file = daemon.dir().join("sluice.toml");
    let check = |socket: &Path, more: &[&str]| {
        let output = cli_at(socket, &[&["check", "-c", file.to_str().unwrap()], more].concat());
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let effect = "it stays where it is: the service manager opened it";
    let note = format!("note: global.status-socket is \"{own}\" in the running daemon, {other:?} here: {effect}");
    let noted = |more: &[&str]| check(&daemon.socket(), more).1.contains(&note);
    assert!(!noted(&[]), "nothing differs");
    rewrite(&daemon, &[(&own, other.to_str().unwrap())]);
    for _ in 0..2 {
        assert!(noted(&[]) && !noted(&["--quiet"]), "before and after a reload");
        let report: Value = serde_json::from_str(&check(&daemon.socket(), &["--json", "--quiet"]).0).unwrap();
        let (running, new) = (format!("{own:?}"), format!("{other:?}"));
        let expected = json!([{ "key": "global.status-socket", "running": running, "file": new, "effect": effect }]);
        assert_eq!(report["fixed"], expected, "{report:#}");
        let diff = daemon.cli(&["config", "diff", "--json", "-c", file.to_str().unwrap()]);
        let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
        assert_eq!((&diff[0]["key"], &diff[0]["effect"]), (&json!("status-socket"), &json!(effect)), "{diff:#}");
        daemon.reload();
    }
    // Where nobody answers, or nobody ever does, nothing is said.
    let silent = daemon.dir().join("silent");
    let _silent = UnixListener::bind(&silent).unwrap();
    for socket in [&daemon.dir().join("nobody"), &silent] {
        let begun = Instant::now();
        let said = check(socket, &[]).1;
        assert!(!said.contains("note:") && said.contains("0 errors"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    eventually("it is said as long as the file differs", || {
        (daemon.log().matches("the service manager opened it").count() == 2).then_some(())
    });
    assert!(daemon.socket().exists() && !other.exists());
    let config = daemon.get("/v1/config").unwrap().1;
    assert!(config.contains(&format!("status-socket = \"{own}\"")), "{config}");
}

fn scrape(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sluice\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer).filter(|answer| answer.contains("sluice_build_info"))
}

#[test]
fn metrics_come_move_and_go() {
    let (daemon, _backend) = start("");
    let (one, two, taken) = (daemon.at(9001), daemon.at(9002), daemon.at(9003));
    let set = |address: Option<SocketAddr>| {
        let line = address.map_or_else(String::new, |address| format!("metrics = \"{address}\"\n"));
        daemon.write_config(CONFIG, &line);
    };
    set(Some(one));
    daemon.reload();
    assert!(scrape(one).is_some(), "metrics came");
    // Half a request: who is being served is served on.
    let mut slow = TcpStream::connect(one).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    set(Some(two));
    daemon.reload();
    assert!(scrape(two).is_some() && scrape(one).is_none(), "metrics moved");
    slow.write_all(b"Host: sluice\r\n\r\n").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("sluice_build_info"), "{answer}");
    let _taken = deaf(taken);
    set(Some(taken));
    let said = refused(&daemon);
    assert!(said.contains(&format!("cannot bind metrics address {taken}: Address already in use")), "{said}");
    assert!(scrape(two).is_some(), "nothing changed");
    set(None);
    daemon.reload();
    assert!(TcpStream::connect(two).is_err(), "metrics went");
    // Back again at once, and there and back.
    for address in [two, one, two] {
        set(Some(address));
        daemon.reload();
        assert!(scrape(address).is_some());
    }
}

#[test]
fn metrics_widen_from_one_address_to_all_on_the_same_port() {
    let space = Namespace::new();
    space.enter(|| {
        let (daemon, _backend) = start("metrics = \"{ip}:9001\"\n");
        let other = SocketAddr::from((own_loopback(), 9001));
        let own = daemon.at(9001);
        assert!(scrape(own).is_some() && scrape(other).is_none());
        rewrite(&daemon, &[(&format!("metrics = \"{own}\""), "metrics = \"0.0.0.0:9001\"")]);
        daemon.reload();
        assert!(scrape(own).is_some() && scrape(other).is_some());
        // A second daemon is still refused.
        let global = format!("[global]\nstatus-socket = \"{{dir}}/t.sock\"\nmetrics = \"{own}\"\n{CONFIG}");
        let second = daemon.dir().join("second.toml");
        let text = global.replace("{dir}", daemon.dir().to_str().unwrap()).replace("{ip}", &own_loopback().to_string());
        fs::write(&second, text).unwrap();
        let output = sluice().arg("run").arg("-c").arg(&second).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("cannot bind metrics address {own}")), "{said}");
        rewrite(&daemon, &[("metrics = \"0.0.0.0:9001\"", &format!("metrics = \"{own}\""))]);
        daemon.reload();
        eventually("one address again", || scrape(other).is_none().then_some(()));
        assert!(scrape(own).is_some());
    });
}
