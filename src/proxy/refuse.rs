//! How a connection that goes nowhere ends: an alert with the reason, FIN or RST, and never a silent close where
//! the client could have been told.

use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use tokio::io::Interest;

use super::inspect::Client;
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use crate::config::{Protocol, Reject};
use crate::decide::close::CloseReason;
use crate::decide::hello::Refusal;
use crate::decide::route::Miss;
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
    /// Why exactly.
    pub detail: Option<String>,
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
            | CloseReason::BackendDown
            | CloseReason::LocalError => Some(80),
            _ => None,
        };
        Self { reason, alert, reject: None, detail: None }
    }

    /// Adds why exactly.
    pub fn because(mut self, detail: impl Into<String>) -> Self {
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
        Self { alert: refusal.alert(), ..Self::new(refusal.close_reason()) }.because(refusal.to_string())
    }
}

impl From<CloseReason> for Stop {
    fn from(reason: CloseReason) -> Self {
        Self::new(reason)
    }
}

/// Tells the client and closes.
pub async fn refuse(worker: &Rc<Worker>, listener: &ListenerView, session: &Session, mut client: Client, stop: Stop) {
    let mut reject = stop.reject.unwrap_or(listener.listener.config.reject);
    if listener.listener.config.protocol == Protocol::Tcp && reject == Reject::Alert {
        reject = Reject::Reset;
    }
    let by_order = matches!(stop.reason, CloseReason::Shutdown | CloseReason::Killed | CloseReason::Drained);
    session.facts.borrow_mut().detail = stop.detail.map(Into::into);
    if stop.reason == CloseReason::ClientGone {
        return;
    }
    if reject == Reject::Reset || by_order {
        client.reset_on_close();
        return;
    }
    if reject == Reject::Alert
        && let Some(alert) = stop.alert
    {
        // The send buffer of a fresh connection always has room for seven bytes; a client that is gone needs none.
        let _ = client.try_write(&[0x15, 3, 3, 0, 2, 2, alert]);
    }
    let _ = linger(worker, session, client).await;
}

/// Sends FIN, then reads and drops until the client closes, within limits: closing with unread bytes would send
/// RST, and some clients would never see the alert.
async fn linger(worker: &Rc<Worker>, session: &Session, mut client: Client) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    let until = coarse_ms() + LINGER_MS;
    let mut dropped = 0;
    while dropped < LINGER_BYTES {
        let read = client.try_read(&mut worker.buffer.borrow_mut()[..16 * 1024]);
        match read {
            Ok(0) => break,
            Ok(count) => dropped += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = client.stream()?.ready(Interest::READABLE);
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
    /// The first gate: source and limits, before a byte is read.
    pub fn admit(&self, session: &Session) -> Result<(), Stop> {
        if !self.admits(session.client) {
            return Err(Stop::new(CloseReason::SourceDenied).because("denied by `allow` and `deny`"));
        }
        if let Some(most) = self.listener.config.max_connections
            && self.brief.state.active() > i64::from(most)
        {
            let detail = format!("more than {most} connections on this listener");
            return Err(Stop::new(CloseReason::LimitReached).because(detail));
        }
        Ok(())
    }
}
