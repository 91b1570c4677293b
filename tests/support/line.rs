//! A pool with few places and a line of clients that wait for one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;

use super::counting::Counting;
use super::hello::client_hello;
use super::{Daemon, connect, eventually, own_loopback};

pub const GLOBAL: &str = "workers = 2\n";

/// A tls listener on 443 and a tcp listener on 444, both in front of backend `b` on 1001.
pub fn config(pool: &str) -> String {
    config_with(pool, "")
}

pub fn config_with(pool: &str, backend: &str) -> String {
    format!(
        r#"
[[listener]]
name = "tls"
bind = ["{{ip}}:443"]
pool = "p"
[[listener]]
name = "tcp"
protocol = "tcp"
bind = ["{{ip}}:444"]
pool = "p"
[pool.p]
passive.failures = 0
{pool}
[[pool.p.backend]]
name = "b"
address = "{{ip}}:1001"
{backend}
"#
    )
}

pub const ONE: &str = "max-connections = 1\nqueue-timeout = \"20s\"";

pub fn start(body: &str) -> (Daemon, Counting) {
    let address = own_loopback();
    let backends = Counting::start(&[(address, 1001).into(), (address, 1002).into()]);
    (start_on(address, body), backends)
}

pub fn start_on(address: Ipv4Addr, body: &str) -> Daemon {
    Daemon::start_on(address, body, GLOBAL, |command| command)
}

pub fn waiting(daemon: &Daemon) -> u64 {
    daemon.json("/v1/status")["pools"][0]["waiting"].as_u64().unwrap()
}

#[track_caller]
pub fn wait_for_waiting(daemon: &Daemon, count: u64) {
    eventually(&format!("{count} wait"), || (waiting(daemon) == count).then_some(()));
}

/// A client that has said its first words.
pub fn client(at: SocketAddr) -> TcpStream {
    let mut stream = connect(at);
    stream.write_all(&client_hello(Some("any.test"), &[])).unwrap();
    stream
}

/// Clients that wait, in this order.
#[track_caller]
pub fn line(daemon: &Daemon, port: u16, count: u64) -> Vec<TcpStream> {
    let join = |position| {
        let stream = client(daemon.at(port));
        wait_for_waiting(daemon, position);
        stream
    };
    (1..=count).map(join).collect()
}

/// Waits until a backend has greeted; its letter.
#[track_caller]
pub fn greeted(mut stream: &TcpStream) -> char {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("served");
    assert_ne!(byte[0], 0x15, "refused");
    byte[0].into()
}

#[track_caller]
pub fn end(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Whether nothing has been answered yet.
pub fn is_unserved(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    silent
}

pub fn ends(daemon: &Daemon, count: usize, end: &str) -> Vec<Value> {
    eventually(&format!("{count} records of {end}"), || {
        let records: Vec<Value> = daemon.records().into_iter().filter(|record| record["end"] == end).collect();
        (records.len() == count).then_some(records)
    })
}
