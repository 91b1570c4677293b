//! A flow on its way to another process: two sockets, two directions, and what is planned.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::answer::Answer;
use super::direction::{Direction, DirectionCopy};
use super::watch::Watch;
use super::{Broken, Flow, Pipes, Side};
use crate::decide::close::CloseReason;

/// All but sockets, bytes and pipes. Times are on the coarse clock, which is one for all processes.
#[derive(Debug, Serialize, Deserialize)]
pub struct FlowCopy {
    up: DirectionCopy,
    down: DirectionCopy,
    broken: Option<BrokenCopy>,
    deadline_ms: u64,
    unsent: u32,
    stuck_check_ms: u64,
    reported_ms: u64,
    unreported: bool,
    begun: bool,
    awaits_answer: bool,
    watch: [u32; 2],
}

#[derive(Debug, Serialize, Deserialize)]
struct BrokenCopy {
    client: bool,
    cut_short: bool,
    reason: String,
    looks: u8,
}

impl FlowCopy {
    /// Adds what a reader of format 1 misses.
    pub const fn complete_for_format_1(&mut self) {
        self.up.complete_for_format_1();
        self.down.complete_for_format_1();
    }

    /// Bytes up and down that were delivered and that the session does not count yet, as format 1 may have them.
    pub fn uncounted(&self) -> [u64; 2] {
        [self.up.uncounted(), self.down.uncounted()]
    }
}

impl Flow {
    /// Copies it; bytes on the way go behind `bytes`, sockets and pipes behind `descriptors`.
    pub fn copy_to<'f>(&'f self, bytes: &mut Vec<u8>, descriptors: &mut Vec<BorrowedFd<'f>>) -> FlowCopy {
        descriptors.extend([self.client.as_fd(), self.backend.as_fd()]);
        let broken = |broken: Broken| BrokenCopy {
            client: broken.side == Side::Client,
            cut_short: broken.cut_short,
            reason: broken.reason.name().to_owned(),
            looks: broken.looks,
        };
        FlowCopy {
            up: self.up.copy_to(bytes, descriptors),
            down: self.down.copy_to(bytes, descriptors),
            broken: self.broken.map(broken),
            deadline_ms: self.deadline_ms,
            unsent: self.unsent,
            stuck_check_ms: self.stuck_check_ms,
            reported_ms: self.reported_ms,
            unreported: self.unreported,
            begun: self.begun,
            awaits_answer: self.answer == Answer::Awaited,
            watch: self.watch.plan(),
        }
    }

    /// Makes it again, with the sockets registered here.
    ///
    /// # Errors
    /// `InvalidData` when something is missing; those of registering.
    pub fn from_copy(
        copy: &FlowCopy,
        bytes: &mut &[u8],
        descriptors: &mut impl Iterator<Item = OwnedFd>,
        pipes: &Pipes,
    ) -> io::Result<Self> {
        let mut socket = || {
            let descriptor = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
            TcpStream::from_std(descriptor.into())
        };
        let (client, backend) = (socket()?, socket()?);
        let broken = |broken: &BrokenCopy| {
            let reason = CloseReason::named(&broken.reason).ok_or(io::ErrorKind::InvalidData)?;
            let side = if broken.client { Side::Client } else { Side::Backend };
            io::Result::Ok(Broken { side, cut_short: broken.cut_short, reason, looks: broken.looks })
        };
        // All that can fail before a pipe is counted.
        let broken = copy.broken.as_ref().map(broken).transpose()?;
        let mut flow = Self {
            client,
            backend,
            up: Direction::from_copy(&copy.up, bytes, descriptors, pipes)?,
            down: Direction::default(),
            broken,
            deadline_ms: copy.deadline_ms,
            unsent: copy.unsent,
            stuck_check_ms: copy.stuck_check_ms,
            reported_ms: copy.reported_ms,
            unreported: copy.unreported,
            begun: copy.begun,
            answer: if copy.awaits_answer { Answer::Awaited } else { Answer::Settled },
            watch: Watch::planned(copy.watch),
        };
        match Direction::from_copy(&copy.down, bytes, descriptors, pipes) {
            Ok(down) => flow.down = down,
            Err(error) => {
                flow.up.drop_load(pipes);
                return Err(error);
            }
        }
        Ok(flow)
    }

    /// Forgets it: somebody else has its sockets and pipes. They are closed here, which ends nothing there.
    pub fn let_go(mut self, pipes: &Pipes) {
        self.up.drop_load(pipes);
        self.down.drop_load(pipes);
    }
}
