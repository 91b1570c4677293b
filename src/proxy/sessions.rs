//! The table of a worker's open sessions, with their deadlines: who is here, who is late, who is asked to end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::session::Session;
use super::wheel::{Slot, Wheel};
use crate::sys::clock::coarse_ms;

/// Open sessions of one worker.
#[derive(Debug)]
pub struct Sessions {
    table: RefCell<Table>,
    wheel: RefCell<Wheel>,
    /// When [`Sessions::keep_time`] will look next; `u64::MAX` while nothing is due.
    planned: Cell<u64>,
    earlier: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Table {
    slots: Vec<Option<Rc<Session>>>,
    free: Vec<Slot>,
    open: usize,
}

impl Sessions {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            table: RefCell::default(),
            wheel: RefCell::new(Wheel::new(coarse_ms())),
            planned: Cell::new(u64::MAX),
            earlier: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Enters a session that `make` builds for its slot.
    pub fn enter(&self, make: impl FnOnce(Slot) -> Session) -> Rc<Session> {
        let table = &mut *self.table.borrow_mut();
        let slot = table.free.pop().unwrap_or_else(|| {
            table.slots.push(None);
            table.slots.len() as Slot - 1
        });
        let session = Rc::new(make(slot));
        table.slots[slot as usize] = Some(Rc::clone(&session));
        table.open += 1;
        session
    }

    /// Removes a session.
    pub fn leave(&self, session: &Session) {
        self.wheel.borrow_mut().disarm(session.slot);
        let table = &mut *self.table.borrow_mut();
        table.slots[session.slot as usize] = None;
        table.free.push(session.slot);
        table.open -= 1;
        if table.open == 0 {
            // After a burst the table would otherwise keep its largest size for ever.
            table.slots = Vec::new();
            table.free = Vec::new();
            self.emptied.notify_waiters();
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.table.borrow().open
    }

    /// Calls `visit` for every open session.
    pub fn for_each(&self, mut visit: impl FnMut(&Rc<Session>)) {
        // Collected first: a visit may wake a session, which must not find the table borrowed.
        let open: Vec<Rc<Session>> = self.table.borrow().slots.iter().flatten().cloned().collect();
        open.iter().for_each(&mut visit);
    }

    /// Looks at open sessions until `look` has seen enough; it must not change the table, nor wake anybody.
    pub fn look(&self, look: impl FnMut(&Rc<Session>) -> ControlFlow<()>) {
        let _: ControlFlow<()> = self.table.borrow().slots.iter().flatten().try_for_each(look);
    }

    /// Sees to it that the session's task is woken at `at_ms` or before.
    pub fn arm(&self, session: &Session, at_ms: u64) {
        self.wheel.borrow_mut().arm(session.slot, at_ms);
        if at_ms < self.planned.get() {
            self.earlier.notify_one();
        }
    }

    /// Runs for ever: wakes sessions whose time has come.
    pub async fn keep_time(&self) {
        loop {
            let now = coarse_ms();
            let mut due = Vec::new();
            self.wheel.borrow_mut().advance(now, |slot| due.push(slot));
            for slot in due {
                let session = self.table.borrow().slots.get(slot as usize).cloned().flatten();
                if let Some(session) = session {
                    session.wake();
                }
            }
            let next = self.wheel.borrow().next_due_ms();
            self.planned.set(next.unwrap_or(u64::MAX));
            match next {
                Some(at) => {
                    // The coarse clock lags by some milliseconds; looking one tick late keeps it from spinning.
                    let wait = Duration::from_millis(at.saturating_sub(now) + 4);
                    tokio::select! {
                        () = tokio::time::sleep_until(Instant::now() + wait) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                None => self.earlier.notified().await,
            }
        }
    }

    /// Waits until no session is open.
    pub async fn until_empty(&self) {
        let mut emptied = std::pin::pin!(self.emptied.notified());
        emptied.as_mut().enable();
        poll_fn(|cx| if self.count() == 0 { std::task::Poll::Ready(()) } else { emptied.as_mut().poll(cx) }).await;
    }
}
