//! Sessions on their way to the process that takes our place: several in one message, with their sockets and what is on the
//! way between them. What they have in common, their listeners, pools and backends, is said once in each message.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::forward::{Flow, FlowCopy};
use super::record;
use super::session::Session;
use super::session::carry::{Places, SessionCopy, Shares};
use super::view::carry::{BackendCopy, ListenerCopy, PoolCopy};
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::state::{Heirs, Matching};
use crate::sys::channel::{Channel, MOST_DESCRIPTORS, Parcel};
use crate::sys::clock::monotonic_ns;

/// Descriptors of one session at most: two sockets and two pipes.
const MOST_OF_ONE: usize = 6;
/// A message is sent once it is as long as this.
const ENOUGH: usize = 256 * 1024;

/// One message.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Batch {
    listeners: Vec<ListenerCopy>,
    pools: Vec<PoolCopy>,
    backends: Vec<BackendCopy>,
    sessions: Vec<(SessionCopy, FlowCopy)>,
}

/// Places of things that many have, by their address in memory.
struct Known<T>(HashMap<*const T, usize>);

impl<T> Known<T> {
    fn place<C>(&mut self, one: &Rc<T>, all: &mut Vec<C>, copy: impl FnOnce(&T) -> C) -> usize {
        *self.0.entry(Rc::as_ptr(one)).or_insert_with(|| {
            all.push(copy(one));
            all.len() - 1
        })
    }
}

/// Sends those that the worker has put aside, as messages of `kind`; they stay here. Returns how many were sent by now.
///
/// # Errors
/// When the other end does not take them.
pub fn send_held(worker: &Worker, channel: &Channel, kind: u32) -> io::Result<u64> {
    worker.held.send(|rest| send_some(rest, channel, kind)).map(|count| count as u64)
}

/// Sends the first ones, as many as fit in a message. Returns how many.
fn send_some(held: &[(Rc<Session>, Flow)], channel: &Channel, kind: u32) -> io::Result<usize> {
    let now_ns = monotonic_ns();
    let mut batch = Batch::default();
    let (mut listeners, mut pools, mut backends) =
        (Known(HashMap::new()), Known(HashMap::new()), Known(HashMap::new()));
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::<BorrowedFd<'_>>::new());
    for (session, flow) in held {
        if descriptors.len() + MOST_OF_ONE > MOST_DESCRIPTORS || bytes.len() >= ENOUGH {
            break;
        }
        let facts = session.facts.borrow();
        let (Some(pool), Some(seat)) = (&facts.pool, &facts.seat) else { unreachable!("bytes flow only to a backend") };
        let shares = Places {
            listener: listeners.place(&session.listener, &mut batch.listeners, ListenerCopy::of),
            pool: pools.place(pool, &mut batch.pools, PoolCopy::of),
            backend: backends.place(seat.backend(), &mut batch.backends, BackendCopy::of),
        };
        let session = SessionCopy::of(session, shares, now_ns);
        batch.sessions.push((session, flow.copy_to(&mut bytes, &mut descriptors)));
    }
    let head = serde_json::to_vec(&batch)?;
    let mut message = (head.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(&head);
    message.extend_from_slice(&bytes);
    channel.send(kind, &message, &descriptors)?;
    Ok(batch.sessions.len())
}

/// Takes the sessions of a message and puts them aside. After an error some of them may be there.
///
/// # Errors
/// `InvalidData` when the message makes no sense; those of registering sockets.
pub fn take_up(worker: &Worker, parcel: Parcel, heirs: &Heirs) -> io::Result<u64> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (length, rest) = parcel.bytes.split_first_chunk::<4>().ok_or_else(invalid)?;
    let (head, mut bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(invalid)?;
    let batch: Batch = serde_json::from_slice(head)?;
    let listeners: Vec<_> = batch.listeners.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let pools: Vec<_> = batch.pools.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let backends: Vec<_> = batch.backends.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let mut descriptors = parcel.descriptors.into_iter();
    let now_ns = monotonic_ns();
    let count = batch.sessions.len() as u64;
    for (session, flow) in batch.sessions {
        let Places { listener, pool, backend } = session.shares;
        let shares = Shares {
            listener: Rc::clone(listeners.get(listener).ok_or_else(invalid)?),
            pool: Rc::clone(pools.get(pool).ok_or_else(invalid)?),
            backend: Rc::clone(backends.get(backend).ok_or_else(invalid)?),
        };
        let flow = Flow::from_copy(&flow, &mut bytes, &mut descriptors, &worker.pipes)?;
        let session = worker.sessions.enter(|slot| session.revive(slot, shares, now_ns));
        record::taken_over(worker, &session);
        worker.held.put(session, flow);
    }
    Ok(count)
}

/// Lets go of those that were sent: another process has them. Nothing is recorded, and their sockets are closed without a
/// word on the wire.
pub fn let_go(worker: &Worker) {
    for (session, flow) in worker.held.take_sent() {
        flow.let_go(&worker.pipes);
        record::left_to_another(worker, &session);
    }
}

/// Sends sessions that were still set up when the others went, each once its bytes flow; runs until it is dropped, or
/// until the other process is gone.
pub async fn send_late(worker: &Rc<Worker>, channel: &Channel, kind: u32) {
    loop {
        if let Err(error) = send_held(worker, channel, kind) {
            tracing::error!(%error, "sessions could not be handed over late, and end here");
            let_go(worker);
            worker.end(&Matching::All, CloseReason::Shutdown, usize::MAX);
            return worker.release();
        }
        let_go(worker);
        worker.held.came().await;
    }
}

impl Worker {
    /// Goes on at once with sessions that come late.
    pub fn take_up_late(self: &Rc<Self>, parcel: Parcel, heirs: &Heirs) {
        if let Err(error) = take_up(self, parcel, heirs) {
            tracing::error!(%error, "a session that came late could not be taken up, and ends");
        }
        self.release();
    }
}
