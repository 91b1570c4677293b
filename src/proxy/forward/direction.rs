//! One direction of a session: copy first, splice once it proves to be bulk, copy again when it stops being so.
//! Never reads what cannot be written: at most one buffer or one pipe is on the way, and only while the sink is stuck.

mod carry;
mod load;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub use carry::DirectionCopy;
use load::Load;

use super::{Moved, Pipes, add};
use crate::config::RelayPath;
use crate::decide::hello::{ANSWER_BYTES, FirstAnswer};
use crate::proxy::view::RelayPlan;
use crate::proxy::worker::Worker;
use crate::sys::socket;

/// What filling a pipe takes off a turn at least, in bytes: fills that a sink's room keeps small cost calls all the same.
const LEAST_COST: usize = 64 * 1024;

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

/// Why nothing was fetched for good or for now.
enum Miss {
    /// The sink has no room; the waker is registered with it.
    NoRoom,
    /// A socket broke.
    Lost(Lost),
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
    load: Option<Box<Load>>,
    /// Bytes that the sink surely takes: what it had room for when it was last asked, less what it got since.
    room: u32,
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
    /// A direction with bytes to deliver first.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let load = (!bytes.is_empty()).then(|| Box::new(Load::Bytes { bytes, from: 0 }));
        Self { load, ..Self::default() }
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
        self.end = End::Abandoned;
    }

    /// Reads and drops what the source still sends: the sink is gone.
    pub fn drop_rest(&mut self) {
        self.end = if self.saw_end() { End::Abandoned } else { End::Dropping };
    }

    /// Moves bytes for one turn.
    pub fn drive(&mut self, cx: &mut Context<'_>, turn: &Turn<'_>, from: &mut TcpStream, to: &mut TcpStream) -> Step {
        let pipes = &turn.worker.pipes;
        let mut left = turn.plan.numbers.turn as usize;
        loop {
            if self.is_finished() {
                self.drop_load(pipes);
                return Step::Finished;
            }
            if self.end == End::Dropping {
                self.drop_load(pipes);
                return self.read_and_drop(cx, turn.worker, from, left);
            }
            match self.deliver(cx, turn, to) {
                Poll::Pending => {
                    self.room = 0;
                    return Step::Stuck;
                }
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
            let splices = self.may_splice(turn.plan.path);
            let fetched = if splices {
                self.splice(cx, turn, from, to)
            } else {
                self.copy(cx, turn, from, to).map_err(Miss::Lost)
            };
            match fetched {
                Poll::Pending => return Step::Blocked,
                Poll::Ready(Ok(0)) => self.end = End::Seen,
                Poll::Ready(Ok(count)) => {
                    left = left.saturating_sub(if splices { count.max(LEAST_COST) } else { count });
                }
                Poll::Ready(Err(Miss::NoRoom)) => return Step::Stuck,
                Poll::Ready(Err(Miss::Lost(lost))) => return Step::Broken(lost),
            }
        }
    }

    /// Delivers what is on the way; ready once nothing is.
    fn deliver(&mut self, cx: &mut Context<'_>, turn: &Turn<'_>, to: &mut TcpStream) -> Poll<Result<(), Before>> {
        let Some(load) = &mut self.load else { return Poll::Ready(Ok(())) };
        ready!(load.deliver(cx, turn, to, &mut self.room))?;
        if let Some(Load::Piped { pipe, .. }) = self.load.take().map(|load| *load) {
            turn.worker.pipes.give_back(pipe);
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
        self.room = self.room.saturating_sub(written as u32);
        add(&turn.moved.copied[turn.direction], written);
        if written < count {
            self.load = Some(Box::new(Load::Bytes { bytes: bytes[written..].to_vec(), from: 0 }));
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

    /// Whether the direction is bulk.
    fn may_splice(&mut self, path: RelayPath) -> bool {
        match path {
            RelayPath::Auto => {}
            RelayPath::Copy => self.mode = Mode::Copy(0),
            RelayPath::Splice => self.mode = Mode::Splice(0),
        }
        matches!(self.mode, Mode::Splice(_))
    }

    /// Fills a pipe from the source, or copies when none is to be had; it is asked for again after more full reads.
    /// Ready with the bytes; 0 is the end.
    ///
    /// A pipe with bytes inside serves nobody else, pipes are few, and sinks that are slower than their sources would hold
    /// them all: once a sink holds one, the others' pipes get no more than their sinks have room for.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        turn: &Turn<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<Result<usize, Miss>> {
        let pipes = &turn.worker.pipes;
        // Before the sink is asked: what the source does not have needs no room.
        ready!(from.poll_read_ready(cx)).map_err(|error| Miss::Lost(Lost::Source(error.kind())))?;
        let mut most = usize::MAX;
        if pipes.some_are_stuck() {
            if (self.room as usize) < pipes.capacity() {
                let ask = |to: &TcpStream| socket::room(to, pipes.unsent_limit());
                let Poll::Ready(room) = poll_io(cx, to, Interest::WRITABLE, ask) else {
                    // It is only known that the source may have something; its end needs no room.
                    let peek = |from: &TcpStream| socket::peek(from, &mut [0]);
                    return match ready!(poll_io(cx, from, Interest::READABLE, peek)) {
                        Ok(0) => Poll::Ready(Ok(0)),
                        Ok(_) => Poll::Ready(Err(Miss::NoRoom)),
                        Err(error) => Poll::Ready(Err(Miss::Lost(Lost::Source(error.kind())))),
                    };
                };
                // What is wrong with the sink comes out when it is written to.
                self.room = room.unwrap_or(u32::MAX);
            }
            most = self.room as usize;
        }
        let Some(pipe) = pipes.take() else {
            self.mode = Mode::Copy(0);
            return self.copy(cx, turn, from, to).map_err(Miss::Lost);
        };
        let most = most.min(pipe.capacity());
        let filled = poll_io(cx, from, Interest::READABLE, |from| {
            if turn.awaits_first() {
                // Once for each session, and only with `relay = "splice"`: otherwise the first bytes are copied.
                let mut bytes = [0; ANSWER_BYTES];
                let count = socket::peek(from, &mut bytes)?;
                turn.note_first(&bytes[..count]);
            }
            pipe.fill(from, most)
        });
        let Poll::Ready(Ok(count @ 1..)) = filled else {
            pipes.give_back(pipe);
            return filled.map_err(|error| Miss::Lost(Lost::Source(error.kind())));
        };
        self.load = Some(Box::new(Load::Piped { pipe, inside: count }));
        let small = match self.mode {
            Mode::Splice(small) if count < most.min(turn.plan.numbers.small_fill as usize) => small + 1,
            _ => 0,
        };
        self.mode = if small >= turn.plan.numbers.small_fills { Mode::Copy(0) } else { Mode::Splice(small) };
        Poll::Ready(Ok(count))
    }

    /// Lets go of what is on the way.
    pub fn drop_load(&mut self, pipes: &Pipes) {
        if let Some(Load::Piped { .. }) = self.load.take().as_deref() {
            pipes.count_out();
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
