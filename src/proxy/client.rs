//! The client's side while a session is set up: its socket, what it has sent so far and in which pieces, and the
//! language in which it can be told why it is refused.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};

use socket2::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::refuse::Stop;
use super::session::Session;
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::sys::socket;

/// Most bytes of one read while the first bytes are read; a hello and the early data behind it fit.
const READ_SIZE: usize = 16 * 1024;
/// Reads whose sizes are remembered, for `sluice refused`.
pub const MOST_READS: usize = 16;

/// The language in which a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalLanguage {
    /// TLS alerts.
    Tls,
    /// PostgreSQL's error packets: before TLS has begun.
    Postgres,
    /// None that is known.
    Unknown,
}

/// The client while its session is set up.
#[derive(Debug)]
pub struct Client {
    socket: ClientSocket,
    /// How a refusal is told.
    pub language: RefusalLanguage,
    bytes: Vec<u8>,
    reads: u16,
    read_sizes: [u16; MOST_READS],
}

/// The client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left;

/// The socket: registered with the runtime only when there is something to wait for.
#[derive(Debug)]
enum ClientSocket {
    /// Not registered.
    Raw(Socket),
    /// Registered.
    Stream(TcpStream),
    /// Given away, or lost to an error of registering it.
    Gone,
}

impl Client {
    /// Wraps a fresh socket.
    pub const fn new(socket: Socket, language: RefusalLanguage) -> Self {
        Self { socket: ClientSocket::Raw(socket), language, bytes: Vec::new(), reads: 0, read_sizes: [0; MOST_READS] }
    }

    /// One that waited in another process, which has read what it said.
    pub fn resumed(socket: OwnedFd, language: RefusalLanguage) -> Self {
        Self::new(socket.into(), language)
    }

    /// Its socket once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            ClientSocket::Raw(socket) => socket.as_fd().try_clone_to_owned(),
            ClientSocket::Stream(stream) => stream.as_fd().try_clone_to_owned(),
            ClientSocket::Gone => Err(gone()),
        }
    }

    /// What it has sent and nobody has taken yet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes all bytes, to be sent to a backend unchanged.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the first `count` bytes, which were for us: what follows begins anew, with one read if it is there.
    pub fn consume(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.reads = u16::from(!self.bytes.is_empty());
        self.read_sizes[0] = self.bytes.len() as u16;
    }

    /// Reads that brought bytes.
    pub const fn reads(&self) -> u16 {
        self.reads
    }

    /// Sizes of the first reads.
    pub fn read_sizes(&self) -> &[u16] {
        &self.read_sizes[..usize::from(self.reads).min(MOST_READS)]
    }

    /// The registered socket.
    pub fn stream(&mut self) -> io::Result<&TcpStream> {
        if let ClientSocket::Raw(_) = self.socket {
            let ClientSocket::Raw(socket) = std::mem::replace(&mut self.socket, ClientSocket::Gone) else {
                return Err(gone());
            };
            self.socket = ClientSocket::Stream(TcpStream::from_std(socket.into())?);
        }
        match &self.socket {
            ClientSocket::Stream(stream) => Ok(stream),
            _ => Err(gone()),
        }
    }

    /// Gives the registered socket away.
    pub fn take_stream(&mut self) -> io::Result<TcpStream> {
        self.stream()?;
        match std::mem::replace(&mut self.socket, ClientSocket::Gone) {
            ClientSocket::Stream(stream) => Ok(stream),
            _ => Err(gone()),
        }
    }

    /// Waits for more bytes until `deadline` on the coarse clock and keeps them. After an error what came before is
    /// still there. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `client_gone` when it closed or reset, `hello_timeout` when it was late, or the reason of an order to end.
    pub async fn more(&mut self, worker: &Worker, session: &Session, deadline: u64) -> Result<(), Stop> {
        loop {
            match self.read_more(worker) {
                Ok(0) => return Err(CloseReason::ClientGone.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(CloseReason::ClientGone.into()),
            }
            // Boxed, as everywhere in the set-up of a session: what is waited for rarely is not carried always.
            let readable = Box::pin(self.stream().map_err(Stop::local)?.readable());
            let ready = session.until(worker, deadline, CloseReason::HelloTimeout, readable).await;
            let late = |reason| {
                let took = session.started.elapsed().as_millis();
                Stop::new(reason).because(format!("{} bytes of the hello after {took} ms", self.bytes.len()))
            };
            ready.map_err(late)?.map_err(Stop::local)?;
        }
    }

    /// Whether the client has sent nothing beyond the first `count` bytes, as far as can be seen now. Reads what
    /// waits in the socket.
    ///
    /// # Errors
    /// `client_gone` when it closed or reset.
    pub fn has_sent_only(&mut self, count: usize, worker: &Worker) -> Result<bool, Stop> {
        if self.bytes.len() > count {
            return Ok(false);
        }
        match self.read_more(worker) {
            Ok(0) => Err(CloseReason::ClientGone.into()),
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(_) => Err(CloseReason::ClientGone.into()),
        }
    }

    fn read_more(&mut self, worker: &Worker) -> io::Result<usize> {
        let buffer = &mut worker.buffer.borrow_mut()[..READ_SIZE];
        let count = self.socket.try_read(buffer)?;
        if count > 0 {
            self.bytes.extend_from_slice(&buffer[..count]);
            if let Some(size) = self.read_sizes.get_mut(usize::from(self.reads)) {
                *size = count as u16;
            }
            self.reads = self.reads.saturating_add(1);
        }
        Ok(count)
    }

    /// Waits until the client leaves: it closed, or only reset where it may have finished and wait for an answer.
    /// What it sends meanwhile stays in the socket. Cancel safe.
    pub async fn left(&mut self) -> Left {
        // Neither asks whether there are bytes, so that the runtime still knows of them when somebody wants to read them.
        // PRIORITY stands for the end of what the client sends: no socket of ours is registered for urgent data.
        let sign = match self.language {
            RefusalLanguage::Unknown => Interest::ERROR,
            RefusalLanguage::Tls | RefusalLanguage::Postgres => Interest::PRIORITY,
        };
        if let Ok(stream) = self.stream() {
            let _ = stream.ready(sign).await;
        }
        Left
    }

    /// Reads and drops what is there.
    pub fn try_drop(&mut self, worker: &Worker) -> io::Result<usize> {
        self.socket.try_read(&mut worker.buffer.borrow_mut()[..READ_SIZE])
    }

    /// Writes what fits. The send buffer of a fresh connection has room for any answer of ours.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.socket {
            ClientSocket::Raw(socket) => socket.write(bytes),
            ClientSocket::Stream(stream) => stream.try_write(bytes),
            ClientSocket::Gone => Err(gone()),
        }
    }

    /// Ends one or both halves.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.socket {
            ClientSocket::Raw(socket) => socket.shutdown(how),
            ClientSocket::Stream(stream) => socket2::SockRef::from(stream).shutdown(how),
            ClientSocket::Gone => Err(gone()),
        }
    }

    /// Makes the coming close a reset.
    pub fn reset_on_close(&self) {
        match &self.socket {
            ClientSocket::Raw(raw) => socket::reset_on_close(raw),
            ClientSocket::Stream(stream) => socket::reset_on_close(stream),
            ClientSocket::Gone => {}
        }
    }
}

impl ClientSocket {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(socket) => socket.read(buffer),
            Self::Stream(stream) => stream.try_read(buffer),
            Self::Gone => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}
