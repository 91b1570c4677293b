//! One direction on its way to another process: what is held as bytes, what is in its pipe as the pipe itself.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{Direction, End, Load, Mode};
use crate::proxy::forward::Pipes;
use crate::sys::pipe::Pipe;

/// All but bytes and pipe.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DirectionCopy {
    /// Bytes that are held.
    held: usize,
    /// Bytes inside the pipe; with none there is no pipe.
    inside: usize,
    splices: bool,
    in_a_row: u8,
    end: End,
    /// Of format 1: bytes that were delivered before this direction began, and are not counted yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    credit: Option<u64>,
}

impl DirectionCopy {
    /// Adds what a reader of format 1 misses.
    pub const fn complete_for_format_1(&mut self) {
        self.credit = Some(0);
    }

    /// Bytes that were delivered and that the session does not count yet.
    pub fn uncounted(&self) -> u64 {
        self.credit.unwrap_or(0)
    }
}

impl Direction {
    /// Copies it; its bytes go behind `bytes`, the ends of its pipe behind `descriptors`.
    pub fn copy_to<'d>(&'d self, bytes: &mut Vec<u8>, descriptors: &mut Vec<BorrowedFd<'d>>) -> DirectionCopy {
        let (mut held, mut inside) = (0, 0);
        match self.load.as_deref() {
            Some(Load::Bytes { bytes: all, from }) => {
                held = all.len() - from;
                bytes.extend_from_slice(&all[*from..]);
            }
            Some(Load::Piped { pipe, inside: bytes }) => {
                inside = *bytes;
                descriptors.extend(pipe.ends());
            }
            None => {}
        }
        let (splices, in_a_row) = match self.mode {
            Mode::Copy(full) => (false, full),
            Mode::Splice(small) => (true, small),
        };
        DirectionCopy { held, inside, splices, in_a_row, end: self.end, credit: None }
    }

    /// Makes it again from the copy, the first of `bytes` and the next of `descriptors`.
    ///
    /// # Errors
    /// `InvalidData` when some are missing.
    pub fn from_copy(
        copy: &DirectionCopy,
        bytes: &mut &[u8],
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        pipes: &Pipes,
    ) -> io::Result<Self> {
        let (held, rest) = bytes.split_at_checked(copy.held).ok_or(io::ErrorKind::InvalidData)?;
        *bytes = rest;
        let load = match (held, copy.inside) {
            ([], 0) => None,
            (held, 0) => Some(Load::Bytes { bytes: held.to_vec(), from: 0 }),
            ([], inside) => {
                let (Some(read), Some(write)) = (descriptors.next(), descriptors.next()) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                let pipe = Pipe::of(read, write)?;
                pipes.count_in();
                Some(Load::Piped { pipe, inside })
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mode = if copy.splices { Mode::Splice(copy.in_a_row) } else { Mode::Copy(copy.in_a_row) };
        Ok(Self { load: load.map(Box::new), room: 0, mode, end: copy.end })
    }
}
