//! One stretch of the pattern on its way through a socket, in either direction, checked as it arrives.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use nix::libc::off_t;
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, recv};

use crate::wire::Pattern;

/// Up to this size, a transfer is written from memory and compared byte by byte.
const SMALL: u64 = 64 * 1024;
/// What one call sends at most: little, so that small messages need not wait long for it.
const SEND_STEP: u64 = 256 * 1024;
/// What one call receives at most.
const RECEIVE_STEP: u64 = 1024 * 1024;
/// One in so many reads of a large transfer is looked at, the others are dropped by the kernel.
const READS_PER_LOOK: u32 = 8;
/// Length of the buffer that `receive` needs.
pub const SCRATCH_LENGTH: usize = RECEIVE_STEP as usize;

/// A stretch of the pattern: `size` bytes from `seed` on, of which `position` are done.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    seed: u64,
    size: u64,
    position: u64,
    /// Reads so far.
    reads: u32,
}

impl Transfer {
    /// A transfer of which nothing is done.
    pub fn new(seed: u64, size: u64) -> Self {
        Self { seed, size, position: 0, reads: 0 }
    }

    /// Whether every byte has passed.
    pub fn is_complete(&self) -> bool {
        self.position == self.size
    }

    /// Bytes still to pass.
    pub fn left(&self) -> u64 {
        self.size - self.position
    }

    /// Sends what one call takes; large transfers go out of the pattern's file uncopied.
    pub fn send(&mut self, socket: &mut TcpStream, pattern: &Pattern) -> io::Result<u64> {
        let sent = if self.size <= SMALL {
            let length = self.left() as usize;
            socket.write(pattern.slice(self.seed, self.position, length))?
        } else {
            let mut offset = off_t::from(Pattern::offset(self.seed, self.position).cast_signed());
            let count = self.left().min(Pattern::contiguous(self.seed, self.position)).min(SEND_STEP);
            sendfile(&*socket, pattern.file(), Some(&mut offset), count as usize)?
        };
        if sent == 0 {
            return Err(io::Error::new(ErrorKind::WriteZero, "the socket takes nothing"));
        }
        self.position += sent as u64;
        Ok(sent as u64)
    }

    /// Receives what one call gives and checks it. Small transfers are compared whole; of large ones one read in eight
    /// is compared and so is the end, the rest dropped uncopied: what is lost, added or moved shows there or in the length.
    pub fn receive(&mut self, socket: &mut TcpStream, pattern: &Pattern, scratch: &mut [u8]) -> io::Result<u64> {
        let drop_it = self.size > SMALL && !self.reads.is_multiple_of(READS_PER_LOOK) && self.left() > SMALL;
        let limit = if drop_it { self.left().min(RECEIVE_STEP) } else { self.left().min(SMALL) } as usize;
        let buffer = scratch.get_mut(..limit).unwrap_or_default();
        let received =
            if drop_it { recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)? } else { socket.read(buffer)? };
        if received == 0 {
            let text = format!("the stream ended with {} of {} bytes missing", self.left(), self.size);
            return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
        }
        if !drop_it {
            let expected = pattern.slice(self.seed, self.position, received);
            if let Some(at) = buffer
                .iter()
                .zip(expected)
                .position(|(is, should)| is != should)
                .filter(|_| buffer[..received] != *expected)
            {
                let text = format!("wrong byte at {} of {}", self.position + at as u64, self.size);
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
        }
        self.reads = self.reads.wrapping_add(1);
        self.position += received as u64;
        Ok(received as u64)
    }
}
