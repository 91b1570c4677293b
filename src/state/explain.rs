//! Explains where a connection would go: the rule, the pool, the backend, and why the others were passed over.
//! Serves `sluice route` on a file and on the running daemon alike; changes nothing.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::backend::{Backend, HealthIgnored, Standing};
use super::snapshot::{Listener, Pool, Room, Routed, Share, Snapshot};
use crate::config::{Access, Protocol};
use crate::decide::balance::{Ask, KeyFacts, KeyPart, MemberId, Method, PassedOver, Tier, Tried, hash_key};
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
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Explanation {
    /// The listener.
    pub listener: String,
    /// The rule as `file:line`, or `default` for the listener's own pool.
    pub rule: Option<String>,
    /// The pool.
    pub pool: Option<String>,
    /// How the pool chooses.
    pub balance: Option<&'static str>,
    /// What a hashed pool makes of the connection.
    pub key: Option<String>,
    /// Backends in the order in which they would be tried.
    pub order: Vec<String>,
    /// The backend that would be tried first.
    pub backend: Option<String>,
    /// The `end` that the record would have, when the connection is refused.
    pub refused: Option<&'static str>,
    /// Why, in words.
    pub reason: Option<String>,
    /// Every other backend and why it is not the first.
    pub others: Vec<OtherBackend>,
}

/// A backend that is not the first choice.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OtherBackend {
    /// Its name.
    pub backend: String,
    /// Why.
    pub why: String,
}

/// Explains a connection at `now_ms` on the coarse clock.
///
/// # Errors
/// When the listener does not exist or the server name is none.
pub fn explain(snapshot: &Snapshot, query: &RouteQuery, now_ms: u64) -> Result<Explanation, String> {
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
        key: None,
        order: Vec::new(),
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
            explain_pool(&snapshot.pools[pool], listener, query, now_ms, &mut answer);
        }
        Routed::ByDefault(pool) => {
            answer.rule = Some("default".to_owned());
            explain_pool(&snapshot.pools[pool], listener, query, now_ms, &mut answer);
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

fn explain_pool(pool: &Pool, listener: &Listener, query: &RouteQuery, now_ms: u64, answer: &mut Explanation) {
    let config = &pool.config;
    answer.pool = Some(config.name.to_string());
    answer.balance = Some(config.method.name());
    let alpn = AlpnList::encode(query.alpn.iter().map(String::as_bytes));
    let sni = query.sni.as_deref().and_then(|name| ServerName::from_wire(name.as_bytes()).ok().flatten());
    // Known where there is only one address to connect to.
    let destination = match *listener.config.bind {
        [only] if !only.ip().is_unspecified() => Some(only),
        _ => None,
    };
    let facts = KeyFacts { source: query.from, sni: sni.as_ref().map(ServerName::as_str), alpn: &alpn, destination };
    let mut key = None;
    if let Method::ConsistentHash(hashing) = config.method {
        key = hash_key(hashing.seed, &config.hash_key, &facts);
        let parts: Vec<&str> = config.hash_key.iter().map(|part| part.name()).collect();
        let is_guess = config.hash_key.contains(&KeyPart::Destination) && destination.is_none();
        answer.key = Some(match key {
            _ if is_guess => format!("{}: depends on the address that is connected to", parts.join("+")),
            Some(key) => format!("{} = {key:016x}", parts.join("+")),
            None => format!("{}: nothing to hash, by least connections", parts.join("+")),
        });
    }
    let ignoring = pool.state.places.health_ignored();
    let load = |member| match pool.room(member, ignoring, || now_ms) {
        Room::Yes(load) => Some(load),
        Room::Full | Room::Closed => None,
    };
    let tried = Tried::default();
    let totals = |tier| pool.totals(tier, 0);
    let ask = Ask { tried: &tried, key, random: 0, totals: &totals };
    let explained = pool.balancer.explain(&load, &ask, &pool.balancer.turns(0));
    let name = |member: MemberId| pool.backends[member].name.to_string();
    let tries = usize::from(config.connect_tries);
    answer.order = explained.order.iter().take(tries).map(|choice| name(choice.member)).collect();
    answer.backend = answer.order.first().cloned();
    if ignoring == HealthIgnored::Yes {
        answer.reason = Some("too little is healthy: health is ignored (panic-threshold)".to_owned());
    }
    let full = |member: &(MemberId, PassedOver)| pool.room(member.0, ignoring, || now_ms) == Room::Full;
    if let Some(most) = pool.state.places.taken.limit().filter(|_| pool.state.places.taken.is_full()) {
        answer.find_no_place(pool, format!("pool `{}` has its {most} connections", config.name));
    } else if answer.backend.is_none() && explained.passed_over.iter().any(full) {
        answer.find_no_place(pool, format!("no backend of pool `{}` has a place left", config.name));
    } else if answer.backend.is_none() {
        answer.refused = Some(CloseReason::NoBackend.name());
        answer.reason = Some(format!("no backend of pool `{}` takes connections", config.name));
    }
    let unresolved = pool.unresolved.iter();
    let unresolved = unresolved.map(|(name, why)| OtherBackend { backend: name.to_string(), why: (*why).to_owned() });
    answer.others = explained
        .passed_over
        .into_iter()
        .map(|(member, why)| OtherBackend { backend: name(member), why: why_not(pool, member, why) })
        .chain(unresolved)
        .collect();
}

impl Explanation {
    /// Every place is taken: it is refused, or waits where the pool has a line.
    fn find_no_place(&mut self, pool: &Pool, why: String) {
        self.order.clear();
        self.backend = None;
        if let Some(limit) = pool.config.queue_timeout {
            let (others, most) = (pool.state.places.waiting(), limit.as_millis());
            self.reason = Some(format!("{why}: it waits behind {others} others, for at most {most} ms"));
        } else {
            self.refused = Some(CloseReason::LimitReached.name());
            self.reason = Some(why);
        }
    }
}

fn why_not(pool: &Pool, member: MemberId, why: PassedOver) -> String {
    let (backend, share) = (&pool.backends[member], pool.shares[member]);
    let active = backend.active.count();
    match why {
        PassedOver::WeightZero => "weight 0".to_owned(),
        PassedOver::NotTaking => not_taking(backend, share),
        PassedOver::Tried => "tried already".to_owned(),
        PassedOver::LaterTier(Tier::BACKUP) => "backup".to_owned(),
        PassedOver::LaterTier(tier) => format!("tier {}: one of an earlier tier serves", tier.position()),
        PassedOver::AboveBound { load, cap } => {
            format!("above the load bound: {load} connections, at most {cap} with this one")
        }
        PassedOver::Later => match pool.config.method {
            Method::LeastConnections => {
                format!("next in line: {active} connections at weight {}", share.weight)
            }
            Method::RoundRobin => "next in line: another one's turn".to_owned(),
            Method::RandomTwo => "next in line: not drawn, or the heavier of two".to_owned(),
            Method::ConsistentHash(_) => "next in line: another one owns the key".to_owned(),
        },
    }
}

fn not_taking(backend: &Backend, share: Share) -> String {
    let vitals = backend.vitals();
    let since = vitals.since.strftime("%FT%TZ");
    match (backend.standing(), vitals.ejection) {
        (Standing::Down, _) if vitals.check.ok.is_none() => "not checked yet".to_owned(),
        (Standing::Down, _) => format!("down since {since}: {}", vitals.check.detail),
        (Standing::Ejected, Some(ejection)) => {
            format!("ejected until {}: {}", ejection.until.strftime("%FT%TZ"), ejection.detail)
        }
        (Standing::Draining | Standing::Disabled, _) => {
            let who = if vitals.overrides.admin.in_force().is_some() { "an operator's" } else { "its agent's" };
            format!("{} by {who} word since {since}", backend.standing().name())
        }
        (Standing::Up | Standing::Unchecked | Standing::Ejected, _) => {
            format!("at its limit: {} of {} connections", backend.active.count(), share.max_connections.unwrap_or(0))
        }
    }
}
