//! Pipes and `splice(2)`: bytes move between sockets without passing through user space.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// A pipe with its real capacity.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// Opens a pipe of about `wanted` bytes. The kernel may give less without an error once the user is over
    /// `fs.pipe-user-pages-soft`, so the capacity is read back (`pipe(7)`).
    pub fn open(wanted: usize) -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let set = fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted as i32));
        let capacity = match set {
            Ok(size) => size as usize,
            Err(_) => fcntl(&write, FcntlArg::F_GETPIPE_SZ)? as usize,
        };
        Ok(Self { read, write, capacity })
    }

    /// Takes a pipe that somebody else opened, by its ends for reading and writing.
    ///
    /// # Errors
    /// When it is no pipe.
    pub fn of(read: OwnedFd, write: OwnedFd) -> io::Result<Self> {
        let capacity = fcntl(&write, FcntlArg::F_GETPIPE_SZ)? as usize;
        Ok(Self { read, write, capacity })
    }

    /// Its ends for reading and writing.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.read.as_fd(), self.write.as_fd()]
    }

    /// Bytes that fit, nominally; it may hold more.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Moves up to `most` bytes from a socket into the pipe; 0 is the end of the stream. Call it only with an empty
    /// pipe, so that `WouldBlock` always means the socket.
    pub fn fill(&self, from: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, most, FLAGS)?)
    }

    /// Moves up to `most` bytes from the pipe into a socket.
    pub fn drain(&self, to: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, most, FLAGS)?)
    }
}

/// Never `SPLICE_F_MORE`: it corks the socket, for 200 ms when nothing more comes.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);
