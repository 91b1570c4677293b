//! A channel between two processes over which descriptors go with messages (`SCM_RIGHTS`, `unix(7)`). Blocks, within a time
//! limit. What the messages say is decided elsewhere.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The most descriptors of one message (`SCM_MAX_FD` in the kernel).
pub const MOST_DESCRIPTORS: usize = 253;
/// The longest message. Chosen: far above what a process of this kind has to say, and no danger to a machine.
const MOST_BYTES: usize = 256 << 20;
/// What a message is, its length in bytes, and the number of its descriptors, as little-endian 32-bit numbers.
const HEAD: usize = 12;

/// One end. Several threads may send; one receives.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    sending: Mutex<()>,
}

/// A channel on which messages of one kind go, and the version of their form that both ends understand.
#[derive(Clone, Debug)]
pub struct Passage {
    /// The channel.
    pub channel: Arc<Channel>,
    /// What the messages are called.
    pub kind: u32,
    /// The version.
    pub format: u32,
}

/// What came in one message.
#[derive(Debug)]
pub struct Parcel {
    /// What it is; the two ends know what that means.
    pub kind: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Two ends.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (here, there) = UnixStream::pair()?;
        Ok((Self::over(here), there.into()))
    }

    /// Takes standard input, which somebody made one end; `/dev/null` is standard input from then on.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        let own = stdin.as_fd().try_clone_to_owned()?;
        nix::unistd::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let stream = UnixStream::from(own);
        stream.peer_addr()?;
        Ok(Self::over(stream))
    }

    const fn over(stream: UnixStream) -> Self {
        Self { stream, sending: Mutex::new(()) }
    }

    /// How long sending or receiving may take from now on; `None`: for ever.
    pub fn set_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)?;
        self.stream.set_write_timeout(limit)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `WouldBlock` when the other end does not take it in time; `InvalidInput` when it is too large.
    pub fn send(&self, kind: u32, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut head = [0; HEAD];
        for (place, number) in head.chunks_exact_mut(4).zip([kind, bytes.len() as u32, descriptors.len() as u32]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        // The head is far below what a socket takes at once, so that it goes whole and the descriptors with it.
        let sent =
            sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&head)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent != HEAD {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (&self.stream).write_all(bytes)
    }

    /// Receives one message; `None` when the other end has closed.
    ///
    /// # Errors
    /// `WouldBlock` when none comes in time; `InvalidData` when it is none.
    pub fn receive(&self) -> io::Result<Option<Parcel>> {
        let mut head = [0; HEAD];
        let mut descriptors = Vec::new();
        let first = self.receive_with_rights(&mut head, &mut descriptors)?;
        if first == 0 {
            return Ok(None);
        }
        (&self.stream).read_exact(&mut head[first..])?;
        let number =
            |place: usize| head[place * 4..].first_chunk().map_or(0, |bytes: &[u8; 4]| u32::from_le_bytes(*bytes));
        let (kind, length, count) = (number(0), number(1) as usize, number(2) as usize);
        if length > MOST_BYTES || count != descriptors.len() {
            let came = descriptors.len();
            let why = format!("a message of {length} bytes with {count} descriptors, of which {came} came");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut bytes = vec![0; length];
        (&self.stream).read_exact(&mut bytes)?;
        Ok(Some(Parcel { kind, bytes, descriptors }))
    }

    #[allow(unsafe_code)]
    fn receive_with_rights(&self, head: &mut [u8; HEAD], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(head)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                descriptors.extend(received.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        Ok(message.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Channel, Channel) {
        let (here, there) = Channel::pair().expect("a pair");
        let there = Channel::over(UnixStream::from(there));
        for end in [&here, &there] {
            end.set_limit(Some(Duration::from_secs(5))).expect("a limit");
        }
        (here, there)
    }

    #[test]
    fn messages_come_in_order_with_their_own_descriptors() {
        let (here, there) = both();
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let large = vec![7; 3 << 20];
        let sender = std::thread::spawn(move || {
            here.send(5, b"one", &[write.as_fd()]).expect("taken");
            drop(write);
            here.send(6, &large, &[]).expect("taken");
            here.send(7, b"", &[here.stream.as_fd(); MOST_DESCRIPTORS]).expect("taken");
        });
        let next = || there.receive().expect("a message");
        let one = next().expect("the first");
        assert_eq!((one.kind, one.bytes.as_slice(), one.descriptors.len()), (5, &b"one"[..], 1));
        let two = next().expect("the second");
        assert_eq!((two.kind, two.bytes.len(), two.descriptors.len()), (6, 3 << 20, 0));
        let three = next().expect("the third");
        assert_eq!((three.kind, three.bytes.len(), three.descriptors.len()), (7, 0, MOST_DESCRIPTORS));
        sender.join().expect("no panic");
        drop(three);
        assert!(next().is_none(), "the other end is closed");
        let mut passed = std::fs::File::from(one.descriptors.into_iter().next().expect("one"));
        passed.write_all(b"through").expect("an open pipe");
        drop(passed);
        let mut text = String::new();
        read.read_to_string(&mut text).expect("text");
        assert_eq!(text, "through");
    }

    #[test]
    fn what_is_too_large_or_wrong_or_late_is_an_error() {
        let (here, there) = both();
        let fds = vec![there.stream.as_fd(); MOST_DESCRIPTORS + 1];
        assert_eq!(here.send(0, b"", &fds).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidInput));
        (&here.stream).write_all(&[255; HEAD]).expect("room");
        assert_eq!(there.receive().map_err(|error| error.kind()).err(), Some(io::ErrorKind::InvalidData));
        let (here, there) = both();
        // One descriptor is promised and none comes.
        (&here.stream).write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).expect("room");
        assert_eq!(there.receive().map_err(|error| error.kind()).err(), Some(io::ErrorKind::InvalidData));
        let (here, there) = both();
        (&here.stream).write_all(&[0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1]).expect("room");
        there.set_limit(Some(Duration::from_millis(20))).expect("a limit");
        assert_eq!(there.receive().map_err(|error| error.kind()).err(), Some(io::ErrorKind::WouldBlock));
        // A message that is cut anywhere is none.
        for length in 1..16 {
            let (here, there) = both();
            (&here.stream).write_all(&[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3][..length.min(15)]).expect("room");
            drop(here);
            assert_eq!(
                there.receive().map_err(|error| error.kind()).err(),
                Some(io::ErrorKind::UnexpectedEof),
                "{length}"
            );
        }
    }
}
