//! Reads what the client sends first and finds its pool. Second and third stop of the spine.
//! The hello is read, not peeked at, and goes to the backend as it came.

use std::rc::Rc;

use super::client::{Client, Tongue};
use super::proxy_header;
use super::refuse::Stop;
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use super::{postgres, refuse};
use crate::config::{PoolId, Protocol};
use crate::decide::close::CloseReason;
use crate::decide::hello::{
    AlpnList, Arrival, ClientHello, FirstBytes, HelloFacts, Joiner, Limits, Recognised, Refusal, ServerName, Step,
    joined, recognise, single_record,
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
    /// A PROXY header for the backend; empty when it wants none.
    pub header: Vec<u8>,
    /// Whether the backend must first be asked for TLS, as PostgreSQL's clients ask (`SSLRequest`).
    pub asks_for_tls: bool,
}

/// How long a client may take for its first bytes, and where it goes by them.
pub async fn inspect(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
) -> Result<Inspected, Stop> {
    let config = &listener.listener.config;
    if listener.expects_proxy_header(session.peer()) {
        proxy_header::read(worker, session, client).await?;
    }
    listener.admit_source(session)?;
    let deadline = session.started_ms + config.hello_timeout.as_millis() as u64;
    match config.protocol {
        Protocol::Tcp => {
            let pool = route(listener, session, None)?;
            Ok(Inspected::raw(listener, session, client, pool))
        }
        Protocol::Tls => match hello(worker, listener, session, client, deadline).await {
            // The server is to speak first.
            Err(stop) if stop.reason == CloseReason::HelloTimeout && client.bytes().is_empty() => {
                by_first_bytes(listener, session, client, FirstBytes::Silence).unwrap_or(Err(stop))
            }
            result => result,
        },
        Protocol::Postgres => postgres::inspect(worker, listener, session, client, deadline).await,
    }
}

impl Inspected {
    /// A connection that goes on as it is, without a hello.
    pub fn raw(listener: &ListenerView, session: &Session, client: &mut Client, pool: PoolId) -> Self {
        let header = proxy_header::outgoing(session, listener.pools[pool].pool.config.send_proxy, None);
        Self { bytes: client.take_bytes(), pool, header, asks_for_tls: false }
    }
}

/// Reads a hello and routes by it; or by what speaks instead, where a rule wants that.
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
        // What a rule may take is not refused before it is sure to be something else.
        let other =
            if seen == 0 && listener.routes_first_bytes() && bytes.first().is_some_and(|byte| *byte != HANDSHAKE) {
                recognise(bytes)
            } else {
                Recognised::Certain(FirstBytes::Unknown)
            };
        if let Recognised::Certain(spoken) = other {
            if spoken != FirstBytes::Unknown
                && let Some(result) = by_first_bytes(listener, session, client, spoken)
            {
                return result;
            }
            let bytes = client.bytes();
            if seen == 0
                && let Some(message) = single_record(bytes, limits)
            {
                let (pool, header) = read_hello(listener, session, message, client.reads(), bytes.len(), 1)?;
                return Ok(Inspected { bytes: client.take_bytes(), pool, header, asks_for_tls: false });
            }
            let step = joiner.push(&bytes[seen..]).map_err(|refusal| refused(listener, refusal))?;
            seen = bytes.len();
            if step == Step::Complete {
                let message = joined(bytes);
                let (pool, header) =
                    read_hello(listener, session, &message, client.reads(), bytes.len(), joiner.records())?;
                return Ok(Inspected { bytes: client.take_bytes(), pool, header, asks_for_tls: false });
            }
        }
        client.more(worker, session, deadline).await?;
    }
}

fn refused(listener: &ListenerView, refusal: Refusal) -> Stop {
    if refusal == Refusal::NotTls(FirstBytes::Proxy) && listener.listener.config.accept_proxy.is_some() {
        return refuse::bad_proxy_header("PROXY header from a source that `accept-proxy` does not name");
    }
    refusal.into()
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
        client.tongue = Tongue::Unknown;
    }
    let pool = take_note(listener, session, routed);
    Some(pool.map(|pool| Inspected::raw(listener, session, client, pool)))
}

/// Parses a whole hello, keeps its facts, and routes by it: the pool, and the PROXY header for its backends.
fn read_hello(
    listener: &ListenerView,
    session: &Session,
    message: &[u8],
    segments: u16,
    raw: usize,
    records: u32,
) -> Result<(PoolId, Vec<u8>), Stop> {
    let hello = ClientHello::parse(message)?;
    let took = session.started.elapsed();
    let records = u16::try_from(records).unwrap_or(u16::MAX);
    let arrival = Arrival { bytes: raw as u32, records, segments };
    {
        let mut facts = session.facts.borrow_mut();
        facts.hello = Some(Box::new(HelloFacts::of(&hello, arrival)));
        facts.hello_time = Some(took.into());
    }
    let shard = session.listener.shard();
    shard.hello_ok.add(1);
    shard.hello_seconds.observe(took.as_secs_f64());
    shard.hello_bytes.observe(raw as f64);
    shard.count_traits(&hello, arrival);
    let pool = route(listener, session, Some(&hello))?;
    let header = proxy_header::outgoing(session, listener.pools[pool].pool.config.send_proxy, Some(&hello));
    Ok((pool, header))
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
    let (name, result) = match routed {
        Routed::ByRule(rule, pool) => (&listener.origins[rule as usize], Ok(pool)),
        Routed::ByDefault(pool) => (&listener.default_origin, Ok(pool)),
        Routed::Rejected(rule, reject) => {
            let stop = Stop { reject: Some(reject), ..Stop::new(CloseReason::RouteRejected) };
            (&listener.origins[rule as usize], Err(stop))
        }
        Routed::Missed(miss) => return Err(Stop::no_route(miss)),
    };
    session.facts.borrow_mut().route = Some(Rc::clone(name));
    result
}
