//! Connects to a backend, and to the next one while nothing was written. Fifth stop of the spine.
//! The client notices nothing of a backend that refuses; a byte written to one backend is never sent to another.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::net::TcpStream;

use super::refuse::Stop;
use super::session::Session;
use super::view::{BackendBrief, PoolView};
use super::worker::Worker;
use crate::decide::balance::Tried;
use crate::decide::close::CloseReason;
use crate::state::ConnectError;
use crate::sys::clock::coarse_ms;
use crate::sys::socket;

/// An established connection to a backend.
#[derive(Debug)]
pub struct Connected {
    /// The socket.
    pub stream: TcpStream,
    /// First bytes that the socket did not take at once.
    pub unsent: Vec<u8>,
    /// First bytes that it took.
    pub sent: usize,
}

/// Picks backends in turn until one answers and takes the first bytes.
pub async fn connect(
    worker: &Rc<Worker>,
    session: &Session,
    pool: &PoolView,
    mut first: Vec<u8>,
) -> Result<Connected, Stop> {
    let mut tried = Tried::default();
    let mut last_failure: Option<Stop> = None;
    while tried.count() < pool.pool.config.connect_tries {
        let Some(seat) = pool.pick(&mut tried, session.client, worker.random()) else { break };
        let backend = Rc::clone(seat.backend());
        {
            // The seat belongs to the session from the pick on, so that orders to end find it; the one before, if
            // any, is given up. The last one stays, so that the record names the backend.
            let mut facts = session.facts.borrow_mut();
            facts.tries = tried.count();
            facts.seat = Some(seat);
        }
        match attempt(worker, session, pool, &backend, &first).await {
            Ok((stream, sent)) => {
                first.drain(..sent);
                return Ok(Connected { stream, unsent: first, sent });
            }
            // The backend went down while we waited for it: that is one more failure, not the end of the session.
            Err(Failure::Ordered(CloseReason::BackendDown)) => session.forget_order(),
            Err(Failure::Ordered(reason)) => return Err(reason.into()),
            Err(Failure::Connect(kind, error)) => {
                last_failure = Some(count_failure(&backend, kind, &error, &tried, pool));
                // Its failure may just have brought it down, with an order to end everything there.
                if session.ordered() == Some(CloseReason::BackendDown) {
                    session.forget_order();
                }
            }
        }
    }
    Err(last_failure.unwrap_or_else(|| {
        pool.brief.shard().unavailable.add(1);
        let detail = format!("no backend of pool {} takes connections", pool.pool.config.name);
        Stop::new(CloseReason::NoBackend).because(detail)
    }))
}

enum Failure {
    /// The session was asked to end meanwhile.
    Ordered(CloseReason),
    /// The backend did not take the connection.
    Connect(ConnectError, io::Error),
}

async fn attempt(
    worker: &Rc<Worker>,
    session: &Session,
    pool: &PoolView,
    brief: &BackendBrief,
    first: &[u8],
) -> Result<(TcpStream, usize), Failure> {
    let begun = Instant::now();
    let timeout = pool.pool.config.connect_timeout;
    let deadline = coarse_ms() + timeout.as_millis() as u64;
    let started = socket::start_connect(brief.backend.address).map_err(sorted)?;
    // Registered before a byte is written: what can fail here still lets another backend be tried.
    let stream = TcpStream::from_std(started.into()).map_err(|error| Failure::Connect(ConnectError::Local, error))?;
    if !first.is_empty() {
        // Over loopback, and on the way to a container, the connection is established already: one wake-up less.
        // Past the runtime, which knows of no readiness yet.
        match socket::send_now(&stream, first) {
            Ok(sent) => return Ok((stream, established(session, brief, begun, sent))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(sorted(error)),
        }
    }
    loop {
        match session.until(worker, deadline, CloseReason::ConnectTimeout, stream.writable()).await {
            Ok(ready) => ready.map_err(sorted)?,
            Err(CloseReason::ConnectTimeout) => {
                let error =
                    io::Error::new(io::ErrorKind::TimedOut, format!("timed out after {} ms", timeout.as_millis()));
                return Err(Failure::Connect(ConnectError::Timeout, error));
            }
            Err(ordered) => return Err(Failure::Ordered(ordered)),
        }
        let sent = if first.is_empty() {
            // Nothing to write yet: ask the socket what became of it (connect(2), EINPROGRESS).
            stream.take_error().map(|error| error.map_or(Ok(0), Err)).and_then(|result| result)
        } else {
            stream.try_write(first)
        };
        match sent {
            Ok(sent) => return Ok((stream, established(session, brief, begun, sent))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(sorted(error)),
        }
    }
}

fn sorted(error: io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ if socket::is_unreachable(&error) => ConnectError::Unreachable,
        _ if socket::is_local(&error) => ConnectError::Local,
        _ => ConnectError::Other,
    };
    Failure::Connect(kind, error)
}

/// Takes note of an established connection that took `sent` first bytes.
fn established(session: &Session, brief: &BackendBrief, begun: Instant, sent: usize) -> usize {
    let now = Instant::now();
    let mut facts = session.facts.borrow_mut();
    facts.connect_time = Some((now - begun).into());
    facts.sent_time = Some((now - session.started).into());
    forgive(brief);
    sent
}

/// A success ends a row of failures. Read first: the line is shared by all workers and usually clean.
fn forgive(brief: &BackendBrief) {
    let failures = &brief.backend.live_failures;
    if failures.load(Ordering::Relaxed) != 0 {
        failures.store(0, Ordering::Relaxed);
    }
}

fn count_failure(brief: &BackendBrief, kind: ConnectError, error: &io::Error, tried: &Tried, pool: &PoolView) -> Stop {
    brief.shard().connect_errors[kind as usize].add(1);
    if kind != ConnectError::Local {
        // Health is told of what the backend did, never of what this machine lacks.
        brief.backend.live_failures.fetch_add(1, Ordering::Relaxed);
        brief.backend.failed.notify_one();
    }
    let reason = match kind {
        ConnectError::Refused | ConnectError::Other => CloseReason::ConnectRefused,
        ConnectError::Timeout => CloseReason::ConnectTimeout,
        ConnectError::Unreachable => CloseReason::ConnectUnreachable,
        ConnectError::Local => CloseReason::LocalError,
    };
    let detail = format!(
        "connect to {}: {error} (try {} of {})",
        brief.backend.address,
        tried.count(),
        pool.pool.config.connect_tries
    );
    Stop::new(reason).because(detail)
}
