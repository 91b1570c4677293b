//! How sessions end: a stream that was complete stays complete, whatever comes after its FIN.

#![allow(clippy::unwrap_used, unsafe_code)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use support::{Daemon, connect, own_loopback};

/// More than the reader's kernel takes unread, and less than all kernels on the way hold.
const SIZE: usize = 1_000_000;

/// What the kernels between the two take while the reader has not begun.
const AHEAD: usize = 100_000;

const PLAIN: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
backends = ["{ip}:1001"]
"#;

/// One side sends everything, FIN, and closes; the other is slow to read and says something meanwhile, which the
/// kernel of the first answers with RST. All of the stream must arrive, and its end as an end.
fn complete_stream_survives_a_late_reset(client_sends: bool) {
    let address = own_loopback();
    let listener = TcpListener::bind((address, 1001)).unwrap();
    let daemon = Daemon::start_on(address, PLAIN, "", |command| command);
    for pause in [Duration::from_millis(50), Duration::from_millis(2500)] {
        let client = connect(daemon.at(443));
        let (server, _) = listener.accept().unwrap();
        let (mut sender, mut reader): (TcpStream, TcpStream) =
            if client_sends { (client, server) } else { (server, client) };
        reader.set_read_timeout(Some(support::DEADLINE)).unwrap();
        sender.write_all(&vec![7; SIZE]).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
        // Until sluice has taken all of it, so that closing leaves nothing behind.
        support::eventually("everything is acknowledged", || unsent(&sender).then_some(()));
        drop(sender);
        for _ in 0..2 {
            // The first provokes the reset, the second meets it.
            reader.write_all(b"!").unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(pause);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).expect("an end, not a reset");
        assert_eq!(received.len(), SIZE, "after a pause of {pause:?}");
    }
    for record in daemon.wait_for_records(2) {
        assert_eq!(record["end"], "done", "{record}");
    }
}

/// Whether the kernel has nothing left to send on a socket whose write half is shut down.
fn unsent(stream: &TcpStream) -> bool {
    let inode = std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap();
    let inode = inode.to_string_lossy().trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // Column 5 is tx_queue:rx_queue, column 10 the inode (proc(5)).
    table.lines().skip(1).any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[9] == inode && columns[4].starts_with("00000000:")
    })
}

#[test]
fn clients_complete_stream_survives_a_late_reset() {
    complete_stream_survives_a_late_reset(true);
}

#[test]
fn servers_complete_stream_survives_a_late_reset() {
    complete_stream_survives_a_late_reset(false);
}

/// One side sends, has all of it taken, and resets; the other is slow to read. Everything arrives before the reset, which
/// comes although the reader's kernel may have dropped segments on the way (RFC 5961 would have it doubt the reset).
fn bytes_before_a_reset_arrive_before_it(client_sends: bool) {
    let address = own_loopback();
    let listener = TcpListener::bind((address, 1001)).unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let daemon = Daemon::start_on(address, PLAIN, "", |command| command);
    for _ in 0..5 {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        client.connect(&daemon.at(443).into()).unwrap();
        let client = TcpStream::from(client);
        let (server, _) = listener.accept().unwrap();
        let (mut sender, mut reader) = if client_sends { (client, server) } else { (server, client) };
        reader.set_read_timeout(Some(support::DEADLINE)).unwrap();
        sender.write_all(&vec![7; AHEAD]).unwrap();
        support::eventually("everything is acknowledged", || acknowledged(&sender).then_some(()));
        socket2::SockRef::from(&sender).set_linger(Some(Duration::ZERO)).unwrap();
        drop(sender);
        let (mut received, mut buffer) = (0, [0; 1000]);
        let end = loop {
            std::thread::sleep(Duration::from_micros(200));
            match reader.read(&mut buffer) {
                Ok(0) => panic!("an end after {received} bytes, not a reset"),
                Ok(count) => received += count,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "after {received} bytes");
        assert_eq!(received, AHEAD);
    }
}

/// Whether the kernel has nothing left to send.
fn acknowledged(stream: &TcpStream) -> bool {
    let mut left = 0;
    // SAFETY: the request writes one integer to the pointer, which is to a live one.
    let result = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut left) };
    result == 0 && left == 0
}

#[test]
fn clients_bytes_arrive_before_its_reset() {
    bytes_before_a_reset_arrive_before_it(true);
}

#[test]
fn servers_bytes_arrive_before_its_reset() {
    bytes_before_a_reset_arrive_before_it(false);
}
