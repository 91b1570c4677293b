//! Listeners that speak PostgreSQL: answers what comes before the hello, and passes cancel requests on.
//! A client that asked for TLS in PostgreSQL's way gets a backend that was asked the same; one that began with TLS does not.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Client, RefusalLanguage};
use super::command::Command;
use super::inspect::{self, Inspected, by_first_bytes};
use super::proxy_header;
use super::refuse::Stop;
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use crate::config::Reject;
use crate::decide::close::CloseReason;
use crate::decide::hello::postgres::{HEAD, Opening, Request, opening};
use crate::decide::hello::proxy::Version;
use crate::decide::hello::{FirstBytes, Recognised, Refusal, guess, recognise};
use crate::decide::route::Miss;
use crate::state::{Backend, CancelResult};
use crate::sys::clock::coarse_ms;

/// Backends that one cancel request is sent to at most. An unknown one does no harm there: the server just closes.
const MOST_CANCELLED: usize = 8;
/// How long all other workers together may take to say where a source has sessions.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long all of it may take, in milliseconds; connects have their own limits within.
const CANCEL_LIMIT_MS: u64 = 10_000;
/// How long a server may take to close after a cancel request; clients wait for it, to know that it was carried out.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Reads up to a hello or whatever else settles where the connection goes.
pub async fn inspect(
    worker: &Worker,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    deadline: u64,
) -> Result<Inspected, Stop> {
    let (mut answered_gss, mut answered_ssl) = (false, false);
    loop {
        let opening = opening(client.bytes());
        if let Opening::Refused(_) = opening
            && listener.looks_at_first_bytes()
        {
            match recognise(client.bytes()) {
                Recognised::Certain(spoken) => inspect::refuse_forged_header(listener, session, spoken)?,
                Recognised::NeedMore => {
                    client.more(worker, session, deadline).await?;
                    continue;
                }
            }
        }
        match opening {
            Opening::NeedMore => client.more(worker, session, deadline).await?,
            Opening::Cancel { length } => return Err(cancel(worker, session, client, length).await),
            // Everything goes to one pool: the server itself answers.
            seen if listener.relay.is_some() => {
                client.language = match seen {
                    Opening::Tls => RefusalLanguage::Tls,
                    Opening::Refused(_) => RefusalLanguage::Unknown,
                    _ => RefusalLanguage::Postgres,
                };
                let pool = inspect::route(listener, session, None)?;
                return Ok(Inspected::raw(listener, session, client, pool));
            }
            Opening::Tls if !answered_gss && !answered_ssl => {
                client.language = RefusalLanguage::Tls;
                return inspect::hello(worker, listener, session, client, deadline).await;
            }
            Opening::Request(Request::Gss) if !answered_gss => {
                answer(worker, client, Request::Gss, b'N')?;
                answered_gss = true;
            }
            Opening::Request(Request::Ssl) if !answered_ssl => {
                if listener.listener.could_route_tls(session.client().ip()) {
                    answer(worker, client, Request::Ssl, b'S')?;
                    // From here on it is TLS, or refused: plain text must not pass for what came over TLS.
                    client.language = RefusalLanguage::Tls;
                    let hello = inspect::hello(worker, listener, session, client, deadline).await?;
                    return Ok(Inspected { asks_for_tls: true, ..hello });
                }
                answer(worker, client, Request::Ssl, b'N')?;
                answered_ssl = true;
            }
            Opening::StartUp { .. } => {
                if let Some(plain) = by_first_bytes(listener, session, client, FirstBytes::Postgres) {
                    return plain;
                }
                // With TLS it would get no further.
                if !listener.listener.could_route_tls(session.client().ip()) {
                    return Err(Stop::no_route(Miss::Source));
                }
                let plain = Stop::from(Refusal::NotTls(FirstBytes::Postgres));
                return Err(plain.because("start-up packet without TLS"));
            }
            Opening::Tls => return Err(malformed("TLS record after a request was answered with N")),
            Opening::Request(request) => return Err(malformed(format!("{} twice", request.name()))),
            Opening::Refused(error) => {
                let guess = guess(client.bytes());
                let detail = if guess == FirstBytes::Unknown {
                    error.to_string()
                } else {
                    format!("first bytes are {}, neither PostgreSQL nor TLS", guess.name())
                };
                // Whoever this is would not understand an answer.
                let stop = Stop::from(Refusal::NotTls(guess));
                return Err(Stop { reject: Some(Reject::Close), ..stop }.because(detail));
            }
        }
    }
}

fn malformed(detail: impl Into<Box<str>>) -> Stop {
    Stop::new(CloseReason::HelloMalformed).because(detail)
}

/// Answers a request with its one byte. What was sent behind it, before the answer, could later pass for something
/// that came over TLS (CVE-2021-23214), and is refused.
fn answer(worker: &Worker, client: &mut Client, request: Request, byte: u8) -> Result<(), Stop> {
    if !client.has_sent_only(HEAD, worker)? {
        return Err(malformed(format!("unencrypted bytes behind {}", request.name())));
    }
    client.consume(HEAD);
    match client.try_write(&[byte]) {
        Ok(1) => Ok(()),
        Ok(_) => Err(CloseReason::LocalError.into()),
        Err(_) => Err(CloseReason::ClientGone.into()),
    }
}

/// Sends a cancel request, which comes in clear and on a connection of its own, to each backend on which this source
/// has sessions: which one is meant only the servers can tell. Returns how the connection ends.
async fn cancel(worker: &Worker, session: &Session, client: &mut Client, length: usize) -> Stop {
    let source = session.client().ip();
    let allowed = worker.shared.may_cancel(source, coarse_ms());
    let (result, stop) = if allowed {
        let work = async {
            let (targets, known) = targets_of(worker, &session.listener.state.name, source).await;
            deliver_to_all(session, targets, known, &client.bytes()[..length]).await
        };
        let limit = coarse_ms() + CANCEL_LIMIT_MS;
        match session.until(worker, limit, CloseReason::ConnectTimeout, work).await {
            Ok(outcome) => outcome,
            Err(reason) => (CancelResult::Failed, quiet(reason).because("cancel request: the backends took too long")),
        }
    } else {
        let stop = quiet(CloseReason::RateLimited).because("too many cancel requests");
        (CancelResult::RateLimited, stop)
    };
    session.listener.shard().cancels[result as usize].add(1);
    client.language = RefusalLanguage::Unknown;
    stop
}

/// The end of a connection for a cancel request: a server answers nothing either, and just closes.
fn quiet(reason: CloseReason) -> Stop {
    Stop { reject: Some(Reject::Close), ..Stop::new(reason) }
}

/// Where a cancel request goes, as the session there was connected: its pool may be gone by now.
#[derive(Debug)]
pub struct CancelTarget {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The PROXY header that it expects.
    pub send_proxy: Option<Version>,
    /// Time for the connection.
    pub connect_timeout: Duration,
}

async fn deliver_to_all(
    session: &Session,
    targets: Vec<CancelTarget>,
    known: usize,
    request: &[u8],
) -> (CancelResult, Stop) {
    let mut deliveries = JoinSet::new();
    for CancelTarget { backend, send_proxy, connect_timeout } in targets {
        let bytes = [&proxy_header::outgoing(session, send_proxy, None)[..], request].concat();
        deliveries.spawn_local(deliver(backend.address, bytes, connect_timeout));
    }
    let (mut sent, mut failed) = (0, 0);
    while let Some(delivered) = deliveries.join_next().await {
        if matches!(delivered, Ok(Ok(()))) { sent += 1 } else { failed += 1 }
    }
    match (sent, failed) {
        (0, 0) => {
            let stop = quiet(CloseReason::NoRoute);
            (CancelResult::NoSession, stop.because("cancel request of a source that has no sessions here"))
        }
        (0, _) => {
            let stop = quiet(CloseReason::ConnectRefused);
            (CancelResult::Failed, stop.because(format!("cancel request: none of {failed} backends took it")))
        }
        _ => {
            let detail = format!("cancel request sent to {sent} of {known} backends");
            (CancelResult::Sent, quiet(CloseReason::Done).because(detail))
        }
    }
}

/// Sends a request to one server and waits for it to close.
async fn deliver(address: SocketAddr, bytes: Vec<u8>, limit: Duration) -> std::io::Result<()> {
    let mut stream = timeout(limit, TcpStream::connect(address)).await??;
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    // How it closes, or that it does not within the limit, changes nothing: the request is there.
    let _ = timeout(CLOSE_LIMIT, stream.read(&mut [0; 64])).await;
    Ok(())
}

/// The backends on which `source` has sessions through `listener`, on any worker, up to the limit; and how many there are,
/// as far as anybody looked.
async fn targets_of(worker: &Worker, listener: &Arc<str>, source: IpAddr) -> (Vec<CancelTarget>, usize) {
    let asked: Vec<_> = worker
        .peers()
        .into_iter()
        .filter_map(|peer| {
            let (answer, targets) = oneshot::channel();
            peer.send(Command::Locate { listener: Arc::clone(listener), source, answer }).ok()?;
            Some(targets)
        })
        .collect();
    let mut found = backends_of(worker, listener, source);
    let until = Instant::now() + ASK_LIMIT;
    for targets in asked {
        if let Ok(Ok(targets)) = timeout_at(until, targets).await {
            found.extend(targets);
        }
    }
    let mut seen = HashSet::new();
    found.retain(|target| seen.insert(Arc::as_ptr(&target.backend)));
    let known = found.len();
    found.truncate(MOST_CANCELLED);
    (found, known)
}

/// The backends on which `source` has sessions through `listener` on this worker.
pub fn backends_of(worker: &Worker, listener: &str, source: IpAddr) -> Vec<CancelTarget> {
    let mut found: Vec<CancelTarget> = Vec::new();
    worker.sessions.look(|session| {
        let facts = session.facts.borrow();
        // Those that are still connecting have nothing to cancel yet.
        if let (Some(seat), Some(pool), true) = (&facts.seat, &facts.pool, facts.sent_time.is_some())
            && session.client().ip().to_canonical() == source.to_canonical()
            && *session.listener.state.name == *listener
            && !found.iter().any(|known| Arc::ptr_eq(&known.backend, &seat.backend().backend))
        {
            let backend = Arc::clone(&seat.backend().backend);
            let (send_proxy, connect_timeout) = (pool.send_proxy, pool.connect_timeout);
            found.push(CancelTarget { backend, send_proxy, connect_timeout });
        }
        // One more than are sent, so that the record tells of the limit.
        if found.len() > MOST_CANCELLED { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    found
}
