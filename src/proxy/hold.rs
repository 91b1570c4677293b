//! Sessions at a standstill: while a worker holds, each whose bytes flow is put aside at its next turn, as it is, and of each
//! that waits for a place a copy. They go on in this process or in the one that takes its place.

use std::cell::{Cell, RefCell};
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
    pub fn takes_waiting(&self) -> bool {
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
    }

    /// One more waits for a place.
    pub fn waits_more(&self) {
        self.waiting.set(self.waiting.get() + 1);
    }

    /// It does not any more, or stands still.
    pub fn waits_less(&self) {
        self.waiting.set(self.waiting.get() - 1);
        self.came.notify_one();
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
        for aside in self.held.take() {
            match aside {
                Aside::Flowing(session, flow) => drop(spawn_local(go_on(self, session, flow))),
                Aside::Waiting(session, _) => session.wake(),
                Aside::Resumed(session, ticket, turn) => drop(spawn_local(resume(self, session, ticket, turn))),
            }
        }
    }
}
