//! Explains where a connection would go: the rule, the pool, the backend, and why the others were passed over.
//! Serves `sluice route` on a file and on the running daemon alike; changes nothing.

use std::net::IpAddr;

use serde::Serialize;

use super::backend::Standing;
use super::snapshot::{Pool, Routed, Snapshot};
use crate::config::{Access, Protocol};
use crate::decide::balance::{Method, Tried, Turns, source_key};
use crate::decide::close::CloseReason;
use crate::decide::hello::{AlpnList, FirstBytes, Refusal, ServerName, TlsVersion};
use crate::decide::route::Question;

/// A connection to explain.
#[derive(Clone, Debug)]
pub struct RouteQuery {
    /// Name of the listener.
    pub listener: String,
    /// Server name, as a client would send it.
    pub sni: Option<String>,
    /// Offered application protocols.
    pub alpn: Vec<String>,
    /// Highest offered version of TLS.
    pub tls: TlsVersion,
    /// What speaks instead, when it is not TLS.
    pub first_bytes: Option<FirstBytes>,
    /// Handshake bytes of the hello, where they are known.
    pub hello_bytes: Option<usize>,
    /// The client.
    pub from: IpAddr,
}

impl RouteQuery {
    /// A TLS 1.3 client without a name from this machine.
    pub fn new(listener: impl Into<String>) -> Self {
        let from = IpAddr::from([127, 0, 0, 1]);
        Self {
            listener: listener.into(),
            sni: None,
            alpn: Vec::new(),
            tls: TlsVersion(0x0304),
            first_bytes: None,
            hello_bytes: None,
            from,
        }
    }
}

/// What would become of the connection.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The listener.
    pub listener: String,
    /// The rule as `file:line`, or `default` for the listener's own pool.
    pub rule: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// How the pool chooses.
    pub balance: Option<&'static str>,
    /// The backend that would be tried first.
    pub backend: Option<String>,
    /// The `end` that the record would have, when the connection is refused.
    pub refused: Option<&'static str>,
    /// Why, in words.
    pub reason: Option<String>,
    /// Every other backend and why it is not the first.
    pub others: Vec<PassedOver>,
}

/// A backend that is not the first choice.
#[derive(Clone, Debug, Serialize)]
pub struct PassedOver {
    /// Its name.
    pub backend: String,
    /// Why.
    pub why: String,
}

/// Explains a connection.
///
/// # Errors
/// When the listener does not exist or the server name is none.
pub fn explain(snapshot: &Snapshot, query: &RouteQuery) -> Result<Explanation, String> {
    let Some(listener) = snapshot.listener_named(&query.listener) else {
        let names: Vec<&str> = snapshot.listeners.iter().map(|listener| &*listener.config.name).collect();
        return Err(format!("no listener is called `{}`; there are: {}", query.listener, names.join(", ")));
    };
    let sni = match &query.sni {
        Some(name) => ServerName::from_wire(name.as_bytes()).map_err(|refusal| refusal.to_string())?,
        None => None,
    };
    let mut answer = Explanation {
        listener: query.listener.clone(),
        rule: None,
        pool: None,
        balance: None,
        backend: None,
        refused: None,
        reason: None,
        others: Vec::new(),
    };
    if listener.config.access.longest(query.from) != Some(Access::Allow) {
        answer.refused = Some(CloseReason::SourceDenied.name());
        answer.reason = Some(format!("{} is not allowed by `allow` and `deny`", query.from));
        return Ok(answer);
    }
    let alpn = AlpnList::encode(query.alpn.iter().map(String::as_bytes));
    let is_tls = listener.config.protocol != Protocol::Tcp && listener.config.only_pool().is_none();
    let question = Question {
        sni: sni.as_ref().map(ServerName::as_str),
        alpn: AlpnList::from_encoded(&alpn),
        version: is_tls.then_some(query.tls),
        source: query.from,
    };
    let limit = listener.config.max_hello;
    if let Some(claimed) = query.hello_bytes.filter(|bytes| is_tls && *bytes > limit) {
        let refusal = Refusal::TooLarge { claimed, limit };
        answer.refused = Some(refusal.close_reason().name());
        answer.reason = Some(refusal.to_string());
        return Ok(answer);
    }
    let routed = match query.first_bytes.filter(|_| is_tls) {
        None => listener.route(&question),
        Some(spoken) => {
            let Some(routed) = listener.route_first_bytes(spoken, query.from) else {
                answer.refused = Some(CloseReason::NotTls.name());
                answer.reason = Some(format!("no route for first bytes of {}", spoken.name()));
                return Ok(answer);
            };
            routed
        }
    };
    match routed {
        Routed::ByRule(rule, pool) => {
            answer.rule = Some(listener.origin(rule).to_owned());
            explain_pool(&snapshot.pools[pool], query, &mut answer);
        }
        Routed::ByDefault(pool) => {
            answer.rule = Some("default".to_owned());
            explain_pool(&snapshot.pools[pool], query, &mut answer);
        }
        Routed::Rejected(rule, _) => {
            answer.rule = Some(listener.origin(rule).to_owned());
            answer.refused = Some(CloseReason::RouteRejected.name());
            answer.reason = Some("the rule rejects".to_owned());
        }
        Routed::Missed(miss) => {
            answer.refused = Some(CloseReason::NoRoute.name());
            answer.reason = Some(format!("{}, and the listener has no pool of its own", miss.text()));
        }
    }
    Ok(answer)
}

fn explain_pool(pool: &Pool, query: &RouteQuery, answer: &mut Explanation) {
    answer.pool = Some(pool.config.name.to_string());
    answer.balance = Some(pool.config.method.name());
    let key = source_key(query.from);
    let mut turns = Turns::new(pool.backends.len(), 0);
    let load = |member: usize| pool.backends[member].load();
    let pick = pool.balancer.next(&load, &Tried::default(), key, 0, &mut turns);
    if pick.is_none() {
        answer.refused = Some(CloseReason::NoBackend.name());
        answer.reason = Some(format!("no backend of pool `{}` takes connections", pool.config.name));
    }
    answer.backend = pick.map(|member| pool.backends[member].name.to_string());
    for (member, backend) in pool.backends.iter().enumerate().filter(|(member, _)| pick != Some(*member)) {
        let config = &pool.config.backends[member];
        let vitals = backend.vitals();
        let why = match backend.standing() {
            Standing::Down if vitals.check.ok.is_none() => "not checked yet".to_owned(),
            Standing::Down => format!("down since {}: {}", vitals.since.strftime("%FT%TZ"), vitals.check.detail),
            Standing::Draining => "draining by an operator's word".to_owned(),
            Standing::Disabled => "disabled by an operator's word".to_owned(),
            Standing::Up | Standing::Unchecked if config.weight == 0 => "weight 0".to_owned(),
            Standing::Up | Standing::Unchecked => match pool.config.method {
                _ if config.backup => "backup".to_owned(),
                Method::LeastConnections => {
                    format!("next in line: {} connections at weight {}", backend.load().unwrap_or(0), config.weight)
                }
                Method::RoundRobin => "next in line: another one's turn".to_owned(),
                Method::RandomTwo => "next in line: not drawn, or the heavier of two".to_owned(),
                Method::ConsistentHash => "next in line: another one owns the key".to_owned(),
            },
        };
        answer.others.push(PassedOver { backend: backend.name.to_string(), why });
    }
    let unresolved = pool.unresolved.iter();
    answer
        .others
        .extend(unresolved.map(|(name, why)| PassedOver { backend: name.to_string(), why: (*why).to_owned() }));
}
