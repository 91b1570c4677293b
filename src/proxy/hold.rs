//! Sessions at a standstill: while a worker holds, each whose bytes flow is put aside at its next turn, as it is. They go on
//! in this process or in the one that takes its place.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::spawn_local;

use super::forward::Flow;
use super::session::{Session, go_on};
use super::worker::Worker;

/// What a worker holds.
#[derive(Debug, Default)]
pub struct Held {
    holds: Cell<bool>,
    /// Sessions whose bytes flow and that are not put aside.
    flowing: Cell<usize>,
    aside: RefCell<Vec<(Rc<Session>, Flow)>>,
    /// The first so many of these were sent to another process.
    sent: Cell<usize>,
    came: Notify,
}

impl Held {
    /// Whether sessions are put aside now.
    pub fn holds(&self) -> bool {
        self.holds.get()
    }

    /// Has sessions put aside from now on.
    pub fn begin(&self) {
        self.holds.set(true);
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
        self.put(session, flow);
    }

    /// Adds one that another process put aside.
    pub fn put(&self, session: Rc<Session>, flow: Flow) {
        self.aside.borrow_mut().push((session, flow));
        self.came.notify_one();
    }

    /// Has those sent that were not yet: `send` sends the first of them and says how many. Returns how many were sent by now.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send<E>(&self, mut send: impl FnMut(&[(Rc<Session>, Flow)]) -> Result<usize, E>) -> Result<usize, E> {
        let aside = self.aside.borrow();
        while self.sent.get() < aside.len() {
            self.sent.set(self.sent.get() + send(&aside[self.sent.get()..])?);
        }
        Ok(aside.len())
    }

    /// Takes those that were sent.
    pub fn take_sent(&self) -> Vec<(Rc<Session>, Flow)> {
        self.aside.borrow_mut().drain(..self.sent.take()).collect()
    }

    /// Takes all.
    pub fn take(&self) -> Vec<(Rc<Session>, Flow)> {
        self.sent.set(0);
        std::mem::take(&mut *self.aside.borrow_mut())
    }

    /// Waits until one more is put aside.
    pub async fn came(&self) {
        self.came.notified().await;
    }
}

impl Worker {
    /// Puts every session aside whose bytes flow, now and from now on. Those that are still set up go on until theirs flow.
    pub async fn hold(&self) {
        self.held.begin();
        self.sessions.for_each(|session| session.wake());
        while self.held.flowing.get() > 0 {
            self.held.came().await;
        }
    }

    /// Lets all go on.
    pub fn release(self: &Rc<Self>) {
        self.held.holds.set(false);
        for (session, flow) in self.held.take() {
            spawn_local(go_on(self, session, flow));
        }
    }
}
