//! One end of a TCP session, driven by a script: what to send and when, how to read, how to end, and what it saw.
//! Both directions run on one thread over poll(2), so that the order of a FIN and a reset is known exactly.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

/// The longest that a session may take. Far more than any needs: a run of an hour stands back behind other work.
const PATIENCE: Duration = Duration::from_mins(1);
/// Most bytes of one write or read.
pub const MOST: usize = 256 * 1024;

/// Random numbers for tests (splitmix64): the same for the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }
}

/// Length of the pattern that all contents are cut from: prime, so that no shift by a page, a buffer or a pipe
/// looks the same.
const PERIOD: usize = 1_048_583;

/// The pattern, longer by one write so that no slice of it wraps.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dice = Dice(7);
    let mut pattern: Vec<u8> = std::iter::repeat_with(|| dice.roll() as u8).take(PERIOD).collect();
    pattern.extend_from_within(..MOST);
    pattern
});

/// Bytes that both ends know: costs a comparison to check and nothing to make.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub offset: u64,
    pub length: u64,
}

impl Content {
    /// Up to `most` bytes from `position` on.
    pub fn at(self, position: u64, most: usize) -> &'static [u8] {
        let start = ((self.offset + position) % PERIOD as u64) as usize;
        let left = self.length.saturating_sub(position).min(MOST as u64) as usize;
        &PATTERN[start..start + left.min(most)]
    }

    /// Whether `bytes` are what stands at `position`; says where not.
    pub fn check(self, position: u64, bytes: &[u8]) -> Result<(), String> {
        let expected = self.at(position, bytes.len());
        if bytes == expected {
            return Ok(());
        }
        match bytes.iter().zip(expected).position(|(is, should)| is != should) {
            Some(place) => Err(format!("byte {} of {} is altered", position + place as u64, self.length)),
            None => Err(format!("{} bytes after {position}, more than {}", bytes.len(), self.length)),
        }
    }
}

/// What one end does.
#[derive(Clone)]
pub struct Script {
    /// Sent before `send`, at once.
    pub preamble: Vec<u8>,
    pub send: Content,
    pub expect: Content,
    /// `send` begins only after the peer's FIN.
    pub sends_after_fin: bool,
    pub chunks: Chunks,
    pub ending: Ending,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sends {}+{}", self.preamble.len(), self.send.length)?;
        write!(f, "{}", if self.sends_after_fin { " after FIN" } else { "" })?;
        write!(f, ", expects {}, {:?}, {:?}", self.expect.length, self.ending, self.chunks)
    }
}

/// How it reads and writes.
#[derive(Clone, Debug)]
pub struct Chunks {
    pub dice: Dice,
    /// Most bytes of one write and one read; each draws from 1 to this.
    pub write: u64,
    pub read: u64,
    /// One event in so many is preceded by a pause of up to 2 ms; 0: none.
    pub pause_one_in: u64,
    /// Reads nothing for so long.
    pub deaf_for: Duration,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN after the last byte; reads to the end.
    Fin,
    /// Everything but a FIN; reads to the end.
    NoFin,
    /// RST once so much is sent (preamble included) and received, and, if said, the peer's or the own FIN is out.
    Reset { sent: u64, received: u64, after: After },
    /// Sends so much, reads nothing, and closes once something unread is there (the kernel then sends RST).
    Deaf { sent: u64 },
}

/// What a reset waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    PeersFin,
    OwnFin,
}

/// How the peer's half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Fin,
    /// A reset, and no FIN before it.
    Reset,
    /// A FIN, and a reset later.
    FinThenReset,
    /// Nothing until this end left by itself.
    Nothing,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Preamble included.
    pub sent: u64,
    pub received: u64,
    pub seen: Seen,
}

/// Plays `script` on `stream`. An error says what was altered, lost or late.
pub fn play(stream: TcpStream, script: &Script) -> Result<Outcome, String> {
    stream.set_nonblocking(true).map_err(|error| error.to_string())?;
    let mut end = End::new(stream, script);
    let result = end.run();
    result.map_err(|error| format!("{error} (sent {}, received {}, saw {:?})", end.sent, end.received, end.seen))
}

struct End<'a> {
    stream: TcpStream,
    script: &'a Script,
    dice: Dice,
    sent: u64,
    received: u64,
    seen: Seen,
    /// Bytes may still be written.
    writable: bool,
    own_fin: bool,
    read_from: Instant,
    write_from: Instant,
    buffer: Vec<u8>,
}

impl<'a> End<'a> {
    fn new(stream: TcpStream, script: &'a Script) -> Self {
        let now = Instant::now();
        Self {
            stream,
            script,
            dice: script.chunks.dice.clone(),
            sent: 0,
            received: 0,
            seen: Seen::Nothing,
            writable: true,
            own_fin: false,
            read_from: now + script.chunks.deaf_for,
            write_from: now,
            buffer: vec![0; script.chunks.read as usize],
        }
    }

    fn run(&mut self) -> Result<Outcome, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.finish_writing()?;
            if self.leaves_now() || self.is_over() {
                return Ok(Outcome { sent: self.sent, received: self.received, seen: self.seen });
            }
            let now = Instant::now();
            if now >= deadline {
                return Err("too late".to_owned());
            }
            let happened = self.wait(now, deadline)?;
            let now = Instant::now();
            let broken = happened.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
            if self.wants_read() && (broken || happened.contains(PollFlags::POLLIN) && now >= self.read_from) {
                self.read()?;
            }
            if self.wants_write() && now >= self.write_from && (broken || happened.contains(PollFlags::POLLOUT)) {
                self.write()?;
            }
        }
    }

    /// Waits for what the script wants next: a socket, or the end of a pause.
    fn wait(&self, now: Instant, deadline: Instant) -> Result<PollFlags, String> {
        let (reads, writes) = (self.wants_read(), self.wants_write());
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads && self.read_from <= now || self.waits_for_unread());
        flags.set(PollFlags::POLLOUT, writes && self.write_from <= now);
        let pauses = [(reads, self.read_from), (writes, self.write_from)];
        let pauses = pauses.into_iter().filter(|(wanted, from)| *wanted && *from > now).map(|(_, from)| from);
        let until = pauses.min().unwrap_or(deadline).min(deadline);
        let timeout = until.duration_since(now).as_micros().div_ceil(1000) as u16;
        let mut descriptors = [PollFd::new(self.stream.as_fd(), flags)];
        poll(&mut descriptors, PollTimeout::from(timeout)).map_err(|error| format!("poll: {error}"))?;
        Ok(descriptors[0].revents().unwrap_or(PollFlags::empty()))
    }

    fn wants_read(&self) -> bool {
        self.seen == Seen::Nothing && !matches!(self.script.ending, Ending::Deaf { .. })
    }

    fn wants_write(&self) -> bool {
        self.writable && self.sent < self.may_send()
    }

    /// Bytes that the script allows by now.
    fn may_send(&self) -> u64 {
        let preamble = self.script.preamble.len() as u64;
        let most = match self.script.ending {
            Ending::Reset { sent, after: After::Nothing | After::PeersFin, .. } | Ending::Deaf { sent } => sent,
            _ => u64::MAX,
        };
        let held = self.script.sends_after_fin && self.seen != Seen::Fin;
        most.min(if held { preamble } else { preamble + self.script.send.length })
    }

    fn waits_for_unread(&self) -> bool {
        matches!(self.script.ending, Ending::Deaf { sent } if self.sent >= sent)
    }

    fn read(&mut self) -> Result<(), String> {
        let most = self.dice.between(self.script.chunks.read.div_ceil(2), self.script.chunks.read) as usize;
        match self.stream.read(&mut self.buffer[..most]) {
            Ok(0) => {
                // An error reported to a write is gone from the socket; `seen` remembers it.
                self.seen = Seen::Fin;
                let all = self.received == self.script.expect.length;
                if !all {
                    return Err(format!("FIN after {} of {} bytes", self.received, self.script.expect.length));
                }
            }
            Ok(count) => {
                self.script.expect.check(self.received, &self.buffer[..count])?;
                self.received += count as u64;
                self.read_from = self.after_pause();
            }
            Err(error) if is_transient(&error) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.seen = Seen::Reset,
            Err(error) => return Err(format!("read: {error}")),
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        let chunks = &self.script.chunks;
        let most = self.dice.between(1, chunks.write).min(self.may_send() - self.sent) as usize;
        let preamble = &self.script.preamble;
        let written = match preamble.get(self.sent as usize..) {
            // A write may reach over the border, as a client's first flight with data behind the hello does.
            Some(rest) if !rest.is_empty() => {
                let body = self.script.send.at(0, most.saturating_sub(rest.len()));
                let joined = [&rest[..rest.len().min(most)], body].concat();
                self.stream.write(&joined)
            }
            _ => self.stream.write(self.script.send.at(self.sent - preamble.len() as u64, most)),
        };
        match written {
            Ok(count) => {
                self.sent += count as u64;
                self.write_from = self.after_pause();
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => self.write_failed(&error)?,
        }
        Ok(())
    }

    /// Linux says ECONNRESET when the reset came first, and EPIPE when a FIN came before it (`tcp_reset`), or when
    /// the reset was reported already.
    fn write_failed(&mut self, error: &io::Error) -> Result<(), String> {
        self.writable = false;
        match (error.kind(), self.seen) {
            (ErrorKind::ConnectionReset, Seen::Nothing) => {
                self.drain()?;
                self.seen = Seen::Reset;
            }
            (ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, Seen::Reset) => {}
            (ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, Seen::Fin) => self.seen = Seen::FinThenReset,
            (ErrorKind::BrokenPipe, Seen::Nothing) => {
                self.drain()?;
                self.seen = Seen::FinThenReset;
            }
            _ => return Err(format!("write: {error}")),
        }
        Ok(())
    }

    /// Checks what arrived before the reset.
    fn drain(&mut self) -> Result<(), String> {
        while let Ok(count @ 1..) = self.stream.read(&mut self.buffer) {
            self.script.expect.check(self.received, &self.buffer[..count])?;
            self.received += count as u64;
        }
        Ok(())
    }

    fn finish_writing(&mut self) -> Result<(), String> {
        let all = self.script.preamble.len() as u64 + self.script.send.length;
        let says_so = matches!(self.script.ending, Ending::Fin | Ending::Reset { after: After::OwnFin, .. });
        if self.writable && says_so && self.sent == all && !self.own_fin {
            self.own_fin = true;
            if let Err(error) = self.stream.shutdown(Shutdown::Write)
                && error.kind() != ErrorKind::NotConnected
            {
                return Err(format!("shutdown: {error}"));
            }
        }
        Ok(())
    }

    /// Whether the script says to break off here; does so.
    fn leaves_now(&mut self) -> bool {
        match self.script.ending {
            Ending::Reset { sent, received, after } => {
                let after = match after {
                    After::Nothing => true,
                    After::PeersFin => self.seen == Seen::Fin,
                    After::OwnFin => self.own_fin,
                };
                let leaves = self.sent >= sent && self.received >= received && after;
                if leaves {
                    let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                }
                leaves
            }
            Ending::Deaf { .. } => self.waits_for_unread() && self.stream.peek(&mut [0]).is_ok_and(|count| count > 0),
            Ending::Fin | Ending::NoFin => false,
        }
    }

    /// Whether nothing is left to do or to see.
    fn is_over(&self) -> bool {
        match self.seen {
            Seen::Nothing => false,
            Seen::Reset | Seen::FinThenReset => true,
            Seen::Fin => !self.wants_write() && (self.own_fin || self.script.ending != Ending::Fin || !self.writable),
        }
    }

    fn after_pause(&mut self) -> Instant {
        let one_in = self.script.chunks.pause_one_in;
        let pause = if one_in > 0 && self.dice.between(1, one_in) == 1 { self.dice.between(100, 2000) } else { 0 };
        Instant::now() + Duration::from_micros(pause)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
