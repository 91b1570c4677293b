//! Daemons whose log goes elsewhere than usual, and clients of theirs that come again and again.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::hello::client_hello;
use super::{connect, through};

/// A backend that names itself, and many workers: each hands over its records by itself.
pub const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
[[listener.route]]
sni = ["**.shop.test"]
pool = "shop"
[pool.shop]
backends = ["{ip}:1001"]
"#;

/// Writes another `[log]` into the configuration of a daemon that is about to start; `{dir}` stands for its folder.
pub fn logging<'a>(command: &'a mut Command, log: &str) -> &'a mut Command {
    let path = PathBuf::from(command.get_args().last().expect("the configuration's path"));
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("[log]\n").expect("a [log]");
    let rest = rest.split_once("\ntarget = ").and_then(|(_, rest)| rest.split_once('\n')).expect("its keys").1;
    let log = log.replace("{dir}", &path.parent().unwrap().display().to_string());
    fs::write(&path, format!("{before}[log]\n{log}\n{rest}")).unwrap();
    command
}

/// Has it run in a mount namespace of its own, after `script`, a line of the shell.
pub fn apart<'a>(command: &'a mut Command, script: &str) -> &'a mut Command {
    let script = format!("{script} && exec \"$@\"");
    through(command, "/usr/bin/unshare", &["-m", "sh", "-c", &script, env!("CARGO_PKG_NAME")])
}

/// One whole session with a server that answers and ends.
pub fn session(at: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = connect(at);
    stream.write_all(&client_hello(Some("a.shop.test"), &[])).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"one");
    begun.elapsed()
}

/// So many sessions, of four clients at once: how long each took.
pub fn sessions(at: SocketAddr, count: usize) -> Vec<Duration> {
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(move || (0..count / 4).map(|_| session(at)).collect::<Vec<_>>())).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// The middle of some times.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
