//! Where a worker's thread runs.

use super::worker::Worker;
use crate::sys::limits;

/// Where a worker runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// On this CPU.
    Cpu(usize),
    /// Wherever the process may.
    Anywhere(Vec<usize>),
}

impl Worker {
    /// Runs there; called by the worker's own thread. Where that fails only speed suffers.
    pub fn run_at(&self, place: &Place) {
        match place {
            Place::Cpu(cpu) => self.pinned.set(limits::run_on(&[*cpu])),
            // One that never was pinned is left to follow the process's own set.
            Place::Anywhere(all) if self.pinned.take() => _ = limits::run_on(all),
            Place::Anywhere(_) => {}
        }
    }
}
