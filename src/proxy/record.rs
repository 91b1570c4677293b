//! Last stop of the spine: counts and writes what became of a connection, exactly once for every accepted one.
//! How a record looks is said in `record_line.rs`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::faults;
use super::record_line::{Load, RecordLine};
use super::session::{Facts, Session};
use super::worker::Worker;
use crate::config::LogFormat;
use crate::decide::close::CloseReason;
use crate::sys::clock::coarse_ms;

/// A connection was accepted.
pub fn begun(worker: &Worker, session: &Session) {
    let shard = session.listener.shard();
    shard.total.add(1);
    shard.active.fetch_add(1, Ordering::Relaxed);
    worker.counters().connections.fetch_add(1, Ordering::Relaxed);
}

/// A connection that another process accepted goes on here; it is counted already.
pub fn taken_over(worker: &Worker, session: &Session) {
    session.listener.shard().active.fetch_add(1, Ordering::Relaxed);
    worker.counters().connections.fetch_add(1, Ordering::Relaxed);
    worker.shared.active.fetch_add(1, Ordering::Relaxed);
}

/// A connection goes on in another process, which counts what it moves from where the counters here stand, and records its
/// end.
pub fn left_to_another(worker: &Worker, session: &Session) {
    // Its place stays taken: nobody who waits here may have it, because the session goes on.
    std::mem::forget(session.facts.borrow_mut().seat.take());
    leave(worker, session);
}

/// A backend took the connection.
pub fn established(worker: &Worker, session: &Session) {
    let facts = session.facts.borrow();
    if let Some(pool) = &facts.pool {
        pool.shard().total.add(1);
    }
    if let Some(seat) = &facts.seat {
        seat.backend().shard().total.add(1);
    }
    drop(facts);
    if worker.records_starts() && worker.samples(session.id) {
        write(worker, session, None);
    }
}

/// The connection is over: counts, gives its places back, and writes the record.
pub fn finish(worker: &Worker, session: &Session, reason: CloseReason) {
    // Whatever becomes of its record, its places are given back.
    let recorded = faults::contained(|| {
        count(worker, session, reason);
        if worker.records_ends() && is_recorded(worker, session, reason) {
            faults::provoke("recording", || session.server_name());
            write(worker, session, Some(reason));
        }
    });
    if recorded.is_none() {
        worker.counters().faults.add(1);
    }
    leave(worker, session);
}

fn leave(worker: &Worker, session: &Session) {
    session.facts.borrow_mut().seat = None;
    session.listener.shard().active.fetch_sub(1, Ordering::Relaxed);
    worker.counters().connections.fetch_sub(1, Ordering::Relaxed);
    worker.give_place_back();
    worker.sessions.leave(session);
}

/// Whether the end has a record of its own. What has none is counted where that is decided.
fn is_recorded(worker: &Worker, session: &Session, reason: CloseReason) -> bool {
    match reason {
        CloseReason::Done => worker.samples(session.id),
        _ if reason.may_flood() => worker.refusals.take(&session.listener.state.name, reason, coarse_ms()),
        _ => true,
    }
}

fn count(worker: &Worker, session: &Session, reason: CloseReason) {
    let listener = session.listener.shard();
    if reason.is_refusal() {
        listener.rejected[reason.index()].add(1);
    }
    let facts = session.facts.borrow();
    let hello_failed = facts.hello.is_none()
        && matches!(
            reason,
            CloseReason::HelloTimeout
                | CloseReason::HelloMalformed
                | CloseReason::HelloTooLarge
                | CloseReason::NotTls
                | CloseReason::ClientGone
        );
    if hello_failed {
        listener.hello_failed[reason.index()].add(1);
    }
    if let Some(pool) = &facts.pool {
        pool.shard().closed[reason.index()].add(1);
    }
    if let (Some(seat), Some(_)) = (&facts.seat, facts.sent_time) {
        let brief = seat.backend();
        let took = session.started.elapsed();
        let [connect, first_byte] = [facts.connect_time, facts.first_byte_time].map(|time| time.map(Duration::from));
        brief.shard().observe(took, connect, first_byte);
        brief.backend.time(worker.id, |timings| timings.add(took, connect, first_byte));
    }
    drop(facts);
    report_bytes(worker, session);
}

/// Tells the counters of worker, listener and backend of the bytes since the last time.
pub fn report_bytes(worker: &Worker, session: &Session) {
    let fresh = session.moved.unreported();
    for (counter, bytes) in worker.counters().relayed.iter().zip(fresh) {
        counter.add(bytes);
    }
    let [copied_up, copied_down, spliced_up, spliced_down] = fresh;
    let (up, down) = (copied_up + spliced_up, copied_down + spliced_down);
    let listener = session.listener.shard();
    listener.bytes_up.add(up);
    listener.bytes_down.add(down);
    if let Some(seat) = &session.facts.borrow().seat {
        let backend = seat.backend().shard();
        backend.bytes_up.add(up);
        backend.bytes_down.add(down);
    }
}

fn write(worker: &Worker, session: &Session, reason: Option<CloseReason>) {
    let facts = session.facts.borrow();
    let line = line(session, &facts, reason);
    worker.record(|out, format| match format {
        LogFormat::Text => line.text(out),
        LogFormat::Json => line.json(out),
        LogFormat::TcpLog => line.tcplog(load(worker, session, &facts), out),
    });
}

fn line<'a>(session: &'a Session, facts: &'a Facts, end: Option<CloseReason>) -> RecordLine<'a> {
    RecordLine {
        time: jiff::Timestamp::now(),
        session: session.id,
        listener: &session.listener.state.name,
        client: session.client(),
        destination: session.destination(),
        hello: facts.hello.as_deref(),
        route: facts.route.as_deref().map(|route| &*route.origin),
        pool: facts.pool.as_ref().map(|pool| &*pool.state.name),
        backend: facts.seat.as_ref().map(|seat| &*seat.backend().backend.name),
        tries: facts.tries,
        hello_time: facts.hello_time.map(Duration::from),
        connect_time: facts.connect_time.map(Duration::from),
        first_byte_time: facts.first_byte_time.map(Duration::from),
        duration: session.started.elapsed(),
        bytes: [session.moved.up(), session.moved.down()],
        paths: [session.moved.path(0), session.moved.path(1)],
        end,
        detail: facts.detail(),
        via: facts.via(),
    }
}

fn load(worker: &Worker, session: &Session, facts: &Facts) -> Load {
    let active = |seat: &super::pick::Seat| seat.backend().backend.active.count();
    Load {
        process: worker.shared.active.load(Ordering::Relaxed),
        listener: session.listener.state.active(),
        backend: facts.seat.as_ref().map_or(0, active),
    }
}
