//! A worker's pipes for splicing: taken to be filled, given back as soon as they are empty. A pipe with bytes inside is
//! never given back.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::state::Shared;
use crate::sys::limits;
use crate::sys::pipe::Pipe;

/// Empty pipes kept for the next taker. Only a stuck direction keeps one beyond its turn, and those are few.
const MOST_FREE: usize = 8;
/// A smaller pipe than this is worse than copying (the kernel gives two pages once the user's budget is spent).
const LEAST_USEFUL: usize = 64 * 1024;

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    free: RefCell<Vec<Pipe>>,
    /// Capacity asked for. Without CAP_SYS_RESOURCE the kernel counts all that pipes could hold, also empty ones, against
    /// `fs.pipe-user-pages-soft`; but only stuck directions hold a pipe.
    capacity: Cell<usize>,
    /// Most bytes that a socket takes before it has sent them.
    unsent_limit: u32,
    shared: Arc<Shared>,
    worker: usize,
}

impl Pipes {
    /// An empty pool.
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let setting = limits::sysctl("net/ipv4/tcp_notsent_lowat");
        let unsent_limit = setting.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
        Self { free: RefCell::new(Vec::new()), capacity: Cell::new(0), unsent_limit, shared, worker }
    }

    /// Most bytes that a socket takes before it has sent them, `u32::MAX` without a limit
    /// (`net.ipv4.tcp_notsent_lowat` when the daemon started, `tcp(7)`).
    pub const fn unsent_limit(&self) -> u32 {
        self.unsent_limit
    }

    /// Asks for pipes of another capacity from now on.
    pub fn set_capacity(&self, bytes: usize) {
        if self.capacity.replace(bytes) != bytes {
            self.trim();
        }
    }

    /// Bytes that a pipe is to hold.
    pub const fn capacity(&self) -> usize {
        self.capacity.get()
    }

    /// Whether there are pipes with bytes inside: every direction that could deliver has given its own back.
    pub fn some_are_stuck(&self) -> bool {
        self.shared.workers[self.worker].pipes_in_use.load(Ordering::Relaxed) > 0
    }

    /// A pipe, or `None` when none can be had; that is counted, and the caller copies and asks again later.
    pub fn take(&self) -> Option<Pipe> {
        let counters = &self.shared.workers[self.worker];
        let pipe = self.free.borrow_mut().pop();
        let pipe = pipe.or_else(|| Pipe::open(self.capacity.get()).ok().filter(|pipe| pipe.capacity() >= LEAST_USEFUL));
        if pipe.is_some() {
            counters.pipes_in_use.fetch_add(1, Ordering::Relaxed);
        } else {
            counters.pipe_fallbacks.add(1);
        }
        pipe
    }

    /// Takes back an empty pipe.
    pub fn give_back(&self, pipe: Pipe) {
        self.count_out();
        let mut free = self.free.borrow_mut();
        if free.len() < MOST_FREE {
            free.push(pipe);
        }
    }

    /// A pipe that another process filled is in use here.
    pub fn count_in(&self) {
        self.shared.workers[self.worker].pipes_in_use.fetch_add(1, Ordering::Relaxed);
    }

    /// A pipe was closed with bytes inside.
    pub fn count_out(&self) {
        self.shared.workers[self.worker].pipes_in_use.fetch_sub(1, Ordering::Relaxed);
    }

    /// Closes pipes that nobody needs now.
    pub fn trim(&self) {
        self.free.borrow_mut().clear();
    }
}
