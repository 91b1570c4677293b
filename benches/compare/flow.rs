//! One flow of the load generator.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::Outcome;
use crate::transfer::Transfer;
use crate::wire::{ANSWER_LENGTH, Mode, Pattern, Request};

/// What a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Downloads of this size, one after the other.
    Download(u64),
    /// Uploads of this size, one after the other.
    Upload(u64),
    /// 200 bytes there, so many back, again and again.
    Exchange(u64),
    /// 200 bytes there, 1 KiB back, so many in a second over all flows, whatever the answers do.
    Paced(u32),
    /// Connect, hello, one exchange, close, again and again.
    Connect,
    /// Hello, one exchange, and then silence.
    Idle,
}

impl Work {
    /// Whether it moves as much as it can.
    pub fn is_bulk(self) -> bool {
        matches!(self, Self::Download(_) | Self::Upload(_))
    }
}

/// One flow: a connection, or one after the other, that asks, receives and checks.
pub struct Flow {
    /// What it does.
    pub work: Work,
    /// Index of the server name that it asks for.
    pub name: usize,
    /// The connection, while there is one.
    pub socket: Option<TcpStream>,
    /// Small things to send before the payload.
    pub outbox: Vec<u8>,
    /// How much of the outbox is sent.
    pub outbox_sent: usize,
    /// The upload that is being sent.
    pub payload: Option<Transfer>,
    /// The answer that is being received.
    pub answer: Option<Transfer>,
    /// Requests asked so far.
    pub issued: u64,
    /// Requests answered so far.
    pub answered: u64,
    /// When the present exchange or connection began.
    pub started: Instant,
    /// When requests were due that could not go out yet.
    pub overdue: VecDeque<Instant>,
    /// Whether anything ever arrived.
    pub opened: bool,
    /// Whether there is something that the socket did not take.
    pub waits_for_room: bool,
    /// Whether epoll watches for room.
    pub watched_for_room: bool,
}

impl Flow {
    /// A flow that is not connected yet.
    pub fn new(work: Work, name: usize) -> Self {
        Self {
            work,
            name,
            socket: None,
            outbox: Vec::new(),
            outbox_sent: 0,
            payload: None,
            answer: None,
            issued: 0,
            answered: 0,
            started: Instant::now(),
            overdue: VecDeque::new(),
            opened: false,
            waits_for_room: false,
            watched_for_room: false,
        }
    }

    /// An error with what the flow was at.
    pub fn describe(&self, index: usize, error: &dyn Error) -> String {
        format!("flow {index} ({:?}), after {} of {} answers: {error}", self.work, self.answered, self.issued)
    }

    /// The request number `sequence` of this flow, which is number `index`.
    pub fn request(&self, index: usize, sequence: u64) -> Request {
        let (mode, size) = match self.work {
            Work::Download(size) | Work::Exchange(size) => (Mode::Send, size),
            Work::Upload(size) => (Mode::Receive, size),
            Work::Paced(_) | Work::Connect | Work::Idle => (Mode::Send, ANSWER_LENGTH),
        };
        Request::numbered(mode, size, index, sequence)
    }

    /// Whether anything waits to be sent.
    pub fn has_to_send(&self) -> bool {
        self.outbox_sent < self.outbox.len() || self.payload.is_some()
    }

    /// Sends once: first what is in the outbox, then the payload. Tells how many bytes of payload went out.
    pub fn send_step(&mut self, pattern: &Pattern) -> io::Result<u64> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        if self.outbox_sent < self.outbox.len() {
            self.outbox_sent += socket.write(self.outbox.get(self.outbox_sent..).unwrap_or_default())?;
            if self.outbox_sent == self.outbox.len() {
                self.outbox.clear();
                self.outbox_sent = 0;
            }
            return Ok(0);
        }
        let Some(payload) = &mut self.payload else { return Ok(0) };
        let sent = payload.send(socket, pattern)?;
        if payload.is_complete() {
            self.payload = None;
        }
        Ok(sent)
    }

    /// Receives once; afterwards `answer` is empty if the answer is complete.
    pub fn receive_step(&mut self, index: usize, pattern: &Pattern, scratch: &mut [u8]) -> io::Result<u64> {
        let request = self.request(index, self.answered);
        let Some(socket) = &mut self.socket else { return Err(ErrorKind::WouldBlock.into()) };
        let answer = self.answer.get_or_insert_with(|| Transfer::new(request.seed, request.answer_length()));
        let received = answer.receive(socket, pattern, scratch)?;
        if answer.is_complete() {
            self.answer = None;
            self.answered += 1;
        }
        Ok(received)
    }

    /// Makes sure that neither bytes nor an end wait while nothing was asked for.
    pub fn expect_nothing(&mut self) -> Outcome<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        match socket.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(format!("while nothing was asked for: {error}").into()),
            Ok(0) => Err("closed while nothing was asked for".into()),
            Ok(_) => Err("bytes that nobody asked for".into()),
        }
    }
}
