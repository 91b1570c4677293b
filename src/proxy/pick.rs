//! Takes a seat at a backend, exactly within the limits of pool and backend over all workers. Fourth stop of the spine; who
//! is chosen is decided by `decide::balance`, connecting comes after it, and who finds no seat may wait for one in `queue`.

use std::cell::Cell;
use std::rc::Rc;

use super::session::Session;
use super::view::{BackendBrief, PoolView};
use super::worker::Worker;
use crate::decide::balance::{Ask, MemberId, Method, Tried};
use crate::state::{HealthIgnored, Places, Room, Taken};
use crate::sys::clock::coarse_ms;

/// A place at a backend and in its pool: counted from the pick on, given back exactly once, by being dropped.
#[derive(Debug)]
pub struct Seat(Rc<BackendBrief>);

impl Seat {
    /// The backend.
    pub fn backend(&self) -> &Rc<BackendBrief> {
        &self.0
    }

    /// The place of a session that another process has counted so far; whatever the limits are here.
    pub fn taken_over(brief: Rc<BackendBrief>) -> Self {
        brief.backend.active.take_over();
        brief.pool.places.taken.take_over();
        Self(brief)
    }

    /// Changes to a place that was taken at another backend of the pool; the place in the pool stays.
    fn change_to(&mut self, backend: Rc<BackendBrief>) {
        let left = std::mem::replace(&mut self.0, backend);
        left.leave();
        left.pool.places.call();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.leave();
        self.0.pool.places.taken.give_back();
        self.0.pool.places.call();
    }
}

impl BackendBrief {
    /// Takes a place here, if there is one and fewer than `cap` are taken.
    fn enter(&self, cap: Option<u32>) -> bool {
        self.backend.active.take(cap)
    }

    fn leave(&self) {
        self.backend.active.give_back();
    }
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// The pool has no place left.
    PoolFull,
    /// No backend has a place left.
    BackendsFull,
    /// No backend takes connections that was not tried already.
    Nobody,
}

/// What a backend is chosen for.
pub struct Wanted {
    /// Hash of the affinity key; `None` when the connection has nothing of it.
    pub key: Option<u64>,
    /// Backends tried already.
    pub tried: Tried,
    /// How many were tried in another process.
    pub earlier: u8,
}

impl Wanted {
    /// How many were tried.
    pub const fn tries(&self) -> u8 {
        self.earlier.saturating_add(self.tried.count())
    }
}

/// Chooses a backend that was not tried yet and seats the session there; the seat belongs to the session at once, so
/// that orders to end find it.
pub fn pick(worker: &Worker, session: &Session, pool: &PoolView, wanted: &mut Wanted) -> Result<MemberId, NoSeat> {
    // Nobody overtakes those who wait; but who was sent away by a backend has waited already.
    let queues = pool.pool.config.queue_timeout.is_some();
    if queues && wanted.tries() == 0 && pool.places().waiting() > 0 {
        return Err(NoSeat::BackendsFull);
    }
    let seated = pool.seat(worker, session, wanted);
    if seated.is_err() {
        // It may have held the last place of the pool for a moment, while the first in the line looked for one.
        pool.places().call();
    }
    seated
}

/// A place of a pool that is taken and has no seat yet.
struct PoolPlace<'a>(&'a Taken);

impl Drop for PoolPlace<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl PoolView {
    /// Places of the pool, and who waits for one.
    pub fn places(&self) -> &Places {
        &self.brief.state.places
    }

    /// Seats the session now, or says why it cannot.
    pub fn seat(&self, worker: &Worker, session: &Session, wanted: &mut Wanted) -> Result<MemberId, NoSeat> {
        let facts = &mut *session.facts.borrow_mut();
        let taken = &self.places().taken;
        if facts.seat.is_none() && !taken.take(None) {
            return Err(NoSeat::PoolFull);
        }
        // Given back unless a seat is had: also when a fault is in the way.
        let place = facts.seat.is_none().then(|| PoolPlace(taken));
        let member = self.enter_next(worker, wanted)?;
        std::mem::forget(place);
        let backend = Rc::clone(&self.backends[member]);
        match &mut facts.seat {
            Some(seat) => seat.change_to(backend),
            none => *none = Some(Seat(backend)),
        }
        wanted.tried.insert(member);
        facts.tries = wanted.tries();
        Ok(member)
    }

    /// Takes a place at the backend that is next in line.
    fn enter_next(&self, worker: &Worker, wanted: &Wanted) -> Result<MemberId, NoSeat> {
        let ignoring = self.pool.state.places.health_ignored();
        let shard = self.brief.shard();
        loop {
            let full = Cell::new(false);
            let load = |member| match self.pool.room(member, ignoring, coarse_ms) {
                Room::Yes(load) => Some(load),
                Room::Full => {
                    full.set(true);
                    None
                }
                Room::Closed => None,
            };
            let totals = |tier| self.pool.totals(tier, 1);
            let ask = Ask { tried: &wanted.tried, key: wanted.key, random: worker.random(), totals: &totals };
            let Some(choice) = self.pool.balancer.next(&load, &ask, &mut self.turns.borrow_mut()) else {
                return Err(if full.get() { NoSeat::BackendsFull } else { NoSeat::Nobody });
            };
            // Another worker may have been faster: then the choice is made anew, with its connection counted.
            if self.backends[choice.member].enter(choice.cap) {
                if ignoring == HealthIgnored::Yes {
                    shard.panicked.add(1);
                }
                if wanted.key.is_none() && matches!(self.pool.config.method, Method::ConsistentHash(_)) {
                    shard.keyless.add(1);
                }
                return Ok(choice.member);
            }
        }
    }
}
