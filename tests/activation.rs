//! Sockets that the service manager opens and keeps: activation by Debian's `systemd-socket-activate`, and the descriptor
//! store played by the test.

#![allow(clippy::unwrap_used, unsafe_code)]

mod support;

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use support::{Backend, DEADLINE, Daemon, TempDir, eventually, own_loopback, sluice, through};

const CONFIG: &str = r#"
[[listener]]
name = "l"
bind = ["{ip}:443"]
protocol = "tcp"
pool = "p"

[pool.p]
backends = ["{ip}:1001"]
"#;

/// A client that keeps trying until somebody listens.
fn connect(address: SocketAddr) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                return stream;
            }
            Err(error) => assert!(begun.elapsed() < DEADLINE, "nobody listens on {address}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

/// Runs sluice by `systemd-socket-activate`, which starts it once a client comes.
fn activated<'a>(command: &'a mut Command, address: SocketAddr, name: &str) -> &'a mut Command {
    let address = address.to_string();
    through(command, "systemd-socket-activate", &["-l", &address, &format!("--fdname={name}")])
}

#[test]
fn client_that_starts_the_daemon_by_its_socket_is_served() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let at = SocketAddr::from((address, 443));
    let first = thread::spawn(move || {
        let mut stream = connect(at);
        echoes(&mut stream);
    });
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| activated(command, at, "l"));
    first.join().expect("the first client is served");
    for _ in 0..20 {
        echoes(&mut connect(at));
    }
    // A listener that goes and comes back finds its socket again, which systemd keeps open.
    daemon.write_config(&CONFIG.replace(":443", ":444"), "workers = 2\n");
    daemon.reload();
    echoes(&mut connect(daemon.at(444)));
    daemon.write_config(CONFIG, "workers = 2\n");
    daemon.reload();
    echoes(&mut connect(at));
}

#[test]
fn socket_with_the_name_of_a_listener_and_another_address_is_refused() {
    let address = own_loopback();
    let at = SocketAddr::from((address, 4443));
    let dir = TempDir::new();
    let file = dir.path().join("sluice.toml");
    let config = format!("[global]\nstatus-socket = \"{}\"\n{}", dir.path().join("s").display(), CONFIG);
    std::fs::write(&file, config.replace("{ip}", &address.to_string())).unwrap();
    let mut command = sluice();
    command.arg("run").arg("-c").arg(&file);
    let mut child = activated(&mut command, at, "l").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let _client = connect(at);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("handed over") && said.contains("listener l does not bind it"), "{said}");
}

/// Reads what the daemon says until it hands over a descriptor under a name that ends with `end`.
fn stored(inbox: &UnixDatagram, end: &str) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<UnixAddr>(inbox.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just made them for this process.
                found.extend(descriptors.into_iter().map(|one| unsafe { OwnedFd::from_raw_fd(one) }));
            }
        }
        let count = message.bytes;
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if text.contains("FDSTORE=1") {
            assert!(text.lines().any(|line| line.starts_with("FDNAME=") && line.ends_with(end)), "{text}");
        }
        if text.contains("READY=1") {
            return found;
        }
    }
}

#[test]
fn kept_listeners_pass_a_restart_and_nobody_is_refused() {
    let (_dir, path, inbox) = service_manager();
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let global = "workers = 2\n";
    let mut old = Daemon::start_on(address, CONFIG, global, |command| command.env("NOTIFY_SOCKET", &path));
    let kept = stored(&inbox, "_443");
    assert_eq!(kept.len(), 2, "a socket for each worker");
    let at = old.at(443);
    echoes(&mut connect(at));
    old.signal(Signal::SIGTERM);
    assert!(old.wait_for_exit().success());
    // Between the two, clients wait in the queues of the sockets that were kept.
    let mut waiting: Vec<TcpStream> =
        (0..10).map(|_| TcpStream::connect(at).expect("the socket still listens")).collect();
    // A shell gives them the numbers and names as systemd does.
    let numbers: Vec<i32> = open_copies(&kept);
    let script = format!(
        "exec 3<&{0} 4<&{1} {0}<&- {1}<&-; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={name}:{name} exec \"$@\"",
        numbers[0],
        numbers[1],
        name = format_args!("tcp_{address}_443"),
    );
    let mut new = Daemon::start_on(address, CONFIG, global, |command| {
        through(command.env("NOTIFY_SOCKET", &path), "bash", &["-c", &script, "bash"])
    });
    for stream in &mut waiting {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        echoes(stream);
    }
    for _ in 0..20 {
        echoes(&mut connect(at));
    }
    // They are its own: what a reload removes is closed, and forgotten by the service manager.
    stored(&inbox, "_443");
    drop((waiting, kept, numbers.into_iter().map(close).collect::<Vec<_>>()));
    new.write_config(&CONFIG.replace(":443", ":444"), global);
    new.reload();
    let told = told_until(&inbox, "FDSTOREREMOVE=1");
    assert!(told.contains(&format!("FDNAME=tcp_{address}_443")), "{told}");
    eventually("it is closed", || TcpStream::connect(at).is_err().then_some(()));
    echoes(&mut connect(new.at(444)));
    new.signal(Signal::SIGTERM);
    new.wait_for_exit();
}

#[test]
fn kept_listeners_that_the_configuration_does_not_have_any_more_are_closed() {
    let (_dir, path, inbox) = service_manager();
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let gone = std::net::TcpListener::bind((address, 445)).unwrap();
    let number = open_copies(&[gone.into()])[0];
    let script = format!(
        "exec 3<&{number} {number}<&-; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=tcp_{address}_445 exec \"$@\""
    );
    let daemon = Daemon::start_on(address, CONFIG, "", |command| {
        through(command.env("NOTIFY_SOCKET", &path), "bash", &["-c", &script, "bash"])
    });
    close(number);
    let told = told_until(&inbox, "FDSTOREREMOVE=1");
    assert!(told.contains(&format!("FDNAME=tcp_{address}_445")), "{told}");
    // Programs that other tests start meanwhile may hold it for a moment.
    eventually("nobody waits there in vain", || TcpStream::connect(daemon.at(445)).is_err().then_some(()));
    // A reload that fails keeps nothing of what it tried.
    stored(&inbox, "_443");
    let _taken = support::deaf((address, 447));
    let more = "[[listener]]\nname = \"m\"\nbind = [\"{ip}:446\", \"{ip}:447\"]\nprotocol = \"tcp\"\npool = \"p\"\n";
    daemon.write_config(&CONFIG.replacen("[pool.", &format!("{more}[pool."), 1), "");
    assert!(!daemon.cli(&["reload", "--wait"]).status.success());
    assert!(TcpStream::connect(daemon.at(446)).is_err());
    daemon.signal(Signal::SIGTERM);
    let told = told_until(&inbox, "STOPPING=1");
    assert!(!told.contains("FDSTORE=1"), "{told}");
}

/// Where a service manager is told things, with the folder that it is in.
fn service_manager() -> (TempDir, PathBuf, UnixDatagram) {
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let inbox = UnixDatagram::bind(&path).unwrap();
    inbox.set_read_timeout(Some(DEADLINE)).unwrap();
    (dir, path, inbox)
}

/// What the service manager is told, until it contains `end`.
fn told_until(inbox: &UnixDatagram, end: &str) -> String {
    let mut told = String::new();
    while !told.contains(end) {
        let mut bytes = [0; 4096];
        let count = inbox.recv(&mut bytes).expect(end);
        told.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    told
}

fn close(number: i32) {
    nix::unistd::close(number).unwrap();
}

/// Copies of descriptors that programs started from here inherit.
fn open_copies(all: &[OwnedFd]) -> Vec<i32> {
    let copy = |one: &OwnedFd| fcntl(one, FcntlArg::F_DUPFD(10)).unwrap();
    all.iter().map(copy).collect()
}
