//! Describes open sessions for the status socket, some at a time: bytes go first.

use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::session::Session;
use super::worker::Worker;
use crate::api::{SessionReport, SessionsParams};
use crate::sys::clock::coarse_ms;

/// Sessions that are looked at before others get a turn. Chosen: well under a millisecond.
const AT_ONCE: usize = 256;

/// Answers with the sessions that match.
pub async fn list(worker: Rc<Worker>, wanted: Arc<SessionsParams>, answer: oneshot::Sender<Vec<SessionReport>>) {
    let filter = Filter::of(&wanted);
    let mut open = Vec::with_capacity(worker.sessions.count());
    worker.sessions.for_each(|session| open.push(Rc::downgrade(session)));
    let mut found = Vec::new();
    for some in open.chunks(AT_ONCE) {
        let now = coarse_ms();
        let alive = some.iter().filter_map(std::rc::Weak::upgrade);
        found.extend(alive.filter(|session| filter.takes(session, now)).map(|session| describe(&session, now)));
        yield_now().await;
    }
    // Whoever asked may have gone away.
    let _ = answer.send(found);
}

struct Filter<'a> {
    wanted: &'a SessionsParams,
    source: Option<IpNet>,
    pool: Option<&'a str>,
    backend: Option<&'a str>,
}

impl<'a> Filter<'a> {
    /// The dialects have seen to it that the source is an address or a prefix.
    fn of(wanted: &'a SessionsParams) -> Self {
        let source = wanted
            .source
            .as_deref()
            .and_then(|text| text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?))));
        let path = wanted.backend.as_deref();
        let (pool, backend) = match path.and_then(|path| path.split_once('/')) {
            Some((pool, backend)) => (Some(pool), Some(backend)),
            None => (path, None),
        };
        Self { wanted, source, pool, backend }
    }

    fn takes(&self, session: &Session, now_ms: u64) -> bool {
        let facts = session.facts.borrow();
        let pool = || facts.pool.as_ref().map(|pool| &*pool.state.name);
        let backend = || facts.seat.as_ref().map(|seat| &*seat.backend().backend.name);
        let sni = || facts.hello.as_ref().and_then(|hello| hello.sni.as_deref());
        let wanted = self.wanted;
        self.pool.is_none_or(|name| pool() == Some(name))
            && self.backend.is_none_or(|name| backend() == Some(name))
            && wanted.sni.as_deref().is_none_or(|name| sni().is_some_and(|sni| sni.eq_ignore_ascii_case(name)))
            && self.source.is_none_or(|source| source.contains(&session.client().ip().to_canonical()))
            && wanted.age_ms.is_none_or(|age| now_ms.saturating_sub(session.started_ms) >= age)
            && wanted.idle_ms.is_none_or(|idle| session.idle_ms(now_ms) >= idle)
    }
}

fn describe(session: &Session, now_ms: u64) -> SessionReport {
    let facts = session.facts.borrow();
    let hello = facts.hello.as_ref();
    SessionReport {
        session: format!("{:016x}", session.id),
        listener: session.listener.state.name.to_string(),
        client: session.client(),
        destination: session.destination(),
        sni: hello.and_then(|hello| hello.sni.as_deref()).map(ToString::to_string),
        alpn: hello.map(|hello| hello.alpn.to_string()).filter(|alpn| !alpn.is_empty()),
        pool: facts.pool.as_ref().map(|pool| pool.state.name.to_string()),
        backend: facts.seat.as_ref().map(|seat| seat.backend().backend.name.to_string()),
        age_ms: session.started.elapsed().as_millis() as u64,
        idle_ms: session.idle_ms(now_ms),
        bytes_up: session.moved.up(),
        bytes_down: session.moved.down(),
        via: facts.via().map(|via| via.peer),
    }
}
