//! Sockets that the service manager opens and keeps: activation by Debian's `systemd-socket-activate`, and the descriptor
//! store played by the test.

#![allow(clippy::unwrap_used, unsafe_code)]

mod support;

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use support::{Backend, DEADLINE, Daemon, TempDir, own_loopback, sluice, through};

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
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let inbox = UnixDatagram::bind(&path).unwrap();
    inbox.set_read_timeout(Some(DEADLINE)).unwrap();
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
        "exec 3<&{} 4<&{}; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=tcp_a:tcp_b exec \"$@\"",
        numbers[0], numbers[1]
    );
    let new = Daemon::start_on(address, CONFIG, global, |command| through(command, "bash", &["-c", &script, "bash"]));
    for stream in &mut waiting {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        echoes(stream);
    }
    for _ in 0..20 {
        echoes(&mut connect(at));
    }
    drop(new);
}

/// Copies of descriptors that programs started from here inherit.
fn open_copies(all: &[OwnedFd]) -> Vec<i32> {
    let copy = |one: &OwnedFd| fcntl(one, FcntlArg::F_DUPFD(10)).unwrap();
    all.iter().map(copy).collect()
}
