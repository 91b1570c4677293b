//! How a connection that goes nowhere ends: an alert with the reason, FIN or RST, and never a silent close where
//! the client could have been told.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use tokio::io::Interest;

use super::client::{Client, RefusalLanguage};
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use crate::config::Reject;
use crate::decide::close::CloseReason;
use crate::decide::hello::postgres::{SqlState, error_response};
use crate::decide::hello::{Refusal, records};
use crate::decide::route::Miss;
use crate::state::{RecordLayout, RefusedHello};
use crate::sys::clock::coarse_ms;

/// How long a refused client may still send (RFC 8446 6.1 asks for nothing; chosen as protocols.md 1.5 advises).
const LINGER_MS: u64 = 1000;
/// How much it may still send.
const LINGER_BYTES: usize = 64 * 1024;

/// Why a connection does not get through.
#[derive(Debug)]
pub struct Stop {
    /// The end that the record gets.
    pub reason: CloseReason,
    /// The alert for a TLS client; `None` where the client does not expect one.
    pub alert: Option<u8>,
    /// How the client is told, when a route says so.
    pub reject: Option<Reject>,
    /// What was wrong with the first bytes, as [`Refusal::index`], for its counter.
    pub refusal: Option<u8>,
    /// Why exactly.
    pub detail: Option<Box<str>>,
}

impl Stop {
    /// A stop with the alert that fits its reason (RFC 8446 6.2, RFC 6066 3).
    pub fn new(reason: CloseReason) -> Self {
        let alert = match reason {
            CloseReason::SourceDenied | CloseReason::RateLimited => Some(49),
            CloseReason::NoRoute | CloseReason::RouteRejected => Some(112),
            CloseReason::LimitReached
            | CloseReason::NoBackend
            | CloseReason::QueueTimeout
            | CloseReason::ConnectRefused
            | CloseReason::ConnectTimeout
            | CloseReason::ConnectUnreachable
            | CloseReason::BackendRefusedTls
            | CloseReason::BackendDown
            | CloseReason::LocalError => Some(80),
            _ => None,
        };
        Self { reason, alert, reject: None, refusal: None, detail: None }
    }

    /// Adds why exactly.
    pub fn because(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A fault of this machine.
    pub fn local(error: io::Error) -> Self {
        Self::new(CloseReason::LocalError).because(error.to_string())
    }

    /// No rule took the connection.
    pub fn no_route(miss: Miss) -> Self {
        Self { alert: Some(miss.alert()), ..Self::new(CloseReason::NoRoute) }.because(miss.text())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        let stop =
            Self { alert: refusal.alert(), refusal: Some(refusal.index() as u8), ..Self::new(refusal.close_reason()) };
        stop.because(refusal.to_string())
    }
}

impl From<CloseReason> for Stop {
    fn from(reason: CloseReason) -> Self {
        Self::new(reason)
    }
}

/// A PROXY header that is missing, malformed or not to be believed. The sender is a proxy or pretends to be one; neither
/// waits for an answer in a client's language.
pub fn bad_proxy_header(detail: impl Into<Box<str>>) -> Stop {
    Stop { reject: Some(Reject::Reset), ..Stop::new(CloseReason::ProxyHeaderBad) }.because(detail)
}

/// Tells the client and closes.
pub async fn refuse(worker: &Rc<Worker>, session: &Session, mut client: Client, stop: Stop) {
    let by_order = matches!(stop.reason, CloseReason::Shutdown | CloseReason::Killed | CloseReason::Drained);
    if stop.reason.is_of_first_bytes() {
        remember(session, &client, &stop);
    }
    if let Some(refusal) = stop.refusal {
        session.listener.shard().hello_refused[usize::from(refusal)].add(1);
    }
    if let Some(detail) = stop.detail {
        session.facts.borrow_mut().rare().detail = Some(detail);
    }
    if stop.reason == CloseReason::ClientGone {
        return;
    }
    let farewell = match (stop.reject.unwrap_or(session.listener.reject), client.language) {
        _ if by_order => None,
        (Reject::Reset, _) | (Reject::Alert, RefusalLanguage::Unknown) => None,
        (Reject::Close, _) => Some(Vec::new()),
        (Reject::Alert, RefusalLanguage::Tls) => Some(stop.alert.map(alert).unwrap_or_default()),
        (Reject::Alert, RefusalLanguage::Postgres) => Some(postgres_error(stop.reason)),
    };
    let Some(farewell) = farewell else {
        client.reset_on_close();
        return;
    };
    if !farewell.is_empty() {
        // The send buffer of a fresh connection has room for it; a client that is gone needs none.
        let _ = client.try_write(&farewell);
    }
    let _ = linger(worker, session, client).await;
}

/// A fatal alert (RFC 8446 6); every version understands the number 3.3 in its record.
fn alert(number: u8) -> Vec<u8> {
    vec![0x15, 3, 3, 0, 2, 2, number]
}

/// What a client of PostgreSQL is told before TLS has begun. The detail stays in the record: it may name servers.
fn postgres_error(reason: CloseReason) -> Vec<u8> {
    let (state, message) = match reason {
        CloseReason::NotTls => (SqlState::NOT_AUTHORISED, "TLS required: connect with sslmode=require or stronger"),
        CloseReason::SourceDenied => (SqlState::NOT_AUTHORISED, "connections from this address are not allowed"),
        CloseReason::NoRoute | CloseReason::RouteRejected => (SqlState::NOT_AUTHORISED, "no route for this connection"),
        CloseReason::LimitReached | CloseReason::RateLimited => (SqlState::TOO_MANY, "too many connections"),
        CloseReason::HelloMalformed | CloseReason::HelloTooLarge => {
            (SqlState::PROTOCOL, "unexpected bytes before the start of TLS")
        }
        CloseReason::HelloTimeout => (SqlState::PROTOCOL, "no start-up packet in time"),
        _ => (SqlState::NOT_NOW, "no server can take the connection now"),
    };
    error_response(state, message)
}

/// Puts what was refused into the listener's ring, for `sluice refused`.
fn remember(session: &Session, client: &Client, stop: &Stop) {
    let bytes = client.bytes();
    let layout = |record: crate::decide::hello::Record<'_>| RecordLayout {
        kind: record.kind,
        version: record.version,
        length: record.length,
    };
    session.listener.state.refused.push(RefusedHello {
        at: jiff::Timestamp::now(),
        session: session.id,
        client: session.client(),
        end: stop.reason,
        detail: stop.detail.as_deref().unwrap_or_default().into(),
        alert: stop.alert,
        bytes: bytes.len(),
        reads: client.reads(),
        read_sizes: client.read_sizes().into(),
        records: records(bytes).take(RefusedHello::MOST_RECORDS).map(layout).collect(),
        first: RefusedHello::shown(bytes).into(),
    });
}

/// Sends FIN, then reads and drops until the client closes, within limits: closing with unread bytes would send
/// RST, and some clients would never see the alert.
async fn linger(worker: &Rc<Worker>, session: &Session, mut client: Client) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    let until = coarse_ms() + LINGER_MS;
    let mut dropped = 0;
    while dropped < LINGER_BYTES {
        match client.try_drop(worker) {
            Ok(0) => break,
            Ok(count) => dropped += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = Box::pin(client.stream()?.ready(Interest::READABLE));
                if session.until(worker, until, CloseReason::HelloTimeout, ready).await.is_err() {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ListenerView {
    /// The first gate: places, before a byte is read.
    pub fn admit(&self) -> Result<(), Stop> {
        if let Some(most) = self.listener.config.max_connections
            && self.brief.state.active() > i64::from(most)
        {
            let detail = format!("more than {most} connections on this listener");
            return Err(Stop::new(CloseReason::LimitReached).because(detail));
        }
        Ok(())
    }

    /// The second gate: the source, once it is known who that is.
    pub fn admit_source(&self, session: &Session) -> Result<(), Stop> {
        if self.admits(session.client()) {
            return Ok(());
        }
        Err(Stop::new(CloseReason::SourceDenied).because("denied by `allow` and `deny`"))
    }
}
