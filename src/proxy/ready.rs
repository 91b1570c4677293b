//! Ready connections: established before a client needs them, so that a new session saves the round trip to its backend.
//! Only for clients that speak first: a server that speaks first would have spoken already. They are given up first
//! when places or descriptors run short, and never counted as a backend's load before they are used.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::connect::start;
use super::faults::essential;
use super::view::{BackendBrief, PoolView};
use super::worker::Worker;
use crate::decide::balance::MemberId;
use crate::state::{HealthIgnored, Taken};
use crate::sys::clock::coarse_ms;
use crate::sys::socket;

/// How often ready connections are looked at.
const TICK: Duration = Duration::from_millis(500);
/// After a failed attempt a backend is left alone for this long.
const RETRY_MS: u64 = 1000;

/// The ready connections of one pool on one worker.
#[derive(Debug)]
pub struct Ready(Box<[Shelf]>);

/// Those to one backend, the oldest first.
#[derive(Debug, Default)]
struct Shelf {
    connections: RefCell<VecDeque<(TcpStream, u64)>>,
    /// On their way.
    coming: Cell<u16>,
    not_before_ms: Cell<u64>,
}

impl Ready {
    /// No connections yet, for so many backends; for none where the pool wants none.
    pub fn new(backends: usize) -> Self {
        Self((0..backends).map(|_| Shelf::default()).collect())
    }

    /// A connection that is still good, the youngest; those that are not are discarded on the way.
    pub fn take(&self, member: MemberId, backend: &BackendBrief) -> Option<TcpStream> {
        let mut connections = self.0.get(member)?.connections.borrow_mut();
        while let Some((stream, _)) = connections.pop_back() {
            backend.shard().ready.fetch_sub(1, Ordering::Relaxed);
            if socket::is_quiet(&stream) {
                backend.shard().ready_used.add(1);
                return Some(stream);
            }
            backend.shard().ready_discarded.add(1);
        }
        None
    }
}

impl PoolView {
    /// Discards what is old, closed or not wanted any more, and starts what is missing.
    fn tend(self: &Rc<Self>, worker: &Rc<Worker>, wanted: u16, now: u64) {
        let idle = self.pool.config.preconnect_idle.as_millis() as u64;
        for (member, (shelf, backend)) in self.ready.0.iter().zip(&self.backends).enumerate() {
            let wanted =
                if backend.backend.takes(HealthIgnored::No) { wanted.min(self.spare(worker, backend)) } else { 0 };
            let mut connections = shelf.connections.borrow_mut();
            let before = connections.len();
            connections.retain(|(stream, since)| now < since + idle && nothing_came(stream));
            let surplus = connections.len().saturating_sub(wanted.into());
            connections.drain(..surplus);
            let discarded = before - connections.len();
            backend.shard().ready.fetch_sub(discarded as i64, Ordering::Relaxed);
            backend.shard().ready_discarded.add(discarded as u64);
            let there = connections.len() as u16 + shelf.coming.get();
            drop(connections);
            if now >= shelf.not_before_ms.get() {
                for _ in there..wanted {
                    shelf.coming.set(shelf.coming.get() + 1);
                    spawn_local(essential(Rc::clone(self).bring(Rc::clone(worker), member)));
                }
            }
        }
    }

    /// This worker's part of what the backend and the pool may still take: none is kept of what clients will need.
    fn spare(&self, worker: &Worker, backend: &BackendBrief) -> u16 {
        let left = |taken: &Taken| taken.limit().map_or(u32::MAX, |limit| limit.saturating_sub(taken.count()));
        let left = left(&backend.backend.active).min(left(&self.pool.state.places.taken));
        u16::try_from(left as usize / worker.staff.get()).unwrap_or(u16::MAX)
    }

    /// Brings one connection.
    async fn bring(self: Rc<Self>, worker: Rc<Worker>, member: MemberId) {
        let (shelf, backend) = (&self.ready.0[member], &self.backends[member]);
        let connecting = async {
            let stream = TcpStream::from_std(start(&self, backend.backend.address, false, worker.random())?.into())?;
            stream.writable().await?;
            stream.take_error()?.map_or(Ok(stream), Err)
        };
        let result = timeout(self.pool.config.connect_timeout, connecting).await;
        shelf.coming.set(shelf.coming.get() - 1);
        if let Ok(Ok(stream)) = result {
            backend.shard().ready.fetch_add(1, Ordering::Relaxed);
            shelf.connections.borrow_mut().push_back((stream, coarse_ms()));
        } else {
            // Health hears of it from checks and clients; a connection that nobody waits for proves nothing.
            shelf.not_before_ms.set(coarse_ms() + RETRY_MS);
        }
    }
}

/// Whether a ready connection is still good as far as epoll has told, which costs no call. One that is about to be used
/// is asked itself.
fn nothing_came(stream: &TcpStream) -> bool {
    let looked = stream.try_io(Interest::READABLE, || {
        if socket::is_quiet(stream) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    looked.is_err()
}

impl Drop for PoolView {
    fn drop(&mut self) {
        for (shelf, backend) in self.ready.0.iter().zip(&self.backends) {
            backend.shard().ready.fetch_sub(shelf.connections.borrow().len() as i64, Ordering::Relaxed);
        }
    }
}

/// Runs for ever: keeps the ready connections of a worker's pools. Costs nothing where no pool wants any.
pub async fn keep(worker: Rc<Worker>) {
    loop {
        let pools = worker.pools();
        let mut any = false;
        for pool in pools.iter().filter(|pool| pool.pool.config.preconnect > 0) {
            any = true;
            let wanted = if worker.is_pressed() || worker.rests.get() { 0 } else { pool.pool.config.preconnect };
            pool.tend(&worker, wanted, coarse_ms());
        }
        // Not held while waiting: a reload is to let the old ones go.
        drop(pools);
        let woken = worker.ready_wanted.notified();
        if any {
            // Woken or not, there is something to look at.
            let _ = timeout(TICK, woken).await;
        } else {
            woken.await;
        }
    }
}
