//! A DNS server that says whatever a test wants, true or not: no real one would. Over UDP and TCP, on one address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Udp,
    Tcp,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Question {
    /// In lower case, with a dot at the end.
    pub name: String,
    pub kind: u16,
    pub way: Way,
    pub at: Instant,
}

/// One record: whose, what, for how long, and its data.
pub struct Record(pub Option<String>, pub u16, pub u32, pub Vec<u8>);

/// What to say.
pub enum Say {
    /// These records.
    Records(Vec<Record>),
    /// An answer that is cut off: ask over TCP.
    Truncated,
    /// This code without records.
    Code(u8),
    /// An answer to another question, as one who forges them would guess.
    Forged,
    /// These bytes, after the question's id.
    Garbage(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// The server; its threads end with it.
pub struct Dns {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Question>>>,
    stop: Arc<AtomicBool>,
}

impl Dns {
    /// Starts it on a port of its own.
    #[track_caller]
    pub fn start(address: Ipv4Addr, say: impl Fn(&Question) -> Say + Send + Sync + 'static) -> Self {
        let tcp = TcpListener::bind((address, 0)).expect("bind");
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).expect("bind");
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (asked, stop, say) = (Arc::<Mutex<Vec<Question>>>::default(), Arc::<AtomicBool>::default(), Arc::new(say));
        let answer = {
            let asked = Arc::clone(&asked);
            move |query: &[u8], way| {
                let question = read(query, way)?;
                asked.lock().unwrap().push(question.clone());
                write(query, say(&question))
            }
        };
        let over_tcp = answer.clone();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let (Ok(mut stream), answer) = (stream, over_tcp.clone()) else { continue };
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        if stream.read_exact(&mut query).is_err() {
                            return;
                        }
                        let Some(message) = answer(&query, Way::Tcp) else { continue };
                        let length = u16::try_from(message.len()).expect("64 KiB at most");
                        let _ = stream.write_all(&[&length.to_be_bytes(), &message[..]].concat());
                    }
                });
            }
        });
        let stopping = Arc::clone(&stop);
        thread::spawn(move || {
            let mut query = [0; 4096];
            while !stopping.load(Ordering::SeqCst) {
                let Ok((count, peer)) = udp.recv_from(&mut query) else { continue };
                if let Some(message) = answer(&query[..count], Way::Udp) {
                    let _ = udp.send_to(&message, peer);
                }
            }
        });
        Self { address, asked, stop }
    }

    /// All questions so far.
    pub fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// `ADDRESS` as data.
pub fn address(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

/// A name as data, without compression.
pub fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

/// An SRV record's data.
pub fn service(priority: u16, weight: u16, port: u16, host: &str) -> Vec<u8> {
    [priority, weight, port].into_iter().flat_map(u16::to_be_bytes).chain(name(host)).collect()
}

fn read(query: &[u8], way: Way) -> Option<Question> {
    let mut rest = query.get(12..)?;
    let mut name = String::new();
    while let [length @ 1..=63, more @ ..] = rest {
        name += &String::from_utf8_lossy(more.get(..usize::from(*length))?).to_lowercase();
        name.push('.');
        rest = more.get(usize::from(*length)..)?;
    }
    let kind = u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]);
    Some(Question { name, kind, way, at: Instant::now() })
}

fn write(query: &[u8], say: Say) -> Option<Vec<u8>> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0)? + 5;
    let question = &query[12..end];
    let (flags, records) = match say {
        Say::Records(records) => (0x8580, records),
        Say::Truncated => (0x8780, Vec::new()),
        Say::Code(code) => (0x8580 | u16::from(code), Vec::new()),
        Say::Garbage(bytes) => return Some([&query[..2], &bytes].concat()),
        Say::Forged => return Some([&[!query[0], query[1], 0x85, 0x80], &query[4..]].concat()),
        Say::Nothing => return None,
    };
    let mut message = query[..2].to_vec();
    for count in [flags, 1, records.len() as u16, 0, 0] {
        message.extend(count.to_be_bytes());
    }
    message.extend(question);
    for Record(owner, kind, ttl, data) in records {
        // A pointer to the question, where nobody else is meant.
        message.extend(owner.map_or_else(|| vec![0xc0, 12], |owner| name(&owner)));
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    Some(message)
}
