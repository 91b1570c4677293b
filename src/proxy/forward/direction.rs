//! One direction of a session: copy first, splice once it proves to be bulk, copy again when it stops being so.
//! Never reads what cannot be written: at most one buffer or one pipe is on the way, and only while the sink is stuck.

mod carry;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub use carry::DirectionCopy;

use super::{Moved, Pipes, add};
use crate::config::RelayPath;
use crate::decide::hello::{ANSWER_BYTES, FirstAnswer};
use crate::proxy::view::RelayPlan;
use crate::proxy::worker::Worker;
use crate::sys::pipe::Pipe;
use crate::sys::socket;

/// What a direction needs for one turn besides its sockets.
pub struct Turn<'a> {
    /// Whose buffer and pipes are used.
    pub worker: &'a Worker,
    /// Where delivered bytes are counted.
    pub moved: &'a Moved,
    /// Index of the direction there.
    pub direction: usize,
    /// Which way bytes take.
    pub plan: RelayPlan,
    /// Takes what a server answers first, while that is waited for.
    pub first: Option<&'a Cell<Option<FirstAnswer>>>,
}

impl Turn<'_> {
    /// Whether the first bytes are waited for.
    fn awaits_first(&self) -> bool {
        self.first.is_some_and(|first| first.get().is_none())
    }

    fn note_first(&self, bytes: &[u8]) {
        if let Some(first) = self.first.filter(|first| first.get().is_none() && !bytes.is_empty()) {
            first.set(Some(FirstAnswer::of(bytes)));
        }
    }
}

/// What a turn of a direction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Waits for the source; the waker is registered.
    Blocked,
    /// Waits for the sink to take what is held; the waker is registered.
    Stuck,
    /// Moved its share; there may be more.
    Again,
    /// Delivered everything up to the end of its source.
    Finished,
    /// One socket is broken.
    Broken(Lost),
}

/// Which socket broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The one that is read: reset, or timed out, before its end.
    Source(io::ErrorKind),
    /// The one that is written, with or without an end of its own stream before.
    Sink(Before),
}

/// Whether a socket that was reset had sent FIN before: Linux says EPIPE then, and ECONNRESET otherwise
/// (`tcp_reset` in the kernel), to whichever call comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// All that the peer sent was sent; reading to the end gives all of it.
    Fin,
    /// The peer's stream is cut short; the end that reading comes to is none.
    NoFin,
}

impl Before {
    /// What an error of a socket says.
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Fin } else { Self::NoFin }
    }
}

/// State of one direction. Idle it owns nothing outside itself.
#[derive(Debug, Default)]
pub struct Direction {
    /// Bytes read by copying that the sink did not take; delivered from `held_from` on.
    held: Vec<u8>,
    held_from: usize,
    /// The pipe while bytes are inside.
    pipe: Option<Box<Pipe>>,
    inside: usize,
    /// Bytes delivered before the flow began, not counted yet.
    credit: usize,
    mode: Mode,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Copies; counts full reads in a row.
    Copy(u8),
    /// Splices; counts small fills in a row.
    Splice(u8),
}

impl Default for Mode {
    fn default() -> Self {
        Self::Copy(0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    /// The source may send more.
    #[default]
    Open,
    /// The source has ended; what is held is still to be delivered.
    Seen,
    /// Everything is delivered; the sink must be told.
    OwesFin,
    /// The sink was told.
    Over,
    /// The sink is broken: what the source still sends is read and dropped, so that closing it is no reset.
    Dropping,
    /// Given up: the source is broken, or both are done with.
    Abandoned,
}

impl Direction {
    /// A direction with bytes to deliver first, after `credit` bytes that were delivered already.
    pub fn holding(held: Vec<u8>, credit: usize) -> Self {
        Self { held, credit, ..Self::default() }
    }

    /// Takes the count of bytes delivered before the flow began.
    pub fn take_credit(&mut self) -> usize {
        std::mem::take(&mut self.credit)
    }

    /// Whether everything is delivered or given up.
    pub fn is_finished(&self) -> bool {
        matches!(self.end, End::OwesFin | End::Over | End::Abandoned)
    }

    /// Whether the source ended in an orderly way.
    pub fn saw_end(&self) -> bool {
        matches!(self.end, End::Seen | End::OwesFin | End::Over)
    }

    /// Whether the sink must be told of the end now; says so once.
    pub fn owes_fin(&mut self) -> bool {
        let owes = self.end == End::OwesFin;
        if owes {
            self.end = End::Over;
        }
        owes
    }

    /// Gives up: what is on the way has nowhere to go.
    pub fn abandon(&mut self) {
        self.held = Vec::new();
        self.held_from = 0;
        self.end = End::Abandoned;
    }

    /// Reads and drops what the source still sends: the sink is gone.
    pub fn drop_rest(&mut self) {
        self.held = Vec::new();
        self.held_from = 0;
        self.end = if self.saw_end() { End::Abandoned } else { End::Dropping };
    }

    /// Moves bytes for one turn.
    pub fn drive(&mut self, cx: &mut Context<'_>, turn: &Turn<'_>, from: &mut TcpStream, to: &mut TcpStream) -> Step {
        let pipes = &turn.worker.pipes;
        let mut left = turn.plan.numbers.turn as usize;
        loop {
            if self.is_finished() {
                self.drop_pipe(pipes);
                return Step::Finished;
            }
            if self.end == End::Dropping {
                self.drop_pipe(pipes);
                return self.read_and_drop(cx, turn.worker, from, left);
            }
            match self.deliver(cx, turn, to) {
                Poll::Pending => return Step::Stuck,
                Poll::Ready(Err(before)) => return Step::Broken(Lost::Sink(before)),
                Poll::Ready(Ok(())) => {}
            }
            if self.end == End::Seen {
                self.end = End::OwesFin;
                continue;
            }
            if left == 0 {
                return Step::Again;
            }
            let fetched = if self.may_splice(pipes, turn.plan.path) {
                self.fill(cx, turn, from)
            } else {
                self.copy(cx, turn, from, to)
            };
            match fetched {
                Poll::Pending => return Step::Blocked,
                Poll::Ready(Ok(0)) => self.end = End::Seen,
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
                Poll::Ready(Err(lost)) => return Step::Broken(lost),
            }
        }
    }

    /// Delivers what is held; ready once nothing is.
    fn deliver(&mut self, cx: &mut Context<'_>, turn: &Turn<'_>, to: &mut TcpStream) -> Poll<Result<(), Before>> {
        while self.held_from < self.held.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.held_from..]));
            let count = written.map_err(|error| Before::of(&error))?;
            self.held_from += count;
            add(&turn.moved.copied[turn.direction], count);
        }
        if self.held_from > 0 {
            self.held = Vec::new();
            self.held_from = 0;
        }
        while self.inside > 0 {
            let Some(pipe) = &self.pipe else { break };
            let drained = ready!(poll_io(cx, to, Interest::WRITABLE, |to| pipe.drain(to, self.inside)));
            // A splice that moved some bytes before it met the error has taken the error with it, and the next one
            // says EPIPE whatever came before: nothing is to be learnt from it, so a cut is assumed.
            let count = drained.ok().filter(|count| *count > 0).ok_or(Before::NoFin)?;
            self.inside -= count;
            add(&turn.moved.spliced[turn.direction], count);
        }
        Poll::Ready(Ok(()))
    }

    /// One read through the worker's buffer, written on at once; keeps only what the sink did not take.
    /// Ready with the bytes read; 0 is the end.
    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        turn: &Turn<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<Result<usize, Lost>> {
        let buffer = &mut *turn.worker.buffer.borrow_mut();
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(|error| Lost::Source(error.kind()))?;
        let bytes = read.filled();
        let count = bytes.len();
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        turn.note_first(bytes);
        let written = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Lost::Sink(Before::of(&error)))),
            Poll::Pending => 0,
        };
        add(&turn.moved.copied[turn.direction], written);
        if written < count {
            self.held = bytes[written..].to_vec();
            self.held_from = 0;
        }
        self.mode = match self.mode {
            Mode::Copy(full) if count == buffer.len() && full + 1 >= turn.plan.numbers.full_reads => Mode::Splice(0),
            Mode::Copy(full) if count == buffer.len() => Mode::Copy(full + 1),
            _ => Mode::Copy(0),
        };
        Poll::Ready(Ok(count))
    }

    /// Reads for one turn what has nowhere to go.
    fn read_and_drop(&mut self, cx: &mut Context<'_>, worker: &Worker, from: &mut TcpStream, mut left: usize) -> Step {
        let buffer = &mut *worker.buffer.borrow_mut();
        while left > 0 {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Pending => return Step::Blocked,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => left = left.saturating_sub(read.filled().len()),
                Poll::Ready(_) => {
                    self.end = End::Abandoned;
                    return Step::Finished;
                }
            }
        }
        Step::Again
    }

    /// Whether the direction is bulk and has a pipe; without one to be had it copies, and asks again after more
    /// full reads.
    fn may_splice(&mut self, pipes: &Pipes, path: RelayPath) -> bool {
        match path {
            RelayPath::Auto => {}
            RelayPath::Copy => self.mode = Mode::Copy(0),
            RelayPath::Splice => self.mode = Mode::Splice(0),
        }
        if matches!(self.mode, Mode::Copy(_)) {
            // Empty here: everything was delivered before.
            self.drop_pipe(pipes);
            return false;
        }
        if self.pipe.is_none() {
            self.pipe = pipes.take().map(Box::new);
        }
        if self.pipe.is_none() {
            self.mode = Mode::Copy(0);
        }
        self.pipe.is_some()
    }

    /// Fills the empty pipe from the source. Ready with the bytes; 0 is the end.
    fn fill(&mut self, cx: &mut Context<'_>, turn: &Turn<'_>, from: &TcpStream) -> Poll<Result<usize, Lost>> {
        let (pipes, numbers) = (&turn.worker.pipes, turn.plan.numbers);
        let Some(pipe) = &self.pipe else { return Poll::Pending };
        let fill = |from: &TcpStream| {
            if turn.awaits_first() {
                // Once for each session, and only with `relay = "splice"`: otherwise the first bytes are copied.
                let mut bytes = [0; ANSWER_BYTES];
                let count = socket::peek(from, &mut bytes)?;
                turn.note_first(&bytes[..count]);
            }
            pipe.fill(from, pipe.capacity())
        };
        match poll_io(cx, from, Interest::READABLE, fill) {
            Poll::Pending => {
                self.drop_pipe(pipes);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                self.drop_pipe(pipes);
                Poll::Ready(Err(Lost::Source(error.kind())))
            }
            Poll::Ready(Ok(count)) => {
                self.inside = count;
                let small = match self.mode {
                    Mode::Splice(small) if count < numbers.small_fill as usize => small + 1,
                    _ => 0,
                };
                self.mode = if small >= numbers.small_fills { Mode::Copy(0) } else { Mode::Splice(small) };
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Gives an empty pipe back; closes one with bytes inside.
    pub fn drop_pipe(&mut self, pipes: &Pipes) {
        if let Some(pipe) = self.pipe.take() {
            if self.inside == 0 {
                pipes.give_back(*pipe);
            } else {
                pipes.count_out();
                self.inside = 0;
            }
        }
    }
}

/// Runs a non-blocking operation when the socket is ready, until it succeeds, fails, or the socket is not ready.
fn poll_io<T>(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut operation: impl FnMut(&TcpStream) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        let ready = if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) };
        ready!(ready)?;
        match socket.try_io(interest, || operation(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}
