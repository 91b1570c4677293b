//! Backends that answer PostgreSQL's first packet as told and keep every byte they get, and clients that speak the
//! first packets by hand.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::{Backend, DEADLINE, eventually};

/// What a client sends to ask for TLS.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// What a client sends to ask for encryption by GSSAPI.
pub const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// A start-up packet without TLS, of the user `postgres`.
pub const START_UP: [u8; 23] = *b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";

/// A request to cancel, with a key of `key` bytes: four until protocol 3.0, up to 256 since 3.2.
pub fn cancel_request(key: usize) -> Vec<u8> {
    let length = 12 + key;
    [&(length as u32).to_be_bytes()[..], &[0x04, 0xd2, 0x16, 0x2e, 0, 0, 0x12, 0x34], &vec![0xab; key]].concat()
}

/// How a backend answers a request for TLS. Packets of other kinds get what each of them gets from a server: cancel
/// requests nothing, all others the backend's name, after which it reads on.
#[derive(Clone, Copy)]
pub enum Answer {
    /// `S`, and its name to whatever follows.
    Serves(&'static str),
    /// These bytes, and nothing more; it reads on.
    Says(&'static [u8]),
    /// The same in two segments, the second some time after the first.
    SaysInPieces(&'static [u8], &'static [u8]),
    /// FIN without a byte.
    Closes,
    /// RST without a byte.
    Resets,
}

/// What a backend got on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// The peer has closed.
    pub ended: bool,
}

/// A backend that answers as told and keeps what it hears.
pub struct Scripted {
    backend: Backend,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Scripted {
    #[track_caller]
    pub fn start(address: impl Into<SocketAddr>, answer: Answer) -> Self {
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let kept = Arc::clone(&heard);
        let backend = Backend::start(address, move |stream| {
            let place = {
                let mut all = kept.lock().unwrap();
                all.push(Heard::default());
                all.len() - 1
            };
            let mut ear = Ear { stream, heard: &kept, place };
            // A reset ends what is heard as well as FIN does. Noted before our side closes: the other may wait for that.
            let _ = ear.serve(answer);
            kept.lock().unwrap()[place].ended = true;
            drop(ear);
        });
        Self { backend, heard }
    }

    /// Stops listening; connections go on.
    pub fn stop(&mut self) {
        self.backend.stop();
    }

    /// What each connection brought so far, in the order of their coming.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until `count` connections have come and all are over; what each of them brought.
    #[track_caller]
    pub fn heard_all(&self, count: usize) -> Vec<Vec<u8>> {
        eventually(&format!("{count} connections are over at {}", self.backend.address), || {
            let heard = self.heard();
            let over = heard.len() >= count && heard.iter().all(|one| one.ended);
            over.then(|| heard.into_iter().map(|one| one.bytes).collect())
        })
    }
}

/// One connection of a backend.
struct Ear<'a> {
    stream: TcpStream,
    heard: &'a Mutex<Vec<Heard>>,
    place: usize,
}

impl Ear<'_> {
    fn serve(&mut self, answer: Answer) -> io::Result<()> {
        let mut head = [0; 8];
        while self.length() < head.len() {
            if self.hear()? == 0 {
                return Ok(());
            }
        }
        head.copy_from_slice(&self.heard.lock().unwrap()[self.place].bytes[..8]);
        match answer {
            _ if head[4..] == [0x04, 0xd2, 0x16, 0x2e] => {}
            Answer::Resets => return socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)),
            Answer::Closes if head == SSL_REQUEST => self.stream.shutdown(Shutdown::Write)?,
            Answer::Says(bytes) => self.stream.write_all(bytes)?,
            Answer::SaysInPieces(front, back) => {
                self.stream.set_nodelay(true)?;
                self.stream.write_all(front)?;
                // Long enough to be read by itself; if it is not, the test proves less, and does not fail.
                std::thread::sleep(Duration::from_millis(50));
                self.stream.write_all(back)?;
            }
            Answer::Serves(name) => {
                if head == SSL_REQUEST {
                    self.stream.write_all(b"S")?;
                    while self.length() == head.len() {
                        if self.hear()? == 0 {
                            return Ok(());
                        }
                    }
                }
                self.stream.write_all(name.as_bytes())?;
            }
            Answer::Closes => {}
        }
        while self.hear()? > 0 {}
        Ok(())
    }

    fn length(&self) -> usize {
        self.heard.lock().unwrap()[self.place].bytes.len()
    }

    fn hear(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        self.stream.set_read_timeout(Some(DEADLINE))?;
        let count = self.stream.read(&mut bytes)?;
        self.heard.lock().unwrap()[self.place].bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// A client that speaks by hand, with deadlines.
pub struct Client(pub TcpStream);

impl Client {
    /// Connects from a loopback address of one's choice.
    #[track_caller]
    pub fn from(source: [u8; 4], to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::from(source), 0)).into()).expect("bind to a source address");
        socket.connect_timeout(&to.into(), DEADLINE).expect("connect");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    #[track_caller]
    pub fn new(to: SocketAddr) -> Self {
        Self::from([127, 0, 0, 1], to)
    }

    #[track_caller]
    pub fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("write");
    }

    /// The next bytes must be these.
    #[track_caller]
    pub fn expect(&mut self, want: &[u8]) {
        let mut got = vec![0; want.len()];
        self.0.read_exact(&mut got).unwrap_or_else(|error| panic!("{error} instead of {}", want.escape_ascii()));
        assert!(got == want, "{} instead of {}", got.escape_ascii(), want.escape_ascii());
    }

    /// Asks for TLS, and gets it.
    #[track_caller]
    pub fn asked(mut self) -> Self {
        self.say(&SSL_REQUEST);
        self.expect(b"S");
        self
    }

    /// Everything up to FIN.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("FIN, not a reset");
        rest
    }

    /// FIN comes, and nothing before it.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }

    /// Waits until the other side has read all that was sent: only then is what follows a segment of its own.
    #[track_caller]
    pub fn wait_until_read(&self) {
        let side = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => format!("{:08X}:{:04X}", u32::from(ip).swap_bytes(), address.port()),
            std::net::IpAddr::V6(_) => panic!("IPv4 only"),
        };
        let (us, them) = (side(self.0.local_addr().unwrap()), side(self.0.peer_addr().unwrap()));
        eventually("what was sent is read", || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
            // sl, local address, remote address, state, bytes to send:bytes to read
            let row = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
            let mut theirs = row.filter(|row| row.get(1) == Some(&&*them) && row.get(2) == Some(&&*us));
            theirs.next().filter(|row| row[4].ends_with(":00000000")).map(drop)
        });
    }
}

/// The state and message of an error packet, which must be one and nothing else.
#[track_caller]
pub fn error_of(packet: &[u8]) -> (String, String) {
    let [b'E', a, b, c, d, fields @ ..] = packet else { panic!("no error packet: {}", packet.escape_ascii()) };
    assert_eq!(u32::from_be_bytes([*a, *b, *c, *d]) as usize, packet.len() - 1, "{}", packet.escape_ascii());
    let field = |kind: u8| {
        let mut parts = fields.split(|byte| *byte == 0).filter_map(|part| part.split_first());
        let text = parts.find(|(first, _)| **first == kind).map(|(_, text)| text);
        String::from_utf8(text.expect("the field is there").to_vec()).unwrap()
    };
    assert_eq!(field(b'S'), "FATAL");
    (field(b'C'), field(b'M'))
}
