//! PROXY headers made without the code under test, and a backend that tells what it was sent.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;
use std::{fs, iter, thread};

use socket2::{Domain, Socket, Type};

use super::{Backend, DEADLINE};

pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
pub const LOCAL: u8 = 0x20;
pub const PROXY: u8 = 0x21;
pub const TCP4: u8 = 0x11;
pub const TCP6: u8 = 0x21;

pub const ALPN: u8 = 1;
pub const AUTHORITY: u8 = 2;
pub const CRC32C: u8 = 3;
pub const UNIQUE_ID: u8 = 5;
pub const SSL: u8 = 0x20;
pub const GCP: u8 = 0xe0;
pub const AWS: u8 = 0xea;
pub const AZURE: u8 = 0xee;

/// A header of version 2 around what follows its first sixteen bytes.
pub fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// One field.
pub fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

/// The block of addresses, both of one family.
pub fn block(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    [octets(source), octets(destination), ports].concat()
}

/// PROXY from `source` to 198.51.100.9:443, with these fields.
pub fn v2_from(source: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    let (family, destination) = if source.is_ipv4() { (TCP4, "198.51.100.9:443") } else { (TCP6, "[2001:db8::9]:443") };
    v2(PROXY, family, &[block(source, destination.parse().unwrap()), fields.concat()].concat())
}

/// Bit by bit, as the polynomial says; the code under test uses a table or the processor.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum: u32, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1))))
}

/// Fills in the checksum of a header that has the field with anything in it.
pub fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
    let at = field_places(&header).into_iter().find(|(kind, value)| (*kind, value.len()) == (CRC32C, 4));
    let at = at.expect("a field for the checksum").1;
    header[at.clone()].fill(0);
    let sum = crc32c(&header);
    header[at].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The length of the header of version 2 that `bytes` begin with.
pub fn v2_length(bytes: &[u8]) -> usize {
    assert!(bytes.starts_with(SIGNATURE), "{}", bytes.escape_ascii());
    16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))
}

fn field_places(header: &[u8]) -> Vec<(u8, std::ops::Range<usize>)> {
    let end = v2_length(header);
    let mut at = 16 + if header[13] == TCP4 { 12 } else { 36 };
    let mut found = Vec::new();
    while at < end {
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([header[at + 1], header[at + 2]]));
        assert!(value.end <= end, "a field that reaches beyond the header: {}", header.escape_ascii());
        found.push((header[at], value.clone()));
        at = value.end;
    }
    found
}

/// The fields of a header of version 2 with addresses.
pub fn fields(header: &[u8]) -> Vec<(u8, Vec<u8>)> {
    field_places(header).into_iter().map(|(kind, value)| (kind, header[value].to_vec())).collect()
}

/// The value of the one field of this kind.
pub fn field(header: &[u8], kind: u8) -> Option<Vec<u8>> {
    let mut found = fields(header).into_iter().filter(|(one, _)| *one == kind);
    let value = found.next().map(|(_, value)| value);
    assert!(found.next().is_none(), "field {kind:#x} stands twice: {}", header.escape_ascii());
    value
}

/// What one connection brought to a [`Witness`].
#[derive(Debug)]
pub struct Brought {
    /// What the first read returned.
    pub first: Vec<u8>,
    /// All of it, the first read included.
    pub all: Vec<u8>,
}

/// A backend that answers its name and FIN to whoever sends something, and hands over what it was sent.
pub struct Witness {
    pub backend: Backend,
    brought: Receiver<Brought>,
}

impl Witness {
    #[track_caller]
    pub fn start(address: impl Into<SocketAddr>, name: &'static str) -> Self {
        let (sender, brought) = mpsc::channel();
        let backend = Backend::start(address, move |mut stream| {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut first = vec![0; 65_536];
            let count = stream.read(&mut first).unwrap_or(0);
            first.truncate(count);
            let mut all = first.clone();
            if count > 0 {
                let _ = stream.write_all(name.as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
            }
            let _ = stream.read_to_end(&mut all);
            // Nobody listens any more when the test is over.
            let _ = sender.send(Brought { first, all });
        });
        Self { backend, brought }
    }

    /// The next connection that is over, health checks included.
    #[track_caller]
    pub fn next(&self) -> Brought {
        self.brought.recv_timeout(DEADLINE).expect("a connection to the backend")
    }
}

/// Connects from a loopback address of one's choice, with a port that no test of this process had there before: a record
/// can be found by its client.
#[track_caller]
pub fn connect_from(source: Ipv4Addr, target: SocketAddr) -> TcpStream {
    static USED: Mutex<BTreeSet<(Ipv4Addr, u16)>> = Mutex::new(BTreeSet::new());
    let socket = iter::repeat_with(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket
    })
    .find(|socket| {
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        USED.lock().unwrap().insert((source, port))
    })
    .expect("endless");
    socket.connect_timeout(&target.into(), DEADLINE).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Waits until the other side has read all that was sent, so that the next bytes are another read. Both ends are on
/// this machine, where the kernel shows what a socket holds unread.
#[track_caller]
pub fn wait_until_read(stream: &TcpStream) {
    let shown = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port()),
        SocketAddr::V6(_) => panic!("only IPv4"),
    };
    // A socket that was reset has no peer any more, and is read by nobody.
    let Ok(peer) = stream.peer_addr() else { return };
    let (theirs, ours) = (shown(peer), shown(stream.local_addr().unwrap()));
    let begun = Instant::now();
    loop {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        let line = sockets.lines().find(|line| line.contains(&format!(" {theirs} {ours} ")));
        // A socket that is gone reads no more.
        let unread = line.and_then(|line| line.split_whitespace().nth(4)?.split_once(':').map(|(_, unread)| unread));
        if unread.is_none_or(|unread| unread == "00000000") {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "not read within {DEADLINE:?}");
        thread::yield_now();
    }
}

/// How sluice sees the client, and all that it is answered; the connection is closed.
pub fn finish(mut stream: TcpStream) -> (String, io::Result<Vec<u8>>) {
    let (peer, mut answer) = (stream.local_addr().unwrap().to_string(), Vec::new());
    let ended = stream.read_to_end(&mut answer);
    (peer, ended.map(|_| answer))
}
