//! Connects to a backend, and to the next one while nothing of the client's was written. Fifth stop of the spine.
//! The client notices nothing of a backend that refuses; a client's byte written to one backend is never sent to another.
//! What we say ourselves comes first: a PROXY header, in one write with the hello, and PostgreSQL's request for TLS.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::inspect::Inspected;
use super::refuse::Stop;
use super::session::Session;
use super::view::{BackendBrief, PoolView};
use super::worker::Worker;
use crate::decide::balance::Tried;
use crate::decide::close::CloseReason;
use crate::decide::hello::postgres::{SSL_REQUEST, SslAnswer, ssl_answer};
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

/// What is written to a backend first.
struct Opening {
    /// Ours, and the client's bytes behind it unless the backend must answer first.
    bytes: Vec<u8>,
    /// How many of them are ours.
    ours: usize,
    /// The client's bytes that wait for the backend's `S`.
    after_answer: Option<Vec<u8>>,
}

impl Opening {
    fn of(inspected: Inspected) -> Self {
        let Inspected { bytes: client, mut header, asks_for_tls, .. } = inspected;
        if asks_for_tls {
            header.extend_from_slice(&SSL_REQUEST);
            return Self { ours: header.len(), bytes: header, after_answer: Some(client) };
        }
        let ours = header.len();
        let bytes = if ours == 0 {
            client
        } else {
            header.extend_from_slice(&client);
            header
        };
        Self { bytes, ours, after_answer: None }
    }

    /// What the backend was not given yet, after it took `sent` of the client's bytes.
    fn into_unsent(self, sent: usize) -> Vec<u8> {
        let (mut bytes, taken) = match self.after_answer {
            Some(client) => (client, sent),
            None => (self.bytes, self.ours + sent),
        };
        bytes.drain(..taken);
        bytes
    }
}

/// Picks backends in turn until one answers and takes the first bytes.
pub async fn connect(
    worker: &Rc<Worker>,
    session: &Session,
    pool: &PoolView,
    inspected: Inspected,
) -> Result<Connected, Stop> {
    let opening = Opening::of(inspected);
    let mut tried = Tried::default();
    let mut last_failure: Option<Stop> = None;
    while tried.count() < pool.pool.config.connect_tries {
        let Some(seat) = pool.pick(&mut tried, session.client(), worker.random()) else { break };
        let backend = Rc::clone(seat.backend());
        {
            // The seat belongs to the session from the pick on, so that orders to end find it; the one before, if
            // any, is given up. The last one stays, so that the record names the backend.
            let mut facts = session.facts.borrow_mut();
            facts.tries = tried.count();
            facts.seat = Some(seat);
        }
        match attempt(worker, session, pool, &backend, &opening).await {
            Ok((stream, sent)) => return Ok(Connected { stream, unsent: opening.into_unsent(sent), sent }),
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

/// Tries one backend. Returns the connection and how many of the client's bytes it took.
async fn attempt(
    worker: &Rc<Worker>,
    session: &Session,
    pool: &PoolView,
    brief: &BackendBrief,
    opening: &Opening,
) -> Result<(TcpStream, usize), Failure> {
    let begun = Instant::now();
    let timeout = pool.pool.config.connect_timeout;
    let deadline = Deadline { at_ms: coarse_ms() + timeout.as_millis() as u64, timeout };
    let started = socket::start_connect(brief.backend.address).map_err(sorted)?;
    // Registered before a byte is written: what can fail here still lets another backend be tried.
    let stream = TcpStream::from_std(started.into()).map_err(|error| Failure::Connect(ConnectError::Local, error))?;
    let mut sent = 0;
    let mut connected = None;
    if !opening.bytes.is_empty() {
        // Over loopback, and on the way to a container, the connection is established already: one wake-up less.
        // Past the runtime, which knows of no readiness yet.
        match socket::send_now(&stream, &opening.bytes) {
            Ok(count) => {
                sent = count;
                connected = Some(begun.elapsed());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(sorted(error)),
        }
    }
    // Until it is established and what we say ourselves is gone; what is left of the client's bytes is the flow's.
    while connected.is_none() || sent < opening.ours {
        deadline.wait(worker, session, stream.writable()).await?;
        let rest = &opening.bytes[sent..];
        let result = if rest.is_empty() {
            // Nothing to write yet: ask the socket what became of it (connect(2), EINPROGRESS).
            stream.take_error().map(|error| error.map_or(Ok(0), Err)).and_then(|result| result)
        } else {
            stream.try_write(rest)
        };
        match result {
            Ok(count) => {
                sent += count;
                connected.get_or_insert_with(|| begun.elapsed());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(sorted(error)),
        }
    }
    let sent = match &opening.after_answer {
        None => sent - opening.ours,
        Some(client) => {
            let deadline = Deadline { at_ms: coarse_ms() + timeout.as_millis() as u64, timeout };
            await_consent(worker, session, &stream, deadline).await?;
            match stream.try_write(client) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(sorted(error)),
            }
        }
    };
    let mut facts = session.facts.borrow_mut();
    facts.connect_time = connected.map(Into::into);
    facts.sent_time = Some(session.started.elapsed().into());
    forgive(brief);
    Ok((stream, sent))
}

/// When an attempt is late, and how long it had.
#[derive(Clone, Copy)]
struct Deadline {
    at_ms: u64,
    timeout: Duration,
}

impl Deadline {
    async fn wait(
        self,
        worker: &Worker,
        session: &Session,
        ready: impl Future<Output = io::Result<()>>,
    ) -> Result<(), Failure> {
        match session.until(worker, self.at_ms, CloseReason::ConnectTimeout, ready).await {
            Ok(ready) => ready.map_err(sorted),
            Err(CloseReason::ConnectTimeout) => {
                let text = format!("timed out after {} ms", self.timeout.as_millis());
                Err(Failure::Connect(ConnectError::Timeout, io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Err(ordered) => Err(Failure::Ordered(ordered)),
        }
    }
}

/// Waits for a server's answer to the request for TLS. Nothing of the client's is written before it consents, so that
/// after any other answer the next backend may be tried.
async fn await_consent(
    worker: &Worker,
    session: &Session,
    stream: &TcpStream,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut buffer = [0; 512];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(no_consent(ConnectError::Closed, "closed instead of answering SSLRequest")),
            Ok(count) => return judge(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                return Err(no_consent(ConnectError::Closed, format!("{error} instead of an answer to SSLRequest")));
            }
        }
        deadline.wait(worker, session, stream.readable()).await.map_err(|failure| match failure {
            Failure::Connect(ConnectError::Timeout, error) => {
                no_consent(ConnectError::Timeout, format!("answer to SSLRequest {error}"))
            }
            other => other,
        })?;
    }
}

fn judge(answer: &[u8]) -> Result<(), Failure> {
    Err(match ssl_answer(answer) {
        SslAnswer::Yes => return Ok(()),
        SslAnswer::No => no_consent(ConnectError::NoTls, "answered N to SSLRequest: it has no TLS"),
        SslAnswer::Error(text) => no_consent(ConnectError::ErrorResponse, format!("answered SSLRequest with: {text}")),
        SslAnswer::Surplus(count) => no_consent(
            ConnectError::BadAnswer,
            format!("sent {count} unencrypted bytes behind its answer to SSLRequest"),
        ),
        SslAnswer::Unknown(byte) => {
            no_consent(ConnectError::BadAnswer, format!("answered SSLRequest with byte {byte:#04x}: not PostgreSQL"))
        }
    })
}

fn no_consent(kind: ConnectError, text: impl Into<String>) -> Failure {
    Failure::Connect(kind, io::Error::other(text.into()))
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
        ConnectError::Refused | ConnectError::Other | ConnectError::ErrorResponse | ConnectError::Closed => {
            CloseReason::ConnectRefused
        }
        ConnectError::NoTls | ConnectError::BadAnswer => CloseReason::BackendRefusedTls,
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
