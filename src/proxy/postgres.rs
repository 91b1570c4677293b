//! Listeners that speak PostgreSQL: answers what comes before the hello, and passes cancel requests on.
//! A client that asked for TLS in PostgreSQL's way gets a backend that was asked the same; one that began with TLS does not.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{Client, Tongue};
use super::inspect::{self, Inspected, by_first_bytes};
use super::proxy_header;
use super::refuse::Stop;
use super::session::Session;
use super::view::ListenerView;
use super::worker::{Command, Worker};
use crate::config::Reject;
use crate::decide::close::CloseReason;
use crate::decide::hello::postgres::{HEAD, Opening, Request, opening};
use crate::decide::hello::{FirstBytes, guess};
use crate::state::{Backend, CancelResult};
use crate::sys::clock::coarse_ms;

/// Backends that one cancel request is sent to at most. An unknown one does no harm there: the server just closes.
const MOST_CANCELLED: usize = 8;
/// How long other workers may take to say where a source has sessions.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// How long a server may take to close after a cancel request; clients wait for it, to know that it was carried out.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Reads up to a hello or whatever else settles where the connection goes.
pub async fn inspect(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    deadline: u64,
) -> Result<Inspected, Stop> {
    let (mut answered_gss, mut answered_ssl) = (false, false);
    loop {
        match opening(client.bytes()) {
            Opening::NeedMore => client.more(worker, session, deadline).await?,
            Opening::Cancel { length } => return Err(cancel(worker, listener, session, client, length).await),
            // Everything goes to one pool: the server itself answers.
            seen if listener.relay.is_some() => {
                client.tongue = match seen {
                    Opening::Tls => Tongue::Tls,
                    Opening::Refused(_) => Tongue::Unknown,
                    _ => Tongue::Postgres,
                };
                let pool = inspect::route(listener, session, None)?;
                return Ok(Inspected::raw(listener, session, client, pool));
            }
            Opening::Tls if !answered_gss && !answered_ssl => {
                client.tongue = Tongue::Tls;
                return inspect::hello(worker, listener, session, client, deadline).await;
            }
            Opening::Request(Request::Gss) if !answered_gss => {
                answer(worker, client, Request::Gss, b'N')?;
                answered_gss = true;
            }
            Opening::Request(Request::Ssl) if !answered_ssl => {
                if listener.listener.could_route_tls(session.client().ip()) {
                    answer(worker, client, Request::Ssl, b'S')?;
                    client.tongue = Tongue::Tls;
                    let hello = inspect::hello(worker, listener, session, client, deadline).await?;
                    return Ok(Inspected { asks_for_tls: true, ..hello });
                }
                answer(worker, client, Request::Ssl, b'N')?;
                answered_ssl = true;
            }
            Opening::StartUp { .. } => {
                let plain = by_first_bytes(listener, session, client, FirstBytes::Postgres);
                let required = || Stop::new(CloseReason::NotTls).because("start-up packet without TLS");
                return plain.unwrap_or_else(|| Err(required()));
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
                return Err(Stop { reject: Some(Reject::Close), ..Stop::new(CloseReason::NotTls) }.because(detail));
            }
        }
    }
}

fn malformed(detail: impl Into<String>) -> Stop {
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
async fn cancel(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    length: usize,
) -> Stop {
    let source = session.client().ip();
    let (result, stop) = if worker.cancels.borrow_mut().take(source, coarse_ms()) {
        let backends = backends_of(worker, &session.listener.state.name, source).await;
        let request = client.bytes()[..length].to_vec();
        deliver_to_all(listener, session, &backends, &request).await
    } else {
        let stop = Stop { reject: Some(Reject::Close), ..Stop::new(CloseReason::RateLimited) };
        (CancelResult::RateLimited, stop.because("too many cancel requests from this source"))
    };
    session.listener.shard().cancels[result as usize].add(1);
    client.tongue = Tongue::Unknown;
    stop
}

async fn deliver_to_all(
    listener: &ListenerView,
    session: &Session,
    backends: &[Arc<Backend>],
    request: &[u8],
) -> (CancelResult, Stop) {
    let mut deliveries = JoinSet::new();
    for backend in backends {
        let Some(pool) = listener.pools.iter().find(|pool| pool.pool.config.name == backend.pool) else { continue };
        let config = &pool.pool.config;
        let bytes = [&proxy_header::outgoing(session, config.send_proxy, None)[..], request].concat();
        deliveries.spawn_local(deliver(backend.address, bytes, config.connect_timeout));
    }
    let (mut sent, mut failed) = (0, 0);
    while let Some(delivered) = deliveries.join_next().await {
        if matches!(delivered, Ok(Ok(()))) { sent += 1 } else { failed += 1 }
    }
    // A server answers nothing either, and just closes.
    let quiet = |reason| Stop { reject: Some(Reject::Close), ..Stop::new(reason) };
    match (sent, failed) {
        (0, 0) => {
            let stop = quiet(CloseReason::NoBackend);
            (CancelResult::NoSession, stop.because("cancel request of a source that has no sessions here"))
        }
        (0, _) => {
            let stop = quiet(CloseReason::ConnectRefused);
            (CancelResult::Failed, stop.because(format!("cancel request: none of {failed} backends took it")))
        }
        _ => {
            let detail = format!("cancel request sent to {sent} of {} backends", sent + failed);
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

/// The backends on which `source` has sessions through `listener`, on any worker.
async fn backends_of(worker: &Rc<Worker>, listener: &Arc<str>, source: IpAddr) -> Vec<Arc<Backend>> {
    let mut found = worker.backends_of(listener, source);
    for peer in worker.peers() {
        let (answer, backends) = oneshot::channel();
        let asked = Command::Locate { listener: Arc::clone(listener), source, answer };
        if peer.send(asked).is_ok()
            && let Ok(Ok(backends)) = timeout(ASK_LIMIT, backends).await
        {
            found.extend(backends);
        }
    }
    let mut seen = HashSet::new();
    found.retain(|backend| seen.insert(Arc::as_ptr(backend)));
    found.truncate(MOST_CANCELLED);
    found
}
