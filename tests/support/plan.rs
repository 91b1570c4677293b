//! Random sessions for `tests/bytes.rs`: both ends' scripts drawn from a seed and a number, and what each end must see.
//! The number travels in the stream itself, so that the backend draws the same plan.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Duration;

use super::DEADLINE;
use super::hello::padded_hello;
use super::pump::{After, Chunks, Content, Dice, Ending, MOST, Outcome, Script, Seen};

const KIB: u64 = 1024;
/// Largest content of one direction.
const LARGEST: u64 = 8 * 1024 * KIB;
/// Before the number of the session in the stream. No TLS record begins like this.
const MAGIC: [u8; 8] = *b"sluice/1";

/// How a session comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The client half-closes; the reply begins after that.
    ClientFirst,
    /// The server half-closes; the client's bytes come after that.
    ServerFirst,
    /// Each half-closes when it is done.
    Both,
    ClientReset,
    ServerReset,
    /// The server closes while something is unread.
    ServerDeaf,
    /// The request is whole, the reply is not.
    ServerResetAfterFin,
    /// The reply is whole, the request is not.
    ClientResetAfterFin,
    /// The client half-closes and resets before the reply is whole.
    ClientFinThenReset,
}

/// Kinds with their shares in percent.
pub const KINDS: [(Kind, u64); 9] = [
    (Kind::ClientFirst, 20),
    (Kind::ServerFirst, 18),
    (Kind::Both, 32),
    (Kind::ClientReset, 8),
    (Kind::ServerReset, 8),
    (Kind::ServerDeaf, 5),
    (Kind::ServerResetAfterFin, 3),
    (Kind::ClientResetAfterFin, 3),
    (Kind::ClientFinThenReset, 3),
];

/// `relay` of the pool that a session goes to: which way its bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relay {
    Auto,
    Copy,
    Splice,
}

impl Relay {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Copy, Self::Splice];

    /// The setting, which is the name of the pool too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Copy => "copy",
            Self::Splice => "splice",
        }
    }
}

/// One session.
#[derive(Debug)]
pub struct Plan {
    pub number: u64,
    pub kind: Kind,
    pub relay: Relay,
    pub tls: bool,
    /// The client's hello; empty without TLS.
    pub hello: Vec<u8>,
    pub client: Script,
    pub server: Script,
    /// Small receive buffers, in bytes.
    pub client_window: Option<u64>,
    pub server_window: Option<u64>,
    /// The client may be gone before the server knows which session this is: a reset overtakes what is on its way.
    pub early: bool,
}

impl Plan {
    /// The session `number` of the run with `seed`.
    pub fn draw(seed: u64, number: u64) -> Self {
        let mut dice = Dice(Dice(seed).roll() ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let kind = draw_kind(&mut dice);
        let relay = Relay::ALL[(number % 3) as usize];
        let tls = dice.percent(50);
        let hello = if tls { draw_hello(&mut dice, relay) } else { Vec::new() };
        let (client_window, server_window) = (draw_window(&mut dice), draw_window(&mut dice));
        let mut up = draw_content(&mut dice, client_window.or(server_window).is_some());
        let down = draw_content(&mut dice, client_window.or(server_window).is_some());
        if kind == Kind::ServerDeaf {
            // Something must remain unread.
            up.length = up.length.max(1);
        }
        let preamble = [&hello[..], &MAGIC, &number.to_le_bytes()].concat();
        let mut client = Script {
            send: up,
            expect: down,
            sends_after_fin: kind == Kind::ServerFirst,
            chunks: draw_chunks(&mut dice, preamble.len() as u64 + up.length, down.length, client_window),
            ending: Ending::Fin,
            preamble,
        };
        let mut server = Script {
            send: down,
            expect: up,
            sends_after_fin: kind == Kind::ClientFirst,
            chunks: draw_chunks(&mut dice, down.length, up.length, server_window),
            ending: Ending::Fin,
            preamble: Vec::new(),
        };
        let whole_up = client.preamble.len() as u64 + up.length;
        let at_once = dice.percent(30);
        match kind {
            Kind::ClientFirst | Kind::ServerFirst | Kind::Both => {}
            Kind::ClientReset => {
                // With TCP_DEFER_ACCEPT nobody ever hears of a client that resets before its first byte.
                let sent = dice.between(u64::from(tls), whole_up);
                let received = if at_once { 0 } else { dice.between(0, down.length) };
                let sent = if at_once { sent } else { sent.max(whole_up - up.length) };
                client.ending = Ending::Reset { sent, received, after: After::Nothing };
                server.ending = Ending::NoFin;
            }
            Kind::ServerReset => {
                let (sent, received) = (dice.between(0, down.length), dice.between(0, up.length));
                server.ending = Ending::Reset { sent, received, after: After::Nothing };
                client.ending = Ending::NoFin;
            }
            Kind::ServerDeaf => {
                server.ending = Ending::Deaf { sent: dice.between(0, down.length) };
                client.ending = Ending::NoFin;
            }
            Kind::ServerResetAfterFin => {
                let sent = dice.between(0, down.length);
                server.ending = Ending::Reset { sent, received: up.length, after: After::PeersFin };
            }
            Kind::ClientResetAfterFin => {
                let sent = dice.between(whole_up - up.length, whole_up);
                client.ending = Ending::Reset { sent, received: down.length, after: After::PeersFin };
            }
            Kind::ClientFinThenReset => {
                let received = dice.between(0, down.length);
                client.ending = Ending::Reset { sent: whole_up, received, after: After::OwnFin };
                server.ending = Ending::NoFin;
            }
        }
        let early = matches!(kind, Kind::ClientReset | Kind::ClientFinThenReset);
        Self { number, kind, relay, tls, hello, client, server, client_window, server_window, early }
    }

    /// Whether both sides finish.
    pub fn is_orderly(&self) -> bool {
        matches!(self.kind, Kind::ClientFirst | Kind::ServerFirst | Kind::Both)
    }

    /// Bytes that the client sends when nothing is cut short.
    pub fn up(&self) -> u64 {
        self.client.preamble.len() as u64 + self.client.send.length
    }

    /// Bytes that the server sends when nothing is cut short.
    pub fn down(&self) -> u64 {
        self.server.send.length
    }

    /// What the client must have seen.
    pub fn check_client(&self, outcome: Outcome) -> Result<(), String> {
        let seen: &[Seen] = match self.kind {
            Kind::ClientFirst | Kind::ServerFirst | Kind::Both | Kind::ClientResetAfterFin => &[Seen::Fin],
            Kind::ServerReset | Kind::ServerDeaf | Kind::ServerResetAfterFin => &[Seen::Reset],
            Kind::ClientReset | Kind::ClientFinThenReset => &[Seen::Nothing],
        };
        check("client", seen, outcome)?;
        let all = (self.up(), self.down());
        whole(self.is_orderly(), "client", (outcome.sent, outcome.received), all)
    }

    /// What the server must have seen, when it got to know which session it was.
    pub fn check_server(&self, outcome: Outcome) -> Result<(), String> {
        let seen: &[Seen] = match self.kind {
            Kind::ClientFirst | Kind::ServerFirst | Kind::Both | Kind::ServerResetAfterFin => &[Seen::Fin],
            Kind::ClientReset | Kind::ClientResetAfterFin => &[Seen::Reset],
            Kind::ServerReset | Kind::ServerDeaf => &[Seen::Nothing],
            Kind::ClientFinThenReset => &[Seen::Fin, Seen::Reset, Seen::FinThenReset],
        };
        check("server", seen, outcome)?;
        let all = (self.down(), self.client.send.length);
        whole(self.is_orderly(), "server", (outcome.sent, outcome.received), all)
    }

    /// What `end` of the record may be.
    pub fn ends(&self) -> &'static [&'static str] {
        match self.kind {
            // A FIN before a reset makes the reset no error.
            Kind::ClientFirst
            | Kind::ServerFirst
            | Kind::Both
            | Kind::ServerResetAfterFin
            | Kind::ClientResetAfterFin => &["done"],
            // Nothing was seen of the session before the reset, or not the whole hello.
            Kind::ClientReset => &["client_reset", "client_gone"],
            Kind::ServerReset | Kind::ServerDeaf => &["backend_reset"],
            // The FIN may have been overtaken.
            Kind::ClientFinThenReset => &["done", "client_reset", "client_gone"],
        }
    }
}

fn check(who: &str, allowed: &[Seen], outcome: Outcome) -> Result<(), String> {
    if allowed.contains(&outcome.seen) { Ok(()) } else { Err(format!("the {who} should see {allowed:?}: {outcome:?}")) }
}

fn whole(orderly: bool, who: &str, moved: (u64, u64), all: (u64, u64)) -> Result<(), String> {
    if orderly && moved != all { Err(format!("the {who} moved {moved:?} of {all:?}")) } else { Ok(()) }
}

fn draw_kind(dice: &mut Dice) -> Kind {
    let mut left = dice.between(0, KINDS.iter().map(|(_, share)| share).sum::<u64>() - 1);
    for (kind, share) in KINDS {
        if left < share {
            return kind;
        }
        left -= share;
    }
    Kind::Both
}

/// Mostly one read's worth, some over several records and reads.
fn draw_hello(dice: &mut Dice, relay: Relay) -> Vec<u8> {
    let padding = if dice.percent(80) { dice.between(1, 1500) } else { dice.between(1500, 40_000) };
    padded_hello(&format!("{}.test", relay.name()), padding as usize)
}

fn draw_window(dice: &mut Dice) -> Option<u64> {
    dice.percent(15).then(|| dice.between(16, 96) * KIB)
}

fn draw_content(dice: &mut Dice, slow: bool) -> Content {
    let length = match dice.between(0, 99) {
        0..=3 => 0,
        4..=54 => dice.between(1, 2 * KIB),
        55..=82 => dice.between(2 * KIB, 64 * KIB),
        83..=94 => dice.between(64 * KIB, 768 * KIB),
        _ => dice.between(768 * KIB, LARGEST),
    };
    let length = if slow { length.min(1024 * KIB) } else { length };
    Content { offset: dice.roll() >> 8, length }
}

fn draw_chunks(dice: &mut Dice, send: u64, expect: u64, window: Option<u64>) -> Chunks {
    let largest = MOST as u64;
    // Not more than some thousand calls for one direction.
    let least = |bytes: u64| (bytes / 2000).max(1);
    let mut most = |bytes: u64| match dice.between(0, 9) {
        0 => least(bytes),
        1..=3 => dice.between(least(bytes), 4 * KIB.max(least(bytes))),
        4..=6 => dice.between(4 * KIB, 64 * KIB),
        _ => dice.between(64 * KIB, largest),
    };
    let (write, read) = (most(send), most(expect));
    let pause_one_in = if dice.percent(20) { dice.between(20, 100) } else { 0 };
    let deaf = window.is_some() || dice.percent(5);
    let deaf_for = Duration::from_millis(if deaf { dice.between(1, 60) } else { 0 });
    Chunks { dice: Dice(dice.roll()), write, read, pause_one_in, deaf_for }
}

/// Reads up to and including the number of the session. Returns the hello as it came, if one did.
pub fn read_preamble(stream: &mut TcpStream) -> io::Result<(Vec<u8>, u64)> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut hello = Vec::new();
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let (mut handshake, mut wanted) = (Vec::new(), 4);
    while head[0] == 0x16 {
        let mut fragment = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut fragment)?;
        hello.extend_from_slice(&head);
        hello.extend_from_slice(&fragment);
        handshake.extend_from_slice(&fragment);
        if let [_, high, middle, low, ..] = handshake[..] {
            wanted = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
        }
        stream.read_exact(&mut head)?;
        if handshake.len() >= wanted {
            break;
        }
    }
    let mut rest = [0; 11];
    stream.read_exact(&mut rest)?;
    let header = [&head[..], &rest].concat();
    let (magic, number) = header.split_at(8);
    if magic != MAGIC {
        return Err(io::Error::other(format!("{header:?} instead of a header")));
    }
    Ok((hello, u64::from_le_bytes(number.try_into().unwrap())))
}
