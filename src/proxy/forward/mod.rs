//! Moves bytes both ways until both sides have finished. Sixth stop of the spine.
//! All state is in one plain struct, [`Flow`]; a poll moves a bounded amount, so that no session starves others.

mod answer;
mod carry;
mod direction;
mod pipes;
mod watch;

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use tokio::net::TcpStream;

pub use carry::FlowCopy;
pub use pipes::Pipes;

use self::answer::{Answer, TurnSeen};
use self::direction::{Before, Direction, Lost, Step, Turn};
pub use self::watch::Legs;
use self::watch::Watch;
use super::connect::Connected;
use super::record;
use super::session::Session;
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::sys::clock::coarse_ms;
use crate::sys::socket;

/// How often the source of a stuck direction is asked whether it broke: nobody reads it, so nobody would notice.
const STUCK_CHECK_MS: u64 = 2000;
/// A reset waits until the other side's kernel has everything before it: how often that is looked at, and how often without
/// progress. Chosen: two seconds, after which a reader that does not read is reset all the same.
const LINGER_LOOK_MS: u64 = 20;
const LINGER_LOOKS: u8 = 100;

/// How often the counters are told of the bytes of a session that goes on.
const REPORT_EVERY_MS: u64 = 1000;

/// What a source that is found to be cut is taken to have met.
const CUT: io::ErrorKind = io::ErrorKind::ConnectionReset;

/// One end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

impl Side {
    /// How a session ends whose connection on this side broke before its end.
    const fn reset_reason(self) -> CloseReason {
        match self {
            Self::Client => CloseReason::ClientReset,
            Self::Backend => CloseReason::BackendReset,
        }
    }
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

    /// Bytes of another process's session, which its counters know of as far as `reported` says.
    pub fn carried(copied: [u64; 2], spliced: [u64; 2], reported: [u64; 4]) -> Self {
        Self { copied: copied.map(Cell::new), spliced: spliced.map(Cell::new), reported: reported.map(Cell::new) }
    }

    /// What the counters know of.
    pub const fn reported(&self) -> &[Cell<u64>; 4] {
        &self.reported
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
    /// What is known of the side whose connection broke first.
    broken: Option<Broken>,
    /// When no byte came for too long; `u64::MAX`: never.
    deadline_ms: u64,
    /// Bytes in the send queues of both sockets when the deadline last came.
    unsent: u32,
    /// When sources of stuck directions are asked next; `u64::MAX`: nothing is stuck.
    stuck_check_ms: u64,
    /// When the counters of backend and worker were last told of the bytes.
    reported_ms: u64,
    unreported: bool,
    begun: bool,
    answer: Answer,
    watch: Watch,
}

/// A connection that was reset or timed out.
#[derive(Clone, Copy, Debug)]
struct Broken {
    side: Side,
    /// Whether what this side sent is cut short; otherwise it ended with FIN before.
    cut_short: bool,
    /// How the session is recorded: done when one side had closed before, as PostgreSQL does in every session.
    reason: CloseReason,
    /// How often it is still looked whether the other side's kernel has everything.
    looks: u8,
}

impl Flow {
    /// A session whose backend was given `connected.sent` bytes already, which are counted here.
    pub fn new(client: TcpStream, connected: Connected, moved: &Moved) -> Self {
        add(&moved.copied[UP], connected.sent);
        Self {
            client,
            backend: connected.stream,
            up: Direction::holding(connected.unsent),
            down: Direction::default(),
            broken: None,
            deadline_ms: u64::MAX,
            unsent: 0,
            stuck_check_ms: u64::MAX,
            reported_ms: 0,
            unreported: false,
            begun: false,
            answer: Answer::default(),
            watch: Watch::default(),
        }
    }

    /// Moves what can be moved now. Ready once the session is over; both sockets are then set to close as they should.
    pub fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker, session: &Session) -> Poll<CloseReason> {
        let result = self.turn(cx, worker, session);
        if result.is_ready() {
            self.up.drop_load(&worker.pipes);
            self.down.drop_load(&worker.pipes);
        }
        result
    }

    /// Gives up in the middle: what is on the way is lost, and both sides are told so.
    pub fn abandon(&mut self, worker: &Worker) {
        self.reset_both(CloseReason::LocalError);
        self.up.drop_load(&worker.pipes);
        self.down.drop_load(&worker.pipes);
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
        let (plan, legs) = session.plan();
        let first = Cell::new(None);
        let turn = |direction, first| Turn { worker, moved: &session.moved, direction, plan, first };
        let up = self.up.drive(cx, &turn(UP, None), &mut self.client, &mut self.backend);
        let awaited = (self.answer == Answer::Awaited).then_some(&first);
        let down = self.down.drive(cx, &turn(DOWN, awaited), &mut self.backend, &mut self.client);
        session.note_first_byte();
        // A write that fails takes the error with it, and the read after it sees a plain end: not a FIN.
        let (client_fin, backend_fin) = (self.up.saw_end(), down_had_ended);
        let seen = TurnSeen { first: first.get(), up, down, client_fin, backend_fin: self.down.saw_end() };
        self.answer.look(session, &seen, now);
        if [up, down].contains(&Step::Broken(Lost::Source(io::ErrorKind::TimedOut))) {
            let detail = "connection timed out: keepalive probes, or data sent again, had no answer";
            session.facts.borrow_mut().rare().detail = Some(detail.into());
        }
        self.note(up, Side::Client, Side::Backend, client_fin, backend_fin);
        self.note(down, Side::Backend, Side::Client, self.down.saw_end(), client_fin);
        let moved = session.moved.up() + session.moved.down() != before;
        self.look_behind_stuck(up, down, now, moved);
        if let Some(reason) = self.over() {
            return Poll::Ready(reason);
        }
        self.pass_on_fin();
        if moved || self.finished() != finished {
            session.touch(now);
            self.unreported = true;
            self.deadline_ms = self.quiet_until(session, now);
        } else if now >= self.deadline_ms && self.kernel_still_delivers() {
            self.deadline_ms = self.quiet_until(session, now);
        } else if now >= self.deadline_ms {
            let half = self.finished() == 1;
            let reason = if half { CloseReason::HalfCloseTimeout } else { CloseReason::IdleTimeout };
            return Poll::Ready(self.reset_both(reason));
        }
        let age = now.saturating_sub(session.started_ms);
        if let Some(gone) = self.watch.look(&self.client, &self.backend, legs, age, moved) {
            let leg = if gone == Side::Client { legs.client } else { legs.backend };
            let limit = leg.user_timeout.unwrap_or_default().as_millis();
            session.facts.borrow_mut().rare().detail = Some(format!("no acknowledgement for {limit} ms").into());
            return Poll::Ready(self.reset_both(gone.reset_reason()));
        }
        if self.unreported && now >= self.reported_ms + REPORT_EVERY_MS {
            self.unreported = false;
            self.reported_ms = now;
            record::report_bytes(worker, session);
        }
        self.arm(worker, session, now);
        session.remember(cx.waker());
        // After a break the other direction does something else than what its waker was registered for.
        let go_on = |step| matches!(step, Step::Again | Step::Broken(_));
        if go_on(up) || go_on(down) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn begin(&mut self, session: &Session, now: u64) {
        self.begun = true;
        self.answer = Answer::begin(session);
        self.reported_ms = now;
        self.deadline_ms = self.quiet_until(session, now);
    }

    /// How many directions have delivered their last byte.
    fn finished(&self) -> usize {
        usize::from(self.up.is_finished()) + usize::from(self.down.is_finished())
    }

    fn quiet_until(&self, session: &Session, now: u64) -> u64 {
        let half_closed = session.listener.half_close_ms.filter(|_| self.finished() > 0);
        let limit = half_closed.or(session.listener.idle_ms);
        limit.map_or(u64::MAX, |limit| now + limit)
    }

    /// Whether a slow reader still takes what is in the kernel's send queues: silence for us, but not for it.
    fn kernel_still_delivers(&mut self) -> bool {
        let unsent = socket::unsent(&self.client) + socket::unsent(&self.backend);
        let moves = unsent > 0 && unsent != self.unsent;
        self.unsent = unsent;
        moves
    }

    /// Sees to the next visit by the clock.
    fn arm(&self, worker: &Worker, session: &Session, now: u64) {
        let report = if self.unreported { self.reported_ms + REPORT_EVERY_MS } else { u64::MAX };
        let next = self.deadline_ms.min(self.watch.next_ms(session.started_ms)).min(self.stuck_check_ms).min(report);
        let lingers = self.broken.is_some_and(|broken| broken.looks < LINGER_LOOKS);
        let look = if lingers { now + LINGER_LOOK_MS } else { u64::MAX };
        let next = next.min(self.answer.deadline_ms(session)).min(look);
        if next != u64::MAX {
            worker.sessions.arm(session, next);
        }
    }

    /// Takes note of how a direction from `from` to `to` fared, and whether each had sent FIN before.
    fn note(&mut self, step: Step, from: Side, to: Side, from_fin: bool, to_fin: bool) {
        let (side, ended) = match step {
            Step::Broken(Lost::Source(_)) => (from, false),
            Step::Broken(Lost::Sink(before)) => (to, to_fin || before == Before::Fin),
            Step::Blocked | Step::Stuck | Step::Again | Step::Finished => return,
        };
        let (sent, received) = match side {
            Side::Client => (&mut self.up, &mut self.down),
            Side::Backend => (&mut self.down, &mut self.up),
        };
        if self.broken.is_none() {
            let reason = match side {
                _ if from_fin || to_fin || ended => CloseReason::Done,
                broken => broken.reset_reason(),
            };
            self.broken = Some(Broken { side, cut_short: !ended, reason, looks: LINGER_LOOKS });
        }
        // Bytes for a side that is gone have nowhere to go; bytes from it that arrived before are still delivered.
        if matches!(step, Step::Broken(Lost::Source(_))) {
            sent.abandon();
        }
        received.drop_rest();
    }

    /// A direction whose sink does not read is not read either, so a reset of its source would go unseen until the
    /// sink reads again. Now and then, while nothing moves, the source is asked; what is held is then lost, as its
    /// sender wanted.
    fn look_behind_stuck(&mut self, up: Step, down: Step, now: u64, moved: bool) {
        if up != Step::Stuck && down != Step::Stuck {
            self.stuck_check_ms = u64::MAX;
            return;
        }
        if moved || self.stuck_check_ms == u64::MAX {
            self.stuck_check_ms = now + STUCK_CHECK_MS;
        }
        if now < self.stuck_check_ms {
            return;
        }
        self.stuck_check_ms = now + STUCK_CHECK_MS;
        let (client_fin, backend_fin) = (self.up.saw_end(), self.down.saw_end());
        let was_cut = |socket: &TcpStream| {
            socket.take_error().ok().flatten().is_some_and(|error| Before::of(&error) == Before::NoFin)
        };
        if up == Step::Stuck && !client_fin && was_cut(&self.client) {
            self.note(Step::Broken(Lost::Source(CUT)), Side::Client, Side::Backend, client_fin, backend_fin);
        }
        if down == Step::Stuck && !backend_fin && was_cut(&self.backend) {
            self.note(Step::Broken(Lost::Source(CUT)), Side::Backend, Side::Client, backend_fin, client_fin);
        }
    }

    /// Passes a finished direction's FIN on, unless its stream was cut short: a reset must not become a clean end.
    fn pass_on_fin(&mut self) {
        let cut = self.broken.filter(|broken| broken.cut_short).map(|broken| broken.side);
        for (source, direction, sink) in
            [(Side::Client, &mut self.up, &self.backend), (Side::Backend, &mut self.down, &self.client)]
        {
            if cut != Some(source) && direction.owes_fin() {
                // A sink that is gone says so on the next read or write.
                let _: io::Result<()> = socket2::SockRef::from(sink).shutdown(Shutdown::Write);
            }
        }
    }

    /// Why the session is over, once it is. The sockets are then set to close with FIN, or with RST where a stream
    /// was cut short: as soon as what came before the cut is delivered and acknowledged.
    fn over(&mut self) -> Option<CloseReason> {
        if let Some(Broken { side, cut_short: true, reason, looks }) = &mut self.broken {
            let (delivered, other) = match side {
                Side::Client => (self.up.is_finished(), &self.backend),
                Side::Backend => (self.down.is_finished(), &self.client),
            };
            // A kernel that had to drop a segment does not believe a reset beyond it at once, and its question, which it
            // asks twice a second at most, finds nobody: the other side would wait for ever (RFC 5961 3.2).
            let unsent = if delivered { socket::undelivered(other) } else { 0 };
            if delivered && (unsent == 0 || *looks == 0) {
                socket::reset_on_close(other);
                return Some(*reason);
            }
            if delivered {
                *looks = if unsent == self.unsent { *looks - 1 } else { LINGER_LOOKS - 1 };
                self.unsent = unsent;
                return None;
            }
        }
        (self.finished() == 2).then(|| self.broken.map_or(CloseReason::Done, |broken| broken.reason))
    }

    fn reset_both(&self, reason: CloseReason) -> CloseReason {
        socket::reset_on_close(&self.client);
        socket::reset_on_close(&self.backend);
        reason
    }
}
