//! Sessions on their way to the process that takes our place: several in one message, with their sockets and what is on the
//! way between them. What they have in common, their listeners, pools and backends, is said once in each message.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::forward::{Flow, FlowCopy};
use super::hold::{Aside, Besides};
use super::queue::carry::{Ticket, TicketCopy};
use super::record;
use super::session::carry::{Places, SessionCopy, Shares};
use super::view::carry::{BackendCopy, ListenerCopy, PoolCopy};
use super::worker::Worker;
use crate::decide::close::CloseReason;
use crate::state::{Heirs, Matching, Turn};
use crate::sys::channel::{MOST_DESCRIPTORS, Parcel, Passage};
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
    /// Not in format 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<(SessionCopy, TicketCopy)>,
}

impl Batch {
    const fn len(&self) -> usize {
        self.sessions.len() + self.waiting.len()
    }
}

/// When sessions come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// With all others, before anybody else is here.
    WithAll,
    /// Once they were set up so far, when this process has long begun.
    Late,
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

/// What goes over besides sessions whose bytes flow.
pub const fn besides(passage: &Passage) -> Besides {
    if passage.format > 1 { Besides::Waiting } else { Besides::Nothing }
}

/// Sends those that the worker has put aside; they stay here. Returns how many were sent by now.
///
/// # Errors
/// When the other end does not take them.
pub fn send_held(worker: &Worker, passage: &Passage) -> io::Result<u64> {
    worker.held.send(|rest| send_some(rest, passage)).map(|count| count as u64)
}

/// Sends the first ones, as many as fit in a message. Returns how many. Those whose bytes flow come first, and so do their bytes and
/// descriptors, as the reader takes them.
fn send_some(held: &[Aside], passage: &Passage) -> io::Result<usize> {
    let now_ns = monotonic_ns();
    let mut batch = Batch::default();
    let (mut listeners, mut pools, mut backends) =
        (Known(HashMap::new()), Known(HashMap::new()), Known(HashMap::new()));
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::<BorrowedFd<'_>>::new());
    for aside in held {
        if descriptors.len() + MOST_OF_ONE > MOST_DESCRIPTORS || bytes.len() >= ENOUGH {
            break;
        }
        let (Aside::Flowing(session, _) | Aside::Waiting(session, _) | Aside::Resumed(session, ..)) = aside;
        let facts = session.facts.borrow();
        let Some(pool) = &facts.pool else { unreachable!("nobody is put aside before there is a pool") };
        let shares = Places {
            listener: listeners.place(&session.listener, &mut batch.listeners, ListenerCopy::of),
            pool: pools.place(pool, &mut batch.pools, PoolCopy::of),
            backend: facts
                .seat
                .as_ref()
                .map(|seat| backends.place(seat.backend(), &mut batch.backends, BackendCopy::of)),
        };
        let session = SessionCopy::of(session, shares, now_ns);
        match aside {
            Aside::Flowing(_, flow) => {
                let mut flow = flow.copy_to(&mut bytes, &mut descriptors);
                if passage.format == 1 {
                    flow.complete_for_format_1();
                }
                batch.sessions.push((session, flow));
            }
            Aside::Waiting(_, ticket) | Aside::Resumed(_, ticket, _) => {
                batch.waiting.push((session, ticket.copy_to(&mut bytes, &mut descriptors)));
            }
        }
    }
    let head = serde_json::to_vec(&batch)?;
    let mut message = (head.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(&head);
    message.extend_from_slice(&bytes);
    passage.channel.send(passage.kind, &message, &descriptors)?;
    Ok(batch.len())
}

/// Takes the sessions of a message and puts them aside. After an error some of them may be there.
///
/// # Errors
/// `InvalidData` when the message makes no sense; those of registering sockets.
pub fn take_up(worker: &Worker, parcel: Parcel, heirs: &Heirs, comes: Comes) -> io::Result<u64> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (length, rest) = parcel.bytes.split_first_chunk::<4>().ok_or_else(invalid)?;
    let (head, mut bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(invalid)?;
    let batch: Batch = serde_json::from_slice(head)?;
    let listeners: Vec<_> = batch.listeners.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let pools: Vec<_> = batch.pools.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let backends: Vec<_> = batch.backends.iter().map(|copy| copy.find(heirs, worker.id)).collect();
    let mut descriptors = parcel.descriptors.into_iter();
    let now_ns = monotonic_ns();
    let count = batch.len() as u64;
    let shares = |Places { listener, pool, backend }: Places| {
        io::Result::Ok(Shares {
            listener: Rc::clone(listeners.get(listener).ok_or_else(invalid)?),
            pool: Rc::clone(pools.get(pool).ok_or_else(invalid)?),
            backend: backend.map(|backend| backends.get(backend).map(Rc::clone).ok_or_else(invalid)).transpose()?,
        })
    };
    let enter = |session: SessionCopy, shares| {
        let session = worker.sessions.enter(|slot| session.revive(slot, shares, now_ns));
        record::taken_over(worker, &session);
        session
    };
    for (mut session, flow) in batch.sessions {
        session.count(flow.uncounted());
        let shares = shares(session.shares)?;
        if shares.backend.is_none() {
            return Err(invalid());
        }
        let flow = Flow::from_copy(&flow, &mut bytes, &mut descriptors, &worker.pipes)?;
        worker.held.put(Aside::Flowing(enter(session, shares), flow));
    }
    for (session, ticket) in batch.waiting {
        let shares = shares(session.shares)?;
        let ticket = Ticket::from_copy(&ticket, &mut bytes, &mut descriptors)?;
        // The number of one that comes late may be somebody else's here.
        let number = Some(ticket.turn).filter(|_| comes == Comes::WithAll);
        // Before anybody else can join the line.
        let turn = Turn::join(&shares.pool.state, number);
        worker.held.put(Aside::Resumed(enter(session, shares), ticket, turn));
    }
    Ok(count)
}

/// Lets go of those that were sent: another process has them. Nothing is recorded, and their sockets are closed without a
/// word on the wire.
pub fn let_go(worker: &Worker) {
    for aside in worker.held.take_sent() {
        match aside {
            Aside::Flowing(session, flow) => {
                flow.let_go(&worker.pipes);
                record::left_to_another(worker, &session);
            }
            // Those have tasks, which end by themselves.
            Aside::Waiting(session, _) => session.leave(),
            Aside::Resumed(session, ..) => record::left_to_another(worker, &session),
        }
    }
}

/// Sends sessions that were still set up when the others went, each once its bytes flow or it waits for a place; runs until
/// it is dropped, or until the other process is gone.
pub async fn send_late(worker: &Rc<Worker>, passage: &Passage) {
    loop {
        if let Err(error) = send_held(worker, passage) {
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
        if let Err(error) = take_up(self, parcel, heirs, Comes::Late) {
            tracing::error!(%error, "a session that came late could not be taken up, and ends");
        }
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::state::missing_fields;

    /// What a build of 2026-11-28 (commit 56d466b) sent in format 1: two sessions.
    #[test]
    fn sessions_of_an_older_build_are_understood_and_it_is_sent_all_that_it_knows() {
        let then: Value =
            serde_json::from_str(include_str!("../../tests/data/hand-over-1/sessions.json")).expect("JSON");
        let mut ours = then.clone();
        for session in ours["sessions"].as_array_mut().expect("a list") {
            for way in ["up", "down"] {
                session[1][way].as_object_mut().expect("fields").remove("credit").expect("in format 1");
            }
        }
        let _: Batch = serde_json::from_value(then.clone()).expect("sessions");
        let mut batch: Batch = serde_json::from_value(ours).expect("sessions");
        assert_eq!((batch.sessions.len(), batch.waiting.len()), (2, 0));
        assert!(batch.sessions.iter().all(|(session, _)| session.shares.backend == Some(0)));
        // As this process writes its own.
        let now = serde_json::to_value(&batch).expect("JSON");
        assert_eq!(missing_fields(&now, &then), ["credit"; 4], "format 2");
        batch.sessions.iter_mut().for_each(|(_, flow)| flow.complete_for_format_1());
        let now = serde_json::to_value(&batch).expect("JSON");
        assert_eq!(missing_fields(&now, &then), Vec::<String>::new(), "format 1");
        assert!(now.get("waiting").is_none());
    }

    /// In format 1 a session that goes over before its first turn has the bytes of its hello delivered and not counted.
    #[test]
    fn what_an_older_build_delivered_and_did_not_count_is_counted() {
        let mut then: Value =
            serde_json::from_str(include_str!("../../tests/data/hand-over-1/sessions.json")).expect("JSON");
        then["sessions"][0][1]["up"]["credit"] = 517.into();
        let mut batch: Batch = serde_json::from_value(then.clone()).expect("sessions");
        let copied = |session: &SessionCopy| serde_json::to_value(session).expect("JSON")["copied"].clone();
        for ((session, flow), more) in batch.sessions.iter_mut().zip([517, 0]) {
            assert_eq!(flow.uncounted(), [more, 0]);
            let before = copied(session);
            session.count(flow.uncounted());
            let up = before[0].as_u64().expect("a number");
            assert_eq!(copied(session), serde_json::json!([up + more, before[1]]));
        }
    }
}
