//! What a direction has on the way: taken from the source, not taken by the sink yet.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

use super::{Before, Turn, poll_io};
use crate::proxy::forward::add;
use crate::sys::pipe::Pipe;

/// Bytes in memory or in a pipe.
#[derive(Debug)]
pub enum Load {
    /// Read by copying; delivered from `from` on.
    Bytes { bytes: Vec<u8>, from: usize },
    /// Spliced.
    Piped { pipe: Pipe, inside: usize },
}

impl Load {
    /// Writes until nothing is left, and counts; what a pipe gave is taken off `room`.
    pub fn deliver(
        &mut self,
        cx: &mut Context<'_>,
        turn: &Turn<'_>,
        to: &mut TcpStream,
        room: &mut u32,
    ) -> Poll<Result<(), Before>> {
        match self {
            Self::Bytes { bytes, from } => {
                while *from < bytes.len() {
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, &bytes[*from..]));
                    let count = written.map_err(|error| Before::of(&error))?;
                    *from += count;
                    add(&turn.moved.copied[turn.direction], count);
                }
            }
            Self::Piped { pipe, inside } => {
                while *inside > 0 {
                    let drained = ready!(poll_io(cx, to, Interest::WRITABLE, |to| pipe.drain(to, *inside)));
                    // A splice that moved some bytes before it met the error has taken the error with it, and the next
                    // one says EPIPE whatever came before: nothing is to be learnt from it, so a cut is assumed.
                    let count = drained.ok().filter(|count| *count > 0).ok_or(Before::NoFin)?;
                    *inside -= count;
                    *room = room.saturating_sub(count as u32);
                    add(&turn.moved.spliced[turn.direction], count);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
