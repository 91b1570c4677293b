//! A daemon for tests of the runtime API, and a client of it, for sluice and for HAProxy alike.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Backend, DEADLINE, Daemon, eventually, own_loopback};

/// A listener `web` and a pool `shop`.
pub const CONFIG: &str = r#"
[[listener]]
name = "web"
bind = ["{ip}:443"]
protocol = "tcp"
max-connections = 200
pool = "shop"
[pool.shop]
balance = "least-connections"
[[pool.shop.backend]]
name = "a"
address = "{ip}:1001"
[[pool.shop.backend]]
name = "b"
address = "{ip}:1002"
max-connections = 5
[pool.shop.health]
check = "tcp"
interval = "100ms"
fast-interval = "50ms"
"#;

/// A daemon whose `shop/a` serves and whose `shop/b` is down; the last is its status socket.
#[track_caller]
pub fn start(more: &str) -> (Daemon, Backend, PathBuf) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, &format!("{CONFIG}{more}"), "", |command| command);
    daemon.wait_for_state("a", "up");
    let socket = daemon.socket();
    (daemon, backend, socket)
}

/// Sends `bytes` and reads until the other side closes.
#[track_caller]
pub fn ask(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("runtime API");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer and its end");
    String::from_utf8(answer).expect("text")
}

/// One line.
#[track_caller]
pub fn say(socket: &Path, line: &str) -> String {
    ask(socket, format!("{line}\n").as_bytes())
}

/// Rows of `show stat` with its arguments, by column.
#[track_caller]
pub fn stat(socket: &Path, arguments: &str) -> Vec<HashMap<String, String>> {
    let answer = say(socket, &format!("show stat {arguments}"));
    let table = answer.strip_prefix("# ").unwrap_or_else(|| panic!("no header: {answer}"));
    let mut reader = csv::Reader::from_reader(table.trim_end().as_bytes());
    reader.deserialize().collect::<Result<_, _>>().expect("CSV")
}

/// One cell of one row.
#[track_caller]
pub fn cell(socket: &Path, proxy: &str, service: &str, column: &str) -> String {
    let rows = stat(socket, "");
    let row = rows.iter().find(|row| row["pxname"] == proxy && row["svname"] == service);
    row.unwrap_or_else(|| panic!("no {proxy}/{service}"))[column].clone()
}

/// Waits until a cell has a value.
#[track_caller]
pub fn wait_for_cell(socket: &Path, [proxy, service, column]: [&str; 3], value: &str) {
    let mut last = String::new();
    let what = format!("{proxy}/{service}: {column} is {value}");
    eventually(&what, || {
        last = cell(socket, proxy, service, column);
        (last == value).then_some(())
    });
}
