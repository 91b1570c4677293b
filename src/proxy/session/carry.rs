//! What is known of a session on its way to another process: all that its record will say.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Facts, Micros, Rare, Session, Via};
use crate::decide::close::CloseReason;
use crate::decide::hello::proxy::{Cloud, Tlvs};
use crate::decide::hello::{Arrival, HelloFacts, Ja4, TlsVersion};
use crate::proxy::forward::Moved;
use crate::proxy::pick::Seat;
use crate::proxy::view::{BackendBrief, ListenerBrief, PoolBrief, RouteBrief};
use crate::proxy::wheel::Slot;

/// What a session shares with others, by its place in the message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Places {
    /// Listener.
    pub listener: usize,
    /// Pool.
    pub pool: usize,
    /// Backend, of one whose bytes flow.
    pub backend: Option<usize>,
}

/// The same, found again.
#[derive(Debug)]
pub struct Shares {
    /// Listener.
    pub listener: Rc<ListenerBrief>,
    /// Pool.
    pub pool: Rc<PoolBrief>,
    /// Backend, of one whose bytes flow.
    pub backend: Option<Rc<BackendBrief>>,
}

/// One session.
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionCopy {
    /// What it shares.
    pub shares: Places,
    id: u64,
    /// On `CLOCK_MONOTONIC`, which is one for all processes.
    started_ns: u64,
    started_ms: u64,
    client: SocketAddr,
    destination: SocketAddr,
    hello: Option<HelloCopy>,
    route: Option<String>,
    #[serde(default)]
    route_identity: u64,
    tries: u8,
    /// Hello, connect, sent and first byte, in microseconds.
    times: [Option<NonZeroU32>; 4],
    detail: Option<String>,
    via: Option<ViaCopy>,
    copied: [u64; 2],
    spliced: [u64; 2],
    reported: [u64; 4],
    moved_ticks: u32,
    order: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HelloCopy {
    sni: Option<String>,
    alpn: String,
    bytes: u32,
    records: u16,
    segments: u16,
    version: u16,
    ja4: String,
    ech: bool,
    post_quantum: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct ViaCopy {
    peer: SocketAddr,
    alpn: Option<Box<[u8]>>,
    authority: Option<Box<[u8]>>,
    unique_id: Option<Box<[u8]>>,
    cloud: Option<CloudCopy>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CloudCopy {
    Aws(Box<[u8]>),
    Azure(u32),
    Gcp(u64),
}

impl SessionCopy {
    /// Copies a session. `now_ns` is `CLOCK_MONOTONIC`.
    pub fn of(session: &Session, shares: Places, now_ns: u64) -> Self {
        let facts = session.facts.borrow();
        let time = |time: Option<Micros>| time.map(|Micros(micros)| micros);
        let cells = |cells: &[Cell<u64>; 2]| cells.each_ref().map(Cell::get);
        Self {
            shares,
            id: session.id,
            started_ns: now_ns.saturating_sub(session.started.elapsed().as_nanos() as u64),
            started_ms: session.started_ms,
            client: session.client(),
            destination: session.destination(),
            hello: facts.hello.as_deref().map(HelloCopy::of),
            route: facts.route.as_deref().map(|route| route.origin.to_string()),
            route_identity: facts.route.as_deref().map_or(0, |route| route.identity),
            tries: facts.tries,
            times: [facts.hello_time, facts.connect_time, facts.sent_time, facts.first_byte_time].map(time),
            detail: facts.detail().map(str::to_owned),
            via: facts.via().map(ViaCopy::of),
            copied: cells(&session.moved.copied),
            spliced: cells(&session.moved.spliced),
            reported: session.moved.reported().each_ref().map(Cell::get),
            moved_ticks: session.moved_ticks.get(),
            order: session.ordered().map(|reason| reason.name().to_owned()),
        }
    }

    /// Counts bytes up and down that were delivered by copying.
    pub fn count(&mut self, delivered: [u64; 2]) {
        for (copied, more) in self.copied.iter_mut().zip(delivered) {
            *copied += more;
        }
    }

    /// Makes the session again, with its seat if it had one.
    pub fn revive(self, slot: Slot, shares: Shares, now_ns: u64) -> Session {
        let Shares { listener, pool, backend } = shares;
        let [hello_time, connect_time, sent_time, first_byte_time] = self.times.map(|time| time.map(Micros));
        let mut facts = Facts {
            hello: self.hello.and_then(HelloCopy::revive).map(Box::new),
            route: self
                .route
                .map(|origin| Rc::new(RouteBrief { origin: origin.into(), identity: self.route_identity })),
            pool: Some(pool),
            seat: backend.map(Seat::taken_over),
            tries: self.tries,
            hello_time,
            connect_time,
            sent_time,
            first_byte_time,
            rare: None,
        };
        if self.detail.is_some() || self.via.is_some() {
            let via = self.via.map(ViaCopy::revive);
            facts.rare = Some(Box::new(Rare { detail: self.detail.map(Into::into), via }));
        }
        let age = Duration::from_nanos(now_ns.saturating_sub(self.started_ns));
        let now = Instant::now();
        Session {
            id: self.id,
            slot,
            started: now.checked_sub(age).unwrap_or(now),
            started_ms: self.started_ms,
            client: Cell::new(self.client),
            destination: Cell::new(self.destination),
            listener,
            facts: RefCell::new(facts),
            moved: Moved::carried(self.copied, self.spliced, self.reported),
            moved_ticks: Cell::new(self.moved_ticks),
            order: Cell::new(self.order.as_deref().and_then(CloseReason::named)),
            elsewhere: Cell::new(false),
            waker: RefCell::new(None),
        }
    }
}

impl HelloCopy {
    fn of(facts: &HelloFacts) -> Self {
        let HelloFacts { sni, alpn, arrival, version, ja4, ech, post_quantum } = facts;
        let Arrival { bytes, records, segments } = *arrival;
        Self {
            sni: sni.as_deref().map(str::to_owned),
            alpn: alpn.to_string(),
            bytes,
            records,
            segments,
            version: version.0,
            ja4: ja4.to_string(),
            ech: *ech,
            post_quantum: *post_quantum,
        }
    }

    fn revive(self) -> Option<HelloFacts> {
        Some(HelloFacts {
            sni: self.sni.map(Into::into),
            alpn: self.alpn.into(),
            arrival: Arrival { bytes: self.bytes, records: self.records, segments: self.segments },
            version: TlsVersion(self.version),
            ja4: Ja4::parse(&self.ja4)?,
            ech: self.ech,
            post_quantum: self.post_quantum,
        })
    }
}

impl ViaCopy {
    fn of(via: &Via) -> Self {
        let Tlvs { alpn, authority, unique_id, cloud } = via.tlvs.clone();
        let cloud = cloud.map(|cloud| match cloud {
            Cloud::Aws(id) => CloudCopy::Aws(id),
            Cloud::Azure(id) => CloudCopy::Azure(id),
            Cloud::Gcp(id) => CloudCopy::Gcp(id),
        });
        Self { peer: via.peer, alpn, authority, unique_id, cloud }
    }

    fn revive(self) -> Via {
        let Self { peer, alpn, authority, unique_id, cloud } = self;
        let cloud = cloud.map(|cloud| match cloud {
            CloudCopy::Aws(id) => Cloud::Aws(id),
            CloudCopy::Azure(id) => Cloud::Azure(id),
            CloudCopy::Gcp(id) => Cloud::Gcp(id),
        });
        Via { peer, tlvs: Tlvs { alpn, authority, unique_id, cloud } }
    }
}
