//! Reads what the client sends first and finds its pool. Second and third stop of the spine.
//! The hello is read, not peeked at, and goes to the backend as it came.

use std::rc::Rc;

use super::client::{Client, RefusalLanguage};
use super::proxy_header;
use super::refuse::Stop;
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use super::{postgres, refuse};
use crate::config::{PoolId, Protocol};
use crate::decide::balance::{KeyFacts, Method, hash_key};
use crate::decide::close::CloseReason;
use crate::decide::hello::{
    AlpnList, Arrival, ClientHello, FirstBytes, HelloFacts, Joiner, Limits, Recognised, ServerName, Step, joined,
    recognise, single_record,
};
use crate::decide::route::Question;
use crate::state::Routed;

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 0x16;

/// What the first bytes said.
#[derive(Debug)]
pub struct Inspected {
    /// The client's bytes so far, to be sent to the backend unchanged.
    pub bytes: Vec<u8>,
    /// Position of the pool.
    pub pool: PoolId,
    /// Hash of what the pool's backends are chosen by; `None` when it does not hash, or there is nothing to hash.
    pub key: Option<u64>,
    /// A PROXY header for the backend; empty when it wants none.
    pub header: Vec<u8>,
    /// Whether the backend must first be asked for TLS, as PostgreSQL's clients ask (`SSLRequest`).
    pub asks_for_tls: bool,
}

/// Reads what the client sends first, within its deadlines, and finds where it goes.
pub async fn inspect(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
) -> Result<Inspected, Stop> {
    let config = &listener.listener.config;
    if listener.expects_proxy_header(session.peer()) {
        // Boxed, as all that few connections need: the others, half-sent hellos too, do not carry its state.
        Box::pin(proxy_header::read(worker, session, client)).await?;
    }
    listener.admit_source(session)?;
    let deadline = session.started_ms + config.hello_timeout.as_millis() as u64;
    match config.protocol {
        Protocol::Tcp => {
            let pool = route(listener, session, None)?;
            Ok(Inspected::raw(listener, session, client, pool))
        }
        Protocol::Tls => match hello_or_other(worker, listener, session, client, deadline).await {
            // The server is to speak first.
            Err(stop) if stop.reason == CloseReason::HelloTimeout && client.bytes().is_empty() => {
                by_first_bytes(listener, session, client, FirstBytes::Silence).unwrap_or(Err(stop))
            }
            result => result,
        },
        Protocol::Postgres => Box::pin(postgres::inspect(worker, listener, session, client, deadline)).await,
    }
}

impl Inspected {
    /// A connection that goes on as it is, without a hello.
    pub fn raw(listener: &ListenerView, session: &Session, client: &mut Client, pool: PoolId) -> Self {
        let Bound { pool, key, header } = Bound::to(listener, session, pool, None);
        Self { bytes: client.take_bytes(), pool, key, header, asks_for_tls: false }
    }
}

/// Where a connection goes, and what is said of it there.
struct Bound {
    pool: PoolId,
    key: Option<u64>,
    header: Vec<u8>,
}

impl Bound {
    fn to(listener: &ListenerView, session: &Session, pool: PoolId, hello: Option<&ClientHello<'_>>) -> Self {
        let config = &listener.pools[pool].pool.config;
        let facts = || KeyFacts {
            source: session.client().ip(),
            sni: hello.and_then(|hello| hello.server_name.as_ref()).map(ServerName::as_str),
            alpn: hello.map_or(&[], |hello| hello.alpn.as_encoded()),
            destination: Some(session.destination()),
        };
        let key = match config.method {
            Method::ConsistentHash(hashing) => hash_key(hashing.seed, &config.hash_key, &facts()),
            _ => None,
        };
        Self { pool, key, header: proxy_header::outgoing(session, config.send_proxy, hello) }
    }
}

/// Reads a hello, or what speaks instead, where a rule wants that.
async fn hello_or_other(
    worker: &Worker,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    deadline: u64,
) -> Result<Inspected, Stop> {
    while listener.looks_at_first_bytes() && client.bytes().first() != Some(&HANDSHAKE) {
        match recognise(client.bytes()) {
            Recognised::Certain(spoken) => {
                refuse_forged_header(listener, session, spoken)?;
                if let Some(result) = by_first_bytes(listener, session, client, spoken) {
                    return result;
                }
                break;
            }
            // What a rule may take is not refused before it is sure to be something else.
            Recognised::NeedMore => client.more(worker, session, deadline).await?,
        }
    }
    hello(worker, listener, session, client, deadline).await
}

/// A PROXY header from a source that must not send one. A second header, behind one that was read, is data.
pub fn refuse_forged_header(listener: &ListenerView, session: &Session, spoken: FirstBytes) -> Result<(), Stop> {
    let accepts = listener.listener.config.accept_proxy.is_some();
    if spoken == FirstBytes::Proxy && accepts && session.facts.borrow().via().is_none() {
        return Err(refuse::bad_proxy_header("PROXY header from a source that `accept-proxy` does not name"));
    }
    Ok(())
}

/// Reads a hello and routes by it; anything else is refused.
pub async fn hello(
    worker: &Worker,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    deadline: u64,
) -> Result<Inspected, Stop> {
    let limits = Limits { handshake_bytes: listener.listener.config.max_hello };
    let mut joiner = Joiner::new(limits);
    let mut seen = 0;
    loop {
        let bytes = client.bytes();
        if seen == 0
            && let Some(message) = single_record(bytes, limits)
        {
            let arrival = Arrival::of(message.len(), 1, client.reads());
            let Bound { pool, key, header } = read_hello(worker, listener, session, message, arrival)?;
            return Ok(Inspected { bytes: client.take_bytes(), pool, key, header, asks_for_tls: false });
        }
        let step = joiner.push(&bytes[seen..])?;
        seen = bytes.len();
        if step == Step::Complete {
            let message = joined(bytes);
            let arrival = Arrival::of(message.len(), joiner.records(), client.reads());
            let Bound { pool, key, header } = read_hello(worker, listener, session, &message, arrival)?;
            return Ok(Inspected { bytes: client.take_bytes(), pool, key, header, asks_for_tls: false });
        }
        client.more(worker, session, deadline).await.map_err(|stop| match &stop.detail {
            Some(detail) if seen > 0 => {
                let detail = format!("{detail}, {} in {} records", joiner.progress(), joiner.records());
                stop.because(detail)
            }
            _ => stop,
        })?;
    }
}

/// Where a rule sends what is not TLS; `None` when no rule wants it.
pub fn by_first_bytes(
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
    spoken: FirstBytes,
) -> Option<Result<Inspected, Stop>> {
    let routed = listener.listener.route_first_bytes(spoken, session.client().ip())?;
    if listener.listener.config.protocol == Protocol::Tls {
        client.language = RefusalLanguage::Unknown;
    }
    let pool = take_note(listener, session, routed);
    Some(pool.map(|pool| Inspected::raw(listener, session, client, pool)))
}

/// Parses a whole hello, keeps its facts, and routes by it.
fn read_hello(
    worker: &Worker,
    listener: &ListenerView,
    session: &Session,
    message: &[u8],
    arrival: Arrival,
) -> Result<Bound, Stop> {
    let hello = ClientHello::parse(message)?;
    let took = session.started.elapsed();
    {
        let mut facts = session.facts.borrow_mut();
        facts.hello = Some(Box::new(HelloFacts::of(&hello, arrival)));
        facts.hello_time = Some(took.into());
    }
    let shard = session.listener.shard();
    shard.hello_ok.add(1);
    shard.hello_seconds.observe(took.as_secs_f64());
    shard.hello_bytes.observe(f64::from(arrival.bytes));
    shard.count_traits(&hello, arrival);
    worker.counters().count_name(hello.server_name.as_ref().map(ServerName::as_str));
    let pool = route(listener, session, Some(&hello))?;
    if hello.resumes {
        listener.pools[pool].brief.shard().resumptions.add(1);
    }
    Ok(Bound::to(listener, session, pool, Some(&hello)))
}

/// The pool that takes the connection.
pub fn route(listener: &ListenerView, session: &Session, hello: Option<&ClientHello<'_>>) -> Result<PoolId, Stop> {
    let question = Question {
        sni: hello.and_then(|hello| hello.server_name.as_ref()).map(ServerName::as_str),
        alpn: hello.map_or_else(AlpnList::default, |hello| hello.alpn),
        version: hello.map(|hello| hello.version),
        source: session.client().ip(),
    };
    take_note(listener, session, listener.listener.route(&question))
}

/// Notes the rule for the record and returns its pool.
pub fn take_note(listener: &ListenerView, session: &Session, routed: Routed) -> Result<PoolId, Stop> {
    let (route, result) = match routed {
        Routed::ByRule(rule, pool) => (&listener.routes[rule as usize], Ok(pool)),
        Routed::ByDefault(pool) => (&listener.default_route, Ok(pool)),
        Routed::Rejected(rule, reject) => {
            let stop = Stop { reject: Some(reject), ..Stop::new(CloseReason::RouteRejected) };
            (&listener.routes[rule as usize], Err(stop))
        }
        Routed::Missed(miss) => return Err(Stop::no_route(miss)),
    };
    session.facts.borrow_mut().route = Some(Rc::clone(route));
    result
}
