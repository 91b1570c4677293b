//! Start: how soon a large configuration is in force, and what is said when something is in the way. Every failure has its
//! exit code and names the thing, the place and the reason; what needs no root is tried without.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::hello::client_hello;
use support::namespace::Namespace;
use support::{Backend, Daemon, TempDir, eventually, exchange, own_loopback, sluice, through};

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:8443"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
"#;

/// The user `nobody` and his group.
const NOBODY: u32 = 65_534;

const LISTENERS: usize = 10;
const ROUTES: usize = 10_000;
const POOLS: usize = 100;
const BACKENDS: usize = 1000;

/// From the start of the process to its readiness; of the debug build too, which takes a third of it on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// Loopback addresses and ports below those that services of the machine may have.
fn backends() -> Vec<SocketAddr> {
    let addresses = (0..BACKENDS / 20).map(|_| own_loopback());
    addresses.flat_map(|address| (1001..1021).map(move |port| SocketAddr::from((address, port)))).collect()
}

/// Routes by name to pools of ten backends each.
fn large(backends: &[SocketAddr], health: &str) -> String {
    let mut text = String::new();
    for listener in 0..LISTENERS {
        write!(text, "[[listener]]\nname = \"l{listener}\"\nbind = [\"{{ip}}:{}\"]\n", 443 + listener).unwrap();
        for route in (listener..ROUTES).step_by(LISTENERS) {
            let pool = route % POOLS;
            write!(text, "[[listener.route]]\nsni = [\"site-{route}.example.com\"]\npool = \"p{pool}\"\n").unwrap();
        }
    }
    for (pool, backends) in backends.chunks(BACKENDS / POOLS).enumerate() {
        let backends: Vec<String> = backends.iter().map(SocketAddr::to_string).collect();
        write!(text, "[pool.p{pool}]\nbackends = {backends:?}\n").unwrap();
        if !health.is_empty() {
            write!(text, "[pool.p{pool}.health]\n{health}\n").unwrap();
        }
    }
    text
}

/// Starts the large configuration a few times. The best counts, without the time for which others had the processor.
#[track_caller]
fn is_ready_in_time(backends: &[SocketAddr], health: &str) -> Daemon {
    let (address, text) = (own_loopback(), large(backends, health));
    let mut best = Duration::MAX;
    let mut daemon = None;
    for _ in 0..5 {
        drop(daemon.take());
        let begun = Instant::now();
        let started = Daemon::start_on(address, &text, "", |command| command);
        best = best.min(begun.elapsed().saturating_sub(started.run_delay()));
        daemon = Some(started);
        if best < READY_WITHIN {
            break;
        }
    }
    eprintln!("ready after {best:?}");
    assert!(best < READY_WITHIN, "{best:?}");
    daemon.unwrap()
}

#[test]
fn ten_thousand_routes_and_a_thousand_unchecked_backends_are_ready_in_time() {
    let backends = backends();
    let daemon = is_ready_in_time(&backends, "");
    assert_eq!(daemon.json("/v1/status")["listeners"].as_array().unwrap().len(), LISTENERS);
    assert_eq!(daemon.json("/v1/backends").as_array().unwrap().len(), BACKENDS);
    // The last route of the last listener leads to the last pool.
    let last = backends.chunks(BACKENDS / POOLS).next_back().unwrap();
    let _backends: Vec<Backend> = last.iter().map(|address| Backend::naming(*address, "last")).collect();
    let hello = client_hello(Some("site-9999.example.com"), &[]);
    assert_eq!(exchange(daemon.at(452), &hello).unwrap(), b"last");
}

#[test]
fn ten_thousand_routes_and_a_thousand_checked_backends_are_ready_in_time() {
    let backends = backends();
    sluice::sys::limits::raise_descriptor_limit();
    // Nobody accepts: the kernel answers the checks.
    let _listening: Vec<TcpListener> = backends.iter().map(|address| TcpListener::bind(address).unwrap()).collect();
    let daemon = is_ready_in_time(&backends, "check = \"tcp\"");
    let list = daemon.json("/v1/backends");
    let up = list.as_array().unwrap().iter().filter(|row| row["state"] == "up").count();
    assert_eq!(up, BACKENDS, "every backend was asked before the process said that it is ready");
}

/// A folder with a configuration in it and a copy of the program that anybody may run.
struct Scene {
    dir: TempDir,
    address: Ipv4Addr,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: TempDir::new(), address: own_loopback() };
        fs::copy(env!("CARGO_BIN_EXE_sluice"), scene.path("sluice")).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder in which `nobody` may do as he likes.
    fn folder_of_nobody(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    }

    /// Writes the configuration, with the status socket at `socket` and more keys after `[global]`.
    fn configure(&self, socket: &Path, more: &str) -> PathBuf {
        let file = self.path("sluice.toml");
        let text = format!("[global]\nstatus-socket = \"{}\"\n{more}\n{CONFIG}", socket.display());
        fs::write(&file, text.replace("{ip}", &self.address.to_string())).unwrap();
        file
    }

    /// Runs a daemon that must not start; its exit code and what it said.
    #[track_caller]
    fn refused(&self, who: Who, config: &Path) -> (Option<i32>, String) {
        let mut command = match who {
            Who::Root => sluice(),
            Who::Nobody => Command::new(self.path("sluice")),
        };
        command.arg("run").arg("-q").arg("-c").arg(config);
        if let Who::Nobody = who {
            through(&mut command, "setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        // Should it start all the same, it does not stay.
        let output = through(&mut command, "timeout", &["20"]).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// The start fails with `code` and says exactly this, in one line.
    #[track_caller]
    fn fails(&self, who: Who, config: &Path, code: i32, said: &str) {
        assert_eq!(self.refused(who, config), (Some(code), format!("{said}\n")));
    }
}

#[derive(Clone, Copy)]
enum Who {
    Root,
    Nobody,
}

#[test]
fn a_port_of_another_daemon_is_refused_and_nothing_is_left_behind() {
    let scene = Scene::new();
    let _backend = Backend::naming((scene.address, 1001), "a");
    let first = Daemon::start_on(scene.address, CONFIG, "", |command| command);
    let socket = scene.path("s.sock");
    let at = first.at(8443);
    let said = format!("listener tls cannot bind {at}: Address already in use (os error 98)");
    scene.fails(Who::Root, &scene.configure(&socket, ""), 1, &said);
    assert!(!socket.exists(), "the status socket goes with the attempt");
    assert_eq!(exchange(at, &client_hello(Some("any.test"), &[])).unwrap(), b"a", "the first daemon works on");
}

#[test]
fn privileged_ports_without_the_right_are_refused_with_what_is_missing() {
    let scene = Scene::new();
    let socket = scene.folder_of_nobody("run").join("s.sock");
    // Where ports are privileged, whatever this machine is set to.
    let space = Namespace::new();
    let missing = "Permission denied (os error 13); ports below 1024 need CAP_NET_BIND_SERVICE";
    let file = scene.configure(&socket, "");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(":8443", ":443")).unwrap();
    let at = SocketAddr::from((scene.address, 443));
    space.enter(|| scene.fails(Who::Nobody, &file, 1, &format!("listener tls cannot bind {at}: {missing}")));

    let at = SocketAddr::from((scene.address, 117));
    let file = scene.configure(&socket, &format!("metrics = \"{at}\""));
    space.enter(|| scene.fails(Who::Nobody, &file, 1, &format!("cannot bind metrics address {at}: {missing}")));
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let scene = Scene::new();
    let socket = scene.path("s.sock");
    let taken = TcpListener::bind((scene.address, 9117)).unwrap();
    let at = taken.local_addr().unwrap();
    let said = format!("cannot bind metrics address {at}: Address already in use (os error 98)");
    scene.fails(Who::Root, &scene.configure(&socket, &format!("metrics = \"{at}\"")), 1, &said);
    assert!(!socket.exists(), "the status socket goes with the attempt");

    // An address for documentation (RFC 5737).
    let file = scene.configure(&socket, "");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(&format!("{}:8443", scene.address), "192.0.2.1:8443"))
        .unwrap();
    let said = "listener tls cannot bind 192.0.2.1:8443: Cannot assign requested address (os error 99); \
                no interface of this machine has it";
    Namespace::new().enter(|| scene.fails(Who::Root, &file, 1, said));
}

#[test]
fn what_is_in_the_way_of_the_status_socket_is_named() {
    let scene = Scene::new();
    let socket = scene.path("s.sock");
    let shown = socket.display();
    let file = scene.configure(&socket, "");
    let in_the_way = format!("{shown} is in the way: it is no socket");
    fs::create_dir(&socket).unwrap();
    scene.fails(Who::Root, &file, 1, &in_the_way);
    fs::remove_dir(&socket).unwrap();
    symlink(scene.path("nowhere"), &socket).unwrap();
    scene.fails(Who::Root, &file, 1, &in_the_way);
    fs::remove_file(&socket).unwrap();

    // Of somebody else, who may be anything that answers.
    let other = UnixListener::bind(&socket).unwrap();
    scene.fails(Who::Root, &file, 1, &format!("another daemon answers on {shown}"));
    let denied = format!("cannot open status socket {shown}: Permission denied (os error 13)");
    scene.fails(Who::Nobody, &file, 1, &denied);
    drop(other);
    fs::remove_file(&socket).unwrap();
    scene.fails(Who::Nobody, &file, 1, &denied);
}

#[test]
fn a_log_that_cannot_be_opened_is_named() {
    let scene = Scene::new();
    let socket = scene.folder_of_nobody("run").join("s.sock");
    let log = |path: &Path| scene.configure(&socket, &format!("[log]\ntarget = \"{}\"", path.display()));
    let fails = |who: Who, path: &Path, why: &str| {
        scene.fails(who, &log(path), 1, &format!("cannot open log file {}: {why}", path.display()));
    };
    fails(Who::Root, &scene.path("none/log"), "No such file or directory (os error 2)");
    fs::create_dir(scene.path("folder")).unwrap();
    fails(Who::Root, &scene.path("folder"), "Is a directory (os error 21)");
    fs::write(scene.path("log"), "").unwrap();
    fails(Who::Nobody, &scene.path("log"), "Permission denied (os error 13)");
    fails(Who::Nobody, &scene.path("new"), "Permission denied (os error 13)");
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let scene = Scene::new();
    let fails = |who: Who, asked: &Path, culprit: &Path, why: &str| {
        scene.fails(who, asked, 3, &format!("cannot read configuration {}: {why}", culprit.display()));
    };
    let missing = scene.path("none.toml");
    fails(Who::Root, &missing, &missing, "No such file or directory (os error 2)");
    symlink(&missing, scene.path("link.toml")).unwrap();
    fails(Who::Root, &scene.path("link.toml"), &scene.path("link.toml"), "No such file or directory (os error 2)");

    let folder = scene.path("conf.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("README"), "").unwrap();
    fs::write(folder.join(".hidden.toml"), "").unwrap();
    fails(Who::Root, &folder, &folder, "no *.toml in this folder");
    fs::create_dir(folder.join("more.toml")).unwrap();
    fails(Who::Root, &folder, &folder.join("more.toml"), "Is a directory (os error 21)");
    fs::remove_dir(folder.join("more.toml")).unwrap();

    let file = scene.configure(&scene.path("s.sock"), "");
    let denied = "Permission denied (os error 13)";
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fails(Who::Nobody, &file, &file, denied);
    fs::rename(&file, folder.join("sluice.toml")).unwrap();
    fails(Who::Nobody, &folder, &folder.join("sluice.toml"), denied);
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    fails(Who::Nobody, &folder, &folder, denied);
}

#[test]
fn a_state_file_that_may_not_be_read_is_put_aside_and_its_words_are_not_lost() {
    let scene = Scene::new();
    let address = scene.address;
    let folder = scene.folder_of_nobody("lib");
    let state = folder.join("state.json");
    fs::write(&state, "{\"version\":2,\"overrides\":[]}\n").unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o600)).unwrap();
    let run = scene.folder_of_nobody("run");
    let program = scene.path("sluice");
    let global = format!("state-file = \"{}\"\n", state.display());
    let daemon = Daemon::start_on(address, CONFIG, &global, |command| {
        let config = command.get_args().last().unwrap().to_owned();
        let dir = Path::new(&config).parent().unwrap();
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
        *command = Command::new(&program);
        command.arg("run").arg("-c").arg(config);
        through(command, "setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups"])
    });
    drop(run);
    let aside = folder.join("state.json.bad");
    eventually("the log says so", || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("cannot use the state file"))?;
        let named = [&*state.to_string_lossy(), "Permission denied (os error 13)", &aside.to_string_lossy()]
            .iter()
            .all(|part| line.contains(*part));
        named.then_some(())
    });
    let drained = daemon.ask("drain", &json!({ "backend": format!("a/{address}:1001") }));
    assert_eq!(drained["result"]["kept"], true, "{drained}");
    assert_eq!(fs::read_to_string(&aside).unwrap(), "{\"version\":2,\"overrides\":[]}\n");
    assert!(fs::read_to_string(&state).unwrap().contains("\"drain\""));
}

#[test]
fn names_without_an_answer_at_the_start_are_named_with_the_reason() {
    let address = own_loopback();
    let body = CONFIG.replace("{ip}:1001", "web.shop.test:1001");
    // Nobody is there.
    let global = format!("resolvers = [\"{address}:5353\"]\n");
    let daemon = Daemon::start_on(address, &body, &global, |command| command);
    eventually("the log names it and says why", || {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("name cannot be resolved"))?;
        assert!(line.contains("no connection goes there until it can"), "{line}");
        (line.contains("web.shop.test:1001") && line.contains("\"error\":\"")).then_some(())
    });
}
