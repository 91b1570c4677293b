//! A daemon that the service manager has started with sockets: they go over, and come back with their listener.

#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;

use crate::scene::{CONFIG, all_echo, says, sessions};
use crate::support::{Backend, Daemon, TempDir, eventually, own_loopback, through};

#[test]
fn sockets_of_the_service_manager_go_over_and_stay_its_own() {
    let address = own_loopback();
    let _backends = [1001, 1002].map(|port| Backend::echo((address, port)));
    let dir = TempDir::new();
    let path = dir.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    let told = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&told);
    // Ends with the test. Whatever sockets come along are closed at once, as where nothing is to be kept.
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count) = notify.recv(&mut bytes) {
            heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let notify_is = format!("--setenv=NOTIFY_SOCKET={}", path.display());
    let daemon = Daemon::start_on(address, CONFIG, "workers = 2\n", |command| {
        let socket = PathBuf::from(command.get_args().last().unwrap()).with_file_name("s.sock").display().to_string();
        let (tls, plain) = (format!("{address}:443"), format!("{address}:444"));
        let arguments = [&notify_is, "-l", &tls, "-l", &plain, "-l", &socket, "--fdname=tls:plain:status"];
        through(command, "systemd-socket-activate", &arguments)
    });
    let mut open = sessions(&daemon, 20);
    let done = daemon.upgrade();
    all_echo(&mut open, b"over there");
    // The service manager follows, though it was not the one that started the new process.
    let main_pid = format!("MAINPID={}", done["pid"]);
    eventually("it is told", || told.lock().unwrap().contains(&main_pid).then_some(()));
    // A listener that is away over an upgrade: its socket stays open, and who comes waits in it.
    let without = CONFIG.replacen("[[listener]]\nname = \"plain\"", "[[listener]]\nname = \"other\"", 1);
    daemon.write_config(&without.replace("{ip}:444", "{ip}:446"), "workers = 3\n");
    daemon.reload();
    let mut early = std::net::TcpStream::connect(daemon.at(444)).unwrap();
    daemon.upgrade();
    daemon.upgrade();
    says(&daemon, 446, b"its own");
    daemon.write_config(CONFIG, "workers = 2\n");
    daemon.reload();
    crate::scene::echoes(&mut early, b"who waited is served");
    says(&daemon, 444, b"back again");
    all_echo(&mut open, b"all the while");
    drop((open, early));
    daemon.signal(Signal::SIGTERM);
    eventually("it ends", || std::net::TcpStream::connect(daemon.at(446)).is_err().then_some(()));
    daemon.wait_for_log("\"message\":\"stopped\"");
    assert!(daemon.socket().exists(), "the file is the service manager's");
}
