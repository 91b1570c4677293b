//! The spine: one connection from accept to record.
//!
//! Every stage takes what the one before produced and returns the next thing or why the connection ends;
//! counting and logging happen in `record`, exactly once for every accepted connection.

pub mod carry;
mod micros;
mod serve;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

pub use micros::Micros;
pub use serve::{go_on, resume, serve};
use socket2::Socket;

use super::client::{Client, RefusalLanguage};
use super::connect::{Connected, connect};
use super::faults;
use super::first_write::FirstWrite;
use super::forward::{Flow, Legs, Moved};
use super::inspect::inspect;
use super::pick::Seat;
use super::queue::InLine;
use super::queue::carry::Ticket;
use super::record;
use super::refuse::{Stop, refuse};
use super::view::{ListenerBrief, ListenerView, PoolBrief, RelayPlan, RouteBrief};
use super::wheel::Slot;
use super::worker::Worker;
use crate::config::Protocol;
use crate::decide::close::CloseReason;
use crate::decide::hello::HelloFacts;
use crate::decide::hello::proxy::{Addresses, Tlvs};
use crate::state::Turn;
use crate::sys::clock::coarse_ms;

/// A connection as it comes from `accept`.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking, not yet registered anywhere.
    pub socket: Socket,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// One connection while it is open: what the record will say, and how to reach its task.
#[derive(Debug)]
pub struct Session {
    /// Unique over restarts: random process part, worker, counter.
    pub id: u64,
    pub(super) slot: Slot,
    /// When it was accepted.
    pub started: Instant,
    /// The same on the coarse clock.
    pub started_ms: u64,
    client: Cell<SocketAddr>,
    destination: Cell<SocketAddr>,
    /// The listener.
    pub listener: Rc<ListenerBrief>,
    /// What the stages found.
    pub facts: RefCell<Facts>,
    /// Bytes moved so far.
    pub moved: Moved,
    /// When the last byte moved, or when it was accepted.
    moved_ticks: Cell<u32>,
    order: Cell<Option<CloseReason>>,
    elsewhere: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What the stages found, for the record.
#[derive(Debug, Default)]
pub struct Facts {
    /// The hello, once it was whole and valid.
    pub hello: Option<Box<HelloFacts>>,
    /// The rule, or what stands for the listener's own pool.
    pub route: Option<Rc<RouteBrief>>,
    /// The pool.
    pub pool: Option<Rc<PoolBrief>>,
    /// The seat at the backend; giving it up ends the count.
    pub seat: Option<Seat>,
    /// Backends tried.
    pub tries: u8,
    /// From accept to a whole hello.
    pub hello_time: Option<Micros>,
    /// From the first SYN to an established connection, of the attempt that succeeded.
    pub connect_time: Option<Micros>,
    /// From accept to the backend's first bytes, or to its established connection when nothing is sent.
    pub sent_time: Option<Micros>,
    /// From then to the backend's first byte.
    pub first_byte_time: Option<Micros>,
    rare: Option<Box<Rare>>,
}

/// What few sessions have; behind a pointer, so that the others do not pay for it.
#[derive(Debug, Default)]
pub struct Rare {
    /// Why exactly, in words, when something went wrong.
    pub detail: Option<Box<str>>,
    via: Option<Via>,
}

/// The proxy in front of us whose PROXY header was believed.
#[derive(Debug)]
pub struct Via {
    /// Its address.
    pub peer: SocketAddr,
    /// What its header said besides addresses.
    pub tlvs: Tlvs,
}

impl Facts {
    /// Why exactly, in words, when something went wrong.
    pub fn detail(&self) -> Option<&str> {
        self.rare.as_ref()?.detail.as_deref()
    }

    /// The proxy that the connection came through.
    pub fn via(&self) -> Option<&Via> {
        self.rare.as_ref()?.via.as_ref()
    }

    /// What few sessions have, to be filled in.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// Everything before bytes flow: inspect, route, balance, connect; or tell the client why not.
async fn establish(
    worker: Rc<Worker>,
    listener: Rc<ListenerView>,
    session: Rc<Session>,
    mut client: Client,
) -> Result<Flow, CloseReason> {
    let result = stages(&worker, &listener, &session, &mut client).await;
    begin_flow(&worker, &session, client, result).await
}

/// The same for one that waited for a place in another process.
async fn establish_resumed(
    worker: Rc<Worker>,
    session: Rc<Session>,
    ticket: Ticket,
    turn: Turn,
) -> Result<Flow, CloseReason> {
    let Ticket { client, language, first, key, until_ms, .. } = ticket;
    let in_line = InLine { until_ms, turn };
    let mut client = Client::resumed(client, language);
    let result = match worker.pool_of(&session) {
        Ok(pool) => {
            session.facts.borrow_mut().pool = Some(Rc::clone(&pool.brief));
            connect(&worker, &session, pool, &mut client, (first, key), Some(in_line)).await
        }
        Err(gone) => Err(gone),
    };
    begin_flow(&worker, &session, client, result).await
}

async fn begin_flow(
    worker: &Rc<Worker>,
    session: &Session,
    mut client: Client,
    result: Result<Connected, Stop>,
) -> Result<Flow, CloseReason> {
    let result = result.and_then(|connected| {
        client.take_stream().map(|stream| Flow::new(stream, connected, &session.moved)).map_err(Stop::local)
    });
    match result {
        Ok(flow) => {
            record::established(worker, session);
            Ok(flow)
        }
        Err(stop) => {
            let reason = stop.reason;
            Box::pin(refuse(worker, session, client, stop)).await;
            Err(reason)
        }
    }
}

async fn stages(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Rc<Session>,
    client: &mut Client,
) -> Result<Connected, Stop> {
    listener.admit()?;
    let inspected = inspect(worker, listener, session, client).await?;
    let pool = Rc::clone(&listener.pools[inspected.pool]);
    session.facts.borrow_mut().pool = Some(Rc::clone(&pool.brief));
    faults::provoke("connecting", || session.server_name());
    let key = inspected.key;
    connect(worker, session, pool, client, (FirstWrite::of(inspected), key), None).await
}

impl Session {
    fn begin(worker: &Worker, listener: &ListenerView, accepted: Accepted) -> (Rc<Self>, Client) {
        let Accepted { socket, client, destination } = accepted;
        let session = worker.sessions.enter(|slot| Self {
            id: worker.next_session_id(),
            slot,
            started: Instant::now(),
            started_ms: coarse_ms(),
            client: Cell::new(client),
            destination: Cell::new(destination),
            listener: Rc::clone(&listener.brief),
            facts: RefCell::default(),
            moved: Moved::default(),
            moved_ticks: Cell::new(ticks(coarse_ms())),
            order: Cell::new(None),
            elsewhere: Cell::new(false),
            waker: RefCell::new(None),
        });
        record::begun(worker, &session);
        let language = match listener.listener.config.protocol {
            Protocol::Tls => RefusalLanguage::Tls,
            Protocol::Postgres => RefusalLanguage::Postgres,
            Protocol::Tcp => RefusalLanguage::Unknown,
        };
        (session, Client::new(socket, language))
    }

    /// The server name of its hello.
    pub fn server_name(&self) -> Option<String> {
        self.facts.borrow().hello.as_ref()?.sni.as_deref().map(str::to_owned)
    }

    /// The client: who connected, or whom a PROXY header named.
    pub fn client(&self) -> SocketAddr {
        self.client.get()
    }

    /// The address that the client connected to.
    pub fn destination(&self) -> SocketAddr {
        self.destination.get()
    }

    /// Takes note of when the backend's first byte came, if that was not before.
    pub fn note_first_byte(&self) {
        if self.moved.down() == 0 {
            return;
        }
        let facts = &mut *self.facts.borrow_mut();
        if facts.first_byte_time.is_none() {
            let since = |sent| self.started.elapsed().saturating_sub(Duration::from(sent)).into();
            facts.first_byte_time = facts.sent_time.map(since);
        }
    }

    /// Which way its bytes take, and how its legs are watched. A session without a pool moves no bytes.
    pub fn plan(&self) -> (RelayPlan, Legs) {
        let facts = self.facts.borrow();
        let pool = facts.pool.as_ref().unwrap_or_else(|| unreachable!("bytes flow only once there is a pool"));
        (pool.relay, Legs { client: self.listener.client_leg(pool.leg), backend: pool.leg })
    }

    /// Who connected to us.
    pub fn peer(&self) -> SocketAddr {
        self.facts.borrow().via().map_or(self.client(), |via| via.peer)
    }

    /// Takes note of a PROXY header: from here on its addresses count, where it has any.
    pub fn came_via(&self, via: Via, addresses: Option<Addresses>) {
        self.facts.borrow_mut().rare().via = Some(via);
        if let Some(Addresses { source, destination }) = addresses {
            self.client.set(source);
            self.destination.set(destination);
        }
    }

    /// Asks the session to end for this reason; the first order stands.
    pub fn order(&self, reason: CloseReason) {
        if self.order.get().is_none() {
            self.order.set(Some(reason));
            self.wake();
        }
    }

    /// Takes an order back that does not concern the session any more.
    pub fn forget_order(&self) {
        self.order.set(None);
    }

    /// The reason for which it is asked to end.
    pub fn ordered(&self) -> Option<CloseReason> {
        self.order.get()
    }

    /// Another process has it: its task ends without a word.
    pub fn leave(&self) {
        self.elsewhere.set(true);
        self.wake();
    }

    /// Whether another process has it.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.get()
    }

    /// Wakes the session's task.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Remembers how to wake the session's task.
    pub fn remember(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Waits for `future` until `at_ms`, then ends with `late`; an order to end comes first.
    /// Dropping it drops `future`.
    pub async fn until<F: Future>(
        &self,
        worker: &Worker,
        at_ms: u64,
        late: CloseReason,
        future: F,
    ) -> Result<F::Output, CloseReason> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Some(reason) = self.ordered() {
                return Poll::Ready(Err(reason));
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if coarse_ms() >= at_ms {
                return Poll::Ready(Err(late));
            }
            self.remember(cx.waker());
            worker.sessions.arm(self, at_ms);
            Poll::Pending
        })
        .await
    }

    /// Bytes moved just now.
    pub fn touch(&self, now_ms: u64) {
        self.moved_ticks.set(ticks(now_ms));
    }

    /// How long it has been silent, true to some milliseconds.
    pub fn idle_ms(&self, now_ms: u64) -> u64 {
        u64::from(ticks(now_ms).wrapping_sub(self.moved_ticks.get())) << TICK_BITS
    }
}

/// A time on the coarse clock in four bytes, in steps of 16 ms; enough for two years.
const fn ticks(now_ms: u64) -> u32 {
    (now_ms >> TICK_BITS) as u32
}

const TICK_BITS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::serve::Serve;
    use super::*;

    /// Within the largest size that the allocator keeps apart for its next taker (1032 bytes in glibc): the hole that a
    /// larger one leaves is cut up by small allocations of the next session, and each session then costs memory for good.
    #[test]
    fn set_up_of_a_session_leaves_no_hole_in_the_heap() {
        fn size<Set: Future>(_: impl Fn(Rc<Worker>, Rc<ListenerView>, Rc<Session>, Client) -> Set) -> usize {
            size_of::<Set>()
        }
        assert!(size(establish) <= 1032, "future: {} bytes", size(establish));
    }

    /// performance.md 3: an idle session's task within 768 bytes, its record's facts within about 512.
    #[test]
    fn state_of_an_idle_session_stays_small() {
        assert!(size_of::<Serve>() <= 160, "future: {} bytes", size_of::<Serve>());
        assert!(size_of::<Session>() <= 288, "session: {} bytes", size_of::<Session>());
        assert!(size_of::<HelloFacts>() <= 72, "facts of the hello: {} bytes", size_of::<HelloFacts>());
    }
}
