//! Sessions at a standstill: while a worker holds, each whose bytes flow is put aside at its next turn, as it is, and of each
//! that waits for a place a copy. They go on in this process or in the one that takes its place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::forward::Flow;
use super::queue::carry::Ticket;
use super::session::{Session, go_on, resume};
use super::worker::Worker;
use crate::state::Turn;

/// What a worker holds.
#[derive(Debug, Default)]
pub struct Held {
    holds: Cell<bool>,
    /// Sessions whose bytes flow and that are not put aside.
    flowing: Cell<usize>,
    /// Whether copies of those that wait for a place are put aside.
    takes_waiting: Cell<bool>,
    /// Sessions that wait for a place and do not stand still.
    waiting: Cell<usize>,
    /// Those that do, by their ids, whether a copy of them is put aside or could not be made.
    still: RefCell<HashMap<u64, Rc<Session>>>,
    /// How often the worker began to hold.
    rounds: Cell<u64>,
    aside: RefCell<Vec<Aside>>,
    /// The first so many of these were sent to another process.
    sent: Cell<usize>,
    came: Notify,
}

/// A session that is put aside.
#[derive(Debug)]
pub enum Aside {
    /// Its bytes flow.
    Flowing(Rc<Session>, Flow),
    /// It waits for a place, and stands still in its own task.
    Waiting(Rc<Session>, Ticket),
    /// It waited in another process, and has its turn here.
    Resumed(Rc<Session>, Ticket, Turn),
}

/// What is put aside besides sessions whose bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Besides {
    /// Nothing: the other process would not understand it.
    Nothing,
    /// Those that wait for a place.
    Waiting,
}

impl Held {
    /// Whether sessions are put aside now.
    pub fn holds(&self) -> bool {
        self.holds.get()
    }

    /// Whether those that wait for a place are to stand still.
    fn takes_waiting(&self) -> bool {
        self.holds.get() && self.takes_waiting.get()
    }

    /// Until they are; to be asked again after each wake-up, which [`Worker::hold`] gives to all.
    pub async fn taking_waiting(&self) {
        poll_fn(|_| if self.takes_waiting() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Has sessions put aside from now on.
    pub fn begin(&self, besides: Besides) {
        self.holds.set(true);
        self.takes_waiting.set(besides == Besides::Waiting);
        self.rounds.set(self.rounds.get() + 1);
    }

    /// One more waits for a place.
    pub fn waits_more(&self) {
        self.waiting.set(self.waiting.get() + 1);
    }

    fn waits_less(&self) {
        self.waiting.set(self.waiting.get() - 1);
        self.came.notify_one();
    }

    /// It stands still, until the worker lets all go on or begins to hold anew: then it counts among those that wait.
    pub fn stands_still(&self, session: &Rc<Session>) {
        self.waits_less();
        self.still.borrow_mut().insert(session.id, Rc::clone(session));
    }

    /// It is over, while it stood still or not.
    pub fn waited(&self, session: &Session) {
        if self.still.borrow_mut().remove(&session.id).is_none() {
            self.waits_less();
        }
    }

    /// Which time this is that the worker holds; `None` while those that wait for a place need not stand still.
    pub fn round(&self) -> Option<u64> {
        self.takes_waiting().then(|| self.rounds.get())
    }

    /// The bytes of one more session flow.
    pub fn flows_more(&self) {
        self.flowing.set(self.flowing.get() + 1);
    }

    /// One of them is over.
    pub fn flows_less(&self) {
        self.flowing.set(self.flowing.get() - 1);
    }

    /// Puts one aside.
    pub fn keep(&self, session: Rc<Session>, flow: Flow) {
        self.flows_less();
        self.put(Aside::Flowing(session, flow));
    }

    /// Adds one.
    pub fn put(&self, aside: Aside) {
        self.aside.borrow_mut().push(aside);
        self.came.notify_one();
    }

    /// Has those sent that were not yet: `send` sends the first of them and says how many. Returns how many were sent by now.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send<E>(&self, mut send: impl FnMut(&[Aside]) -> Result<usize, E>) -> Result<usize, E> {
        // Those whose bytes flow first, as messages have them; and so most messages are of one sort.
        self.aside.borrow_mut()[self.sent.get()..].sort_by_key(|aside| !matches!(aside, Aside::Flowing(..)));
        let aside = self.aside.borrow();
        while self.sent.get() < aside.len() {
            self.sent.set(self.sent.get() + send(&aside[self.sent.get()..])?);
        }
        Ok(aside.len())
    }

    /// Takes those that were sent.
    pub fn take_sent(&self) -> Vec<Aside> {
        self.aside.borrow_mut().drain(..self.sent.take()).collect()
    }

    /// Takes all.
    pub fn take(&self) -> Vec<Aside> {
        self.sent.set(0);
        std::mem::take(&mut *self.aside.borrow_mut())
    }

    /// Waits until one more is put aside.
    pub async fn came(&self) {
        self.came.notified().await;
    }
}

impl Worker {
    /// Puts every session aside whose bytes flow, now and from now on, and what else is wanted. Those that are still set up
    /// go on until theirs flow.
    pub async fn hold(&self, besides: Besides) {
        self.held.begin(besides);
        self.sessions.for_each(|session| session.wake());
        while self.held.flowing.get() > 0 || (self.held.takes_waiting() && self.held.waiting.get() > 0) {
            self.held.came().await;
        }
    }

    /// Lets all go on.
    pub fn release(self: &Rc<Self>) {
        self.held.holds.set(false);
        for session in self.held.still.take().into_values() {
            self.held.waits_more();
            session.wake();
        }
        for aside in self.held.take() {
            match aside {
                Aside::Flowing(session, flow) => drop(spawn_local(go_on(self, session, flow))),
                // It is awake.
                Aside::Waiting(..) => {}
                Aside::Resumed(session, ticket, turn) => drop(spawn_local(resume(self, session, ticket, turn))),
            }
        }
    }
}
