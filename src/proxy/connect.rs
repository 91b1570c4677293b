//! Connects to a backend, and to the next one while nothing of the client's was written. Fifth stop of the spine.
//! The client notices nothing of a backend that refuses; a client's byte written to one backend is never sent to another.
//! What we say ourselves comes first: a PROXY header, in one write with the hello, and PostgreSQL's request for TLS.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::net::TcpStream;

use super::client::Client;
use super::consent::await_consent;
use super::first_write::FirstWrite;
use super::pick::{NoSeat, Wanted, pick};
use super::queue::{InLine, wait, wait_or_refuse};
use super::refuse::Stop;
use super::session::Session;
use super::view::{BackendBrief, PoolView};
use super::worker::Worker;
use crate::config::FastOpen;
use crate::decide::balance::{MemberId, Tried};
use crate::decide::close::CloseReason;
use crate::decide::health::Sign;
use crate::state::ConnectError;
use crate::sys::clock::coarse_ms;
use crate::sys::socket::{self, Start};

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

/// Picks backends in turn until one answers and takes the first bytes. One that was `in_line` in another process begins there.
pub fn connect<'a>(
    worker: &'a Rc<Worker>,
    session: &'a Rc<Session>,
    mut pool: Rc<PoolView>,
    client: &'a mut Client,
    (first, key): (FirstWrite, Option<u64>),
    mut in_line: Option<InLine>,
) -> impl Future<Output = Result<Connected, Stop>> + use<'a> {
    let earlier = session.facts.borrow().tries;
    let mut wanted = Wanted { key, tried: Tried::default(), earlier };
    // A block, not a function: what it captures has its room in the future once, arguments would have it twice.
    async move {
        let mut last_failure: Option<Stop> = None;
        while in_line.is_some() || wanted.tries() < pool.pool.config.connect_tries {
            // Boxed, as all that few sessions wait for.
            let picked = match in_line.take() {
                Some(in_line) => {
                    Box::pin(wait(worker, session, &mut pool, client, (&mut wanted, &first), in_line)).await?
                }
                None => match pick(worker, session, &pool, &mut wanted) {
                    Ok(member) => Some(member),
                    Err(NoSeat::Nobody) => None,
                    Err(full) => {
                        let wanted = (&mut wanted, &first);
                        match Box::pin(wait_or_refuse(worker, session, &mut pool, client, wanted, full)).await {
                            // What a backend did says more than that the others are full.
                            Err(stop) if stop.reason == CloseReason::LimitReached => {
                                return Err(last_failure.unwrap_or(stop));
                            }
                            waited => waited?,
                        }
                    }
                },
            };
            let Some(member) = picked else { break };
            let backend = Rc::clone(&pool.backends[member]);
            match attempt(worker, session, &pool, (member, &backend), &first).await {
                Ok((stream, sent)) => return Ok(Connected { stream, unsent: first.into_unsent(sent), sent }),
                // The backend went down while we waited for it: that is one more failure, not the end of the session.
                Err(Failure::Ordered(CloseReason::BackendDown)) => session.forget_order(),
                Err(Failure::Ordered(reason)) => return Err(reason.into()),
                Err(Failure::Connect(kind, error)) => {
                    if kind == ConnectError::Local {
                        worker.note_exhaustion();
                    }
                    last_failure = Some(count_failure(&backend, kind, &error, wanted.tries(), &pool));
                    // Its failure may just have brought it down, with an order to end everything there.
                    if session.ordered() == Some(CloseReason::BackendDown) {
                        session.forget_order();
                    }
                }
                // The client's bytes may be there: nobody else may get them.
                Err(Failure::Exposed(kind, error)) => {
                    return Err(count_failure(&backend, kind, &error, wanted.tries(), &pool));
                }
            }
        }
        Err(last_failure.unwrap_or_else(|| {
            pool.brief.shard().unavailable.add(1);
            let detail = format!("no backend of pool {} takes connections", pool.pool.config.name);
            Stop::new(CloseReason::NoBackend).because(detail)
        }))
    }
}

/// Why a backend did not take a session.
pub enum Failure {
    /// The session was asked to end meanwhile.
    Ordered(CloseReason),
    /// The backend did not take the connection.
    Connect(ConnectError, io::Error),
    /// The same, but the client's bytes were in the SYN and may have arrived.
    Exposed(ConnectError, io::Error),
}

/// Tries one backend. Returns the connection and how many of the client's bytes it took.
async fn attempt(
    worker: &Rc<Worker>,
    session: &Session,
    pool: &PoolView,
    (member, brief): (MemberId, &BackendBrief),
    first: &FirstWrite,
) -> Result<(TcpStream, usize), Failure> {
    let begun = Instant::now();
    let timeout = pool.pool.config.connect_timeout;
    let deadline = Deadline { at_ms: coarse_ms() + timeout.as_millis() as u64, timeout };
    let opened = match use_ready(worker, pool, member, brief, first) {
        Some((stream, sent)) => Opened { stream, sent, connected: Some(begun) },
        None => open(worker, session, pool, brief, first, deadline).await?,
    };
    let Opened { stream, mut sent, mut connected } = opened;
    // Until it is established and what we say ourselves is gone; what is left of the client's bytes is the flow's.
    while connected.is_none() || sent < first.ours {
        deadline.wait(worker, session, Box::pin(stream.writable())).await?;
        let rest = &first.bytes[sent..];
        let result = if rest.is_empty() {
            // Nothing to write yet: ask the socket what became of it (connect(2), EINPROGRESS).
            stream.take_error().map(|error| error.map_or(Ok(0), Err)).and_then(|result| result)
        } else {
            stream.try_write(rest)
        };
        match result {
            Ok(count) => {
                sent += count;
                connected.get_or_insert_with(Instant::now);
            }
            // A refusal that comes within connect(2), as from a firewall on this machine, is a soft error: the socket is
            // ready for ever and takes nothing until the SYN is sent again, and only SO_ERROR says so.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return Err(sorted(error)),
            },
            Err(error) => return Err(sorted(error)),
        }
    }
    let connected = connected.unwrap_or(begun);
    let mut sent_at = connected;
    let sent = match &first.after_answer {
        None => sent - first.ours,
        Some(client) => {
            Box::pin(await_consent(worker, session, &stream, deadline)).await?;
            sent_at = Instant::now();
            match stream.try_write(client) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(sorted(error)),
            }
        }
    };
    let mut facts = session.facts.borrow_mut();
    facts.connect_time = Some((connected - begun).into());
    facts.sent_time = Some((sent_at - session.started).into());
    if facts.hello.is_none() {
        // Otherwise its answer to the hello says more.
        brief.backend.live.well();
    }
    Ok((stream, sent))
}

/// A socket on its way to a backend.
struct Opened {
    stream: TcpStream,
    /// Bytes of the first write that it took.
    sent: usize,
    /// When it was established, if it is.
    connected: Option<Instant>,
}

async fn open(
    worker: &Worker,
    session: &Session,
    pool: &PoolView,
    brief: &BackendBrief,
    first: &FirstWrite,
    deadline: Deadline,
) -> Result<Opened, Failure> {
    let fast_open = pool.pool.config.fast_open == FastOpen::On && !first.bytes.is_empty();
    let started = start(pool, brief.backend.address, fast_open, worker.random()).map_err(sorted)?;
    // Registered before a byte is written: what can fail here still lets another backend be tried.
    let stream = TcpStream::from_std(started.into()).map_err(|error| Failure::Connect(ConnectError::Local, error))?;
    if first.bytes.is_empty() {
        return Ok(Opened { stream, sent: 0, connected: None });
    }
    // Over loopback, and on the way to a container, the connection is established already: one wake-up less.
    // Past the runtime, which knows of no readiness yet.
    match socket::send_now(&stream, &first.bytes) {
        Ok(sent) if fast_open => {
            // In the SYN, perhaps: nothing is known of the backend yet, and the bytes may arrive all the same.
            let exposed = |failure| match failure {
                Failure::Connect(kind, error) if kind != ConnectError::Refused => Failure::Exposed(kind, error),
                other => other,
            };
            Box::pin(deadline.wait(worker, session, Box::pin(stream.writable()))).await.map_err(exposed)?;
            match stream.take_error() {
                Ok(None) => Ok(Opened { stream, sent, connected: Some(Instant::now()) }),
                Ok(Some(error)) | Err(error) => Err(exposed(sorted(error))),
            }
        }
        Ok(sent) => Ok(Opened { stream, sent, connected: Some(Instant::now()) }),
        Err(error) if is_under_way(&error) => Ok(Opened { stream, sent: 0, connected: None }),
        Err(error) => Err(sorted(error)),
    }
}

/// When an attempt is late, and how long it had.
#[derive(Clone, Copy)]
pub struct Deadline {
    at_ms: u64,
    timeout: Duration,
}

impl Deadline {
    /// Waits until `ready`, or fails when it is too late or the session is asked to end.
    pub async fn wait(
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

/// Whether a connection is only not established yet (`connect(2)`, EINPROGRESS of a first write with fast open).
fn is_under_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(nix::libc::EINPROGRESS)
}

/// Starts a connection from one of the pool's source addresses; one that has no port left gives way to the next.
pub fn start(pool: &PoolView, address: SocketAddr, fast_open: bool, random: u64) -> io::Result<Socket> {
    let sources = &pool.pool.config.source_addresses;
    let fitting = sources.iter().filter(|source| source.is_ipv4() == address.is_ipv4());
    let count = fitting.clone().count();
    if count == 0 {
        return socket::start_connect(address, Start { from: None, fast_open });
    }
    let mut last = None;
    for from in fitting.cycle().skip(random as usize % count).take(count) {
        match socket::start_connect(address, Start { from: Some(*from), fast_open }) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                let text =
                    format!("no port of {from} is left, or it is none of this machine ({count} source addresses)");
                last = Some(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
            }
            result => return result,
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// A ready connection that took the first bytes, and how many. One that fails before it took any is as if it never was.
fn use_ready(
    worker: &Worker,
    pool: &PoolView,
    member: MemberId,
    brief: &BackendBrief,
    first: &FirstWrite,
) -> Option<(TcpStream, usize)> {
    if pool.pool.config.preconnect == 0 || !first.client_speaks() {
        return None;
    }
    while let Some(stream) = pool.ready.take(member, brief) {
        worker.ready_wanted.notify_one();
        match socket::send_now(&stream, &first.bytes) {
            Ok(count) => return Some((stream, count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some((stream, 0)),
            Err(_) => {}
        }
    }
    None
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

fn count_failure(brief: &BackendBrief, kind: ConnectError, error: &io::Error, tries: u8, pool: &PoolView) -> Stop {
    brief.shard().connect_errors[kind as usize].add(1);
    let reason = match kind {
        ConnectError::Refused | ConnectError::Other | ConnectError::ErrorResponse | ConnectError::Closed => {
            CloseReason::ConnectRefused
        }
        ConnectError::NoTls | ConnectError::BadAnswer => CloseReason::BackendRefusedTls,
        ConnectError::Timeout => CloseReason::ConnectTimeout,
        ConnectError::Unreachable => CloseReason::ConnectUnreachable,
        ConnectError::Local => CloseReason::LocalError,
    };
    let what = format!("connect to {}: {error}", brief.backend.address);
    if kind.is_of_health() {
        // Health is told of what the backend did, never of what this machine lacks.
        brief.backend.live.report(Sign::Failure, &what);
    }
    let detail = format!("{what} (try {tries} of {})", pool.pool.config.connect_tries);
    Stop::new(reason).because(detail)
}
