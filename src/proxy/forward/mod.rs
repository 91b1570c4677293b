//! Moves bytes both ways until both sides have finished. Sixth stop of the spine.
//! All state is in one plain struct, [`Flow`]; a poll moves a bounded amount, so that no session starves others.

mod direction;
mod pipes;

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

pub use pipes::Pipes;

use self::direction::{Direction, Lost, Step};
use super::connect::Connected;
use super::record;
use super::session::Session;
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::sys::clock::coarse_ms;
use crate::sys::socket;

/// After this long a session is worth keepalive on the backend's leg; short ones do not pay for it.
const KEEPALIVE_AFTER_MS: u64 = 30_000;

/// How often the source of a stuck direction is asked whether it broke: nobody reads it, so nobody would notice.
const STUCK_CHECK_MS: u64 = 2000;

/// How often the counters are told of the bytes of a session that goes on.
const REPORT_EVERY_MS: u64 = 1000;

/// One end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

/// Bytes delivered, by direction and path.
#[derive(Debug, Default)]
pub struct Moved {
    pub(super) copied: [Cell<u64>; 2],
    pub(super) spliced: [Cell<u64>; 2],
    /// Bytes of each direction that the counters of backend and worker know of already: copied, then spliced.
    reported: [Cell<u64>; 4],
}

/// Direction of bytes, as index of [`Moved`].
const UP: usize = 0;
const DOWN: usize = 1;

impl Moved {
    /// Bytes from the client to the backend.
    pub fn up(&self) -> u64 {
        self.copied[UP].get() + self.spliced[UP].get()
    }

    /// Bytes from the backend to the client.
    pub fn down(&self) -> u64 {
        self.copied[DOWN].get() + self.spliced[DOWN].get()
    }

    /// Bytes since the last call: copied up, copied down, spliced up, spliced down.
    pub fn unreported(&self) -> [u64; 4] {
        let [copied, spliced] = [&self.copied, &self.spliced];
        let now = [copied[UP].get(), copied[DOWN].get(), spliced[UP].get(), spliced[DOWN].get()];
        std::array::from_fn(|kind| now[kind] - self.reported[kind].replace(now[kind]))
    }

    /// Name of the path that the bytes of a direction took; `None` without bytes.
    pub fn path(&self, direction: usize) -> Option<&'static str> {
        match (self.copied[direction].get(), self.spliced[direction].get()) {
            (0, 0) => None,
            (_, 0) => Some("copy"),
            (0, _) => Some("splice"),
            _ => Some("mixed"),
        }
    }
}

/// Adds to a cell.
pub(super) fn add(cell: &Cell<u64>, count: usize) {
    cell.set(cell.get() + count as u64);
}

/// An established session: two sockets and what is on the way between them.
#[derive(Debug)]
pub struct Flow {
    client: TcpStream,
    backend: TcpStream,
    up: Direction,
    down: Direction,
    /// The side whose connection broke, and whether a FIN was seen before.
    broken: Option<(Side, AfterFin)>,
    /// When no byte came for too long; `u64::MAX`: never.
    deadline_ms: u64,
    /// When sources of stuck directions are asked next; `u64::MAX`: nothing is stuck.
    stuck_check_ms: u64,
    /// When the counters of backend and worker were last told of the bytes.
    reported_ms: u64,
    kept_alive: bool,
    begun: bool,
}

/// Whether a broken connection had been closed in an orderly way by one side before: then it counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterFin {
    Yes,
    No,
}

impl Flow {
    /// A session whose backend was given `connected.sent` bytes already.
    pub fn new(client: TcpStream, connected: Connected) -> Self {
        Self {
            client,
            backend: connected.stream,
            up: Direction::holding(connected.unsent, connected.sent),
            down: Direction::default(),
            broken: None,
            deadline_ms: u64::MAX,
            stuck_check_ms: u64::MAX,
            reported_ms: 0,
            kept_alive: false,
            begun: false,
        }
    }

    /// Moves what can be moved now. Ready once the session is over; both sockets are then set to close as they should.
    pub fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker, session: &Session) -> Poll<CloseReason> {
        let result = self.turn(cx, worker, session);
        if result.is_ready() {
            self.up.drop_pipe(&worker.pipes);
            self.down.drop_pipe(&worker.pipes);
        }
        result
    }

    fn turn(&mut self, cx: &mut Context<'_>, worker: &Worker, session: &Session) -> Poll<CloseReason> {
        if let Some(reason) = session.ordered() {
            return Poll::Ready(self.reset_both(reason));
        }
        let now = coarse_ms();
        if !self.begun {
            self.begin(session, now);
        }
        let before = session.moved.up() + session.moved.down();
        let finished = self.finished();
        let down_had_ended = self.down.saw_end();
        let up = self.up.drive(cx, worker, &mut self.client, &mut self.backend, &session.moved, UP);
        let down = self.down.drive(cx, worker, &mut self.backend, &mut self.client, &session.moved, DOWN);
        note_first_byte(session);
        // A write that fails takes the error with it, and the read after it sees a plain end: not a FIN.
        self.note(up, Side::Client, Side::Backend, self.up.saw_end() || down_had_ended);
        self.note(down, Side::Backend, Side::Client, self.up.saw_end() || self.down.saw_end());
        self.look_behind_stuck(up, down, now);
        if self.finished() == 2 {
            return Poll::Ready(self.end());
        }
        self.pass_on_fin();
        if session.moved.up() + session.moved.down() != before || self.finished() != finished {
            if now >= self.reported_ms + REPORT_EVERY_MS {
                self.reported_ms = now;
                record::report_bytes(worker, session);
            }
            self.deadline_ms = self.quiet_until(session, now);
        } else if now >= self.deadline_ms {
            let half = self.finished() == 1;
            let reason = if half { CloseReason::HalfCloseTimeout } else { CloseReason::IdleTimeout };
            return Poll::Ready(self.reset_both(reason));
        }
        self.arm(worker, session, now);
        session.remember(cx.waker());
        if matches!(up, Step::Again) || matches!(down, Step::Again) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn begin(&mut self, session: &Session, now: u64) {
        self.begun = true;
        self.reported_ms = now;
        self.deadline_ms = self.quiet_until(session, now);
        add(&session.moved.copied[UP], self.up.take_credit());
    }

    /// How many directions have delivered their last byte.
    fn finished(&self) -> usize {
        usize::from(self.up.is_finished()) + usize::from(self.down.is_finished())
    }

    fn quiet_until(&self, session: &Session, now: u64) -> u64 {
        let limit = if self.finished() > 0 { session.listener.half_close_ms } else { session.listener.idle_ms };
        limit.map_or(u64::MAX, |limit| now + limit)
    }

    /// Sees to the next visit by the clock: the deadline, or the time to turn keepalive on.
    fn arm(&mut self, worker: &Worker, session: &Session, now: u64) {
        let mut next = self.deadline_ms;
        if !self.kept_alive {
            let due = session.started_ms + KEEPALIVE_AFTER_MS;
            if now >= due {
                self.kept_alive = true;
                // Without it a dead peer is found by the idle time-out instead.
                let _ = socket::keep_alive(&self.backend);
            } else {
                next = next.min(due);
            }
        }
        next = next.min(self.stuck_check_ms);
        if next != u64::MAX {
            worker.sessions.arm(session, next);
        }
    }

    /// Takes note of how a direction from `from` to `to` fared; `fin`: whether a side had closed before.
    fn note(&mut self, step: Step, from: Side, to: Side, fin: bool) {
        let lost = match step {
            Step::Broken(Lost::Source) => from,
            Step::Broken(Lost::Sink) => to,
            Step::Blocked | Step::Stuck | Step::Again | Step::Finished => return,
        };
        if self.broken.is_none() {
            self.broken = Some((lost, if fin { AfterFin::Yes } else { AfterFin::No }));
        }
        // Bytes for a side that is gone have nowhere to go; bytes from it that arrived before are still delivered.
        match lost {
            Side::Client => self.down.abandon(),
            Side::Backend => self.up.abandon(),
        }
    }

    /// A direction whose sink does not read is not read either, so a reset of its source would go unseen until the
    /// sink reads again. Now and then the source is asked; what is held is then lost, as the sender wanted.
    fn look_behind_stuck(&mut self, up: Step, down: Step, now: u64) {
        if up != Step::Stuck && down != Step::Stuck {
            self.stuck_check_ms = u64::MAX;
            return;
        }
        if self.stuck_check_ms == u64::MAX {
            self.stuck_check_ms = now + STUCK_CHECK_MS;
        }
        if now < self.stuck_check_ms {
            return;
        }
        self.stuck_check_ms = now + STUCK_CHECK_MS;
        let fin = self.up.saw_end() || self.down.saw_end();
        let is_broken = |socket: &TcpStream| !matches!(socket.take_error(), Ok(None));
        if up == Step::Stuck && is_broken(&self.client) {
            self.up.abandon();
            self.note(Step::Broken(Lost::Source), Side::Client, Side::Backend, fin);
        }
        if down == Step::Stuck && is_broken(&self.backend) {
            self.down.abandon();
            self.note(Step::Broken(Lost::Source), Side::Backend, Side::Client, fin);
        }
    }

    /// Passes a finished direction's FIN on, unless the connection broke: a reset must not become a clean end.
    fn pass_on_fin(&mut self) {
        if self.broken.is_some() {
            return;
        }
        for (direction, sink) in [(&mut self.up, &self.backend), (&mut self.down, &self.client)] {
            if direction.owes_fin() {
                // A sink that is gone says so on the next read or write.
                let _: io::Result<()> = socket2::SockRef::from(sink).shutdown(Shutdown::Write);
            }
        }
    }

    /// Both directions are finished: closing the sockets sends the FINs that are still owed, or RST.
    fn end(&self) -> CloseReason {
        let Some((side, after_fin)) = self.broken else { return CloseReason::Done };
        match side {
            Side::Client => socket::reset_on_close(&self.backend),
            Side::Backend => socket::reset_on_close(&self.client),
        }
        match (after_fin, side) {
            // PostgreSQL resets after both sides are done, in every session; that is no error.
            (AfterFin::Yes, _) => CloseReason::Done,
            (AfterFin::No, Side::Client) => CloseReason::ClientReset,
            (AfterFin::No, Side::Backend) => CloseReason::BackendReset,
        }
    }

    fn reset_both(&self, reason: CloseReason) -> CloseReason {
        socket::reset_on_close(&self.client);
        socket::reset_on_close(&self.backend);
        reason
    }
}

fn note_first_byte(session: &Session) {
    if session.moved.down() == 0 {
        return;
    }
    let facts = &mut *session.facts.borrow_mut();
    if facts.first_byte_time.is_none() {
        facts.first_byte_time = facts.sent_at.map(|sent| sent.elapsed());
    }
}
