//! The pool's line: who finds no place waits for one, over all workers in the order of arrival. Between pick and connect.
//! While sessions are handed to another process, those that wait stand still, and go over with their turn.

pub mod carry;

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use self::carry::Ticket;
use super::client::{Client, Left};
use super::first_write::FirstWrite;
use super::hold::{Aside, Held};
use super::pick::{NoSeat, Wanted};
use super::refuse::Stop;
use super::session::Session;
use super::view::PoolView;
use super::worker::Worker;
use crate::decide::balance::{MemberId, Tried};
use crate::decide::close::CloseReason;
use crate::state::Turn;
use crate::sys::clock::coarse_ms;

/// A place in a line.
#[derive(Debug)]
pub struct InLine {
    /// Until when, on the coarse clock, which is one for all processes.
    pub until_ms: u64,
    /// Whose turn comes before and after.
    pub turn: Turn,
}

/// What becomes of a session for which there is no place: it waits for one where the pool has a line. `None` when no
/// backend takes connections any more. A reload meanwhile leaves `pool` as it is then. Dropping the future leaves the line.
pub async fn wait_or_refuse(
    worker: &Worker,
    session: &Rc<Session>,
    pool: &mut Rc<PoolView>,
    client: &mut Client,
    (wanted, first): (&mut Wanted, &FirstWrite),
    full: NoSeat,
) -> Result<Option<MemberId>, Stop> {
    let config = &pool.pool.config;
    if let Some(limit) = config.queue_timeout {
        pool.brief.shard().queued.add(1);
        // Who was sent away by a backend gives up the place there: it is somebody's who has none.
        let left = session.facts.borrow_mut().seat.take();
        drop(left);
        let until_ms = coarse_ms() + limit.as_millis() as u64;
        let in_line = InLine { until_ms, turn: Turn::join(&pool.brief.state, None) };
        return wait(worker, session, pool, client, (wanted, first), in_line).await;
    }
    pool.brief.shard().full.add(1);
    let what = match (full, pool.places().taken.limit()) {
        (NoSeat::PoolFull, Some(most)) => format!("pool {} has its {most} connections", config.name),
        _ => format!("every backend of pool {} that takes connections has its max-connections", config.name),
    };
    Err(Stop::new(CloseReason::LimitReached).because(what))
}

/// Waits in the line.
pub async fn wait(
    worker: &Worker,
    session: &Rc<Session>,
    pool: &mut Rc<PoolView>,
    client: &mut Client,
    (wanted, first): (&mut Wanted, &FirstWrite),
    in_line: InLine,
) -> Result<Option<MemberId>, Stop> {
    let InLine { until_ms, turn } = in_line;
    let standing = Standing::begin(&worker.held, session);
    loop {
        if let Some(round) = worker.held.round() {
            standing.still(|| Ticket::of(client, first, wanted.key, (until_ms, turn.number())));
            standing.released(round).await?;
        }
        let present = worker.present(pool);
        if !Rc::ptr_eq(&present, pool) {
            // Members are others: what was tried may be tried again.
            *pool = present;
            wanted.tried = Tried::default();
        }
        if turn.is_first() {
            match pool.seat(worker, session, wanted) {
                Ok(member) => return Ok(Some(member)),
                Err(NoSeat::Nobody) => return Ok(None),
                Err(NoSeat::PoolFull | NoSeat::BackendsFull) => {}
            }
        }
        let called = async {
            tokio::select! {
                () = turn.called() => Ok(()),
                () = worker.held.taking_waiting() => Ok(()),
                Left = client.left() => Err(CloseReason::ClientGone),
            }
        };
        match session.until(worker, until_ms, CloseReason::QueueTimeout, called).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(reason.into()),
            Err(CloseReason::QueueTimeout) => return Err(pool.waited_in_vain()),
            Err(ordered) => return Err(ordered.into()),
        }
    }
}

impl PoolView {
    fn waited_in_vain(&self) -> Stop {
        self.brief.shard().full.add(1);
        let (name, others) = (&self.pool.config.name, self.places().waiting().saturating_sub(1));
        let limit = self.pool.config.queue_timeout.map_or(0, |limit| limit.as_millis());
        Stop::new(CloseReason::QueueTimeout)
            .because(format!("no place of pool {name} became free in {limit} ms, {others} others wait"))
    }
}

impl Worker {
    /// The pool of a session that comes from another process.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pool_of(&self, session: &Session) -> Result<Rc<PoolView>, Stop> {
        let facts = session.facts.borrow();
        let name = facts.pool.as_ref().map_or("", |pool| &pool.state.name);
        let pools = self.pools();
        let gone = || Stop::new(CloseReason::NoBackend).because(format!("pool {name} is gone from the configuration"));
        pools.iter().find(|pool| *pool.pool.config.name == *name).cloned().ok_or_else(gone)
    }
}

/// A session of this worker that waits: whoever wants to put all aside counts it until it stands still.
struct Standing<'a> {
    held: &'a Held,
    session: &'a Rc<Session>,
    /// Whether a copy of it is put aside.
    is_aside: Cell<bool>,
}

impl<'a> Standing<'a> {
    fn begin(held: &'a Held, session: &'a Rc<Session>) -> Self {
        held.waits_more();
        Self { held, session, is_aside: Cell::new(false) }
    }

    /// Puts a copy aside. Without one, when descriptors run out, it stays here, and is ended with what is left.
    fn still(&self, ticket: impl FnOnce() -> std::io::Result<Ticket>) {
        match ticket() {
            Ok(ticket) => {
                self.held.put(Aside::Waiting(Rc::clone(self.session), ticket));
                self.is_aside.set(true);
            }
            Err(error) => tracing::warn!(%error, "a session that waits for a place cannot be handed over"),
        }
        self.held.stands_still(self.session);
    }

    /// Until the worker lets all go on. An order to end goes with the copy, where there is one.
    async fn released(&self, round: u64) -> Result<(), Stop> {
        std::future::poll_fn(|cx| match self.session.ordered() {
            Some(reason) if !self.is_aside.get() => Poll::Ready(Err(Stop::from(reason))),
            _ if self.held.round() == Some(round) => {
                self.session.remember(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        })
        .await?;
        self.is_aside.set(false);
        Ok(())
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.held.waited(self.session);
    }
}
