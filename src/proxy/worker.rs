//! One worker: a thread with a runtime of its own, its listening sockets, sessions, buffer, pipes and records.
//! The control plane speaks to it by commands; it shares nothing else but atomics.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

use super::command::Command;
use super::doors::{self, Doors, install};
use super::faults::{self, Essential, WORKER_THREAD, essential, provoke};
use super::forward::Pipes;
use super::hand_over::{self, Comes};
use super::hold::{Besides, Held};
use super::listing::list;
use super::postgres::backends_of;
use super::ready;
use super::refusal_log::Refusals;
use super::sessions::Sessions;
use super::view::{PoolView, Pools};
use crate::config::{Log, LogFormat, LogSessions};
use crate::decide::balance::next_random;
use crate::decide::close::CloseReason;
use crate::state::{Matching, Shared, WorkerCounters};
use crate::sys::clock::{coarse_ms, thread_cpu_micros};
use crate::sys::limits;

/// Bytes of the worker's buffer: one read of a copying direction. Chosen with the break-even of splicing.
const BUFFER: usize = 64 * 1024;
/// Records are handed over after this time, or once this many bytes wait.
const RECORD_DELAY: Duration = Duration::from_millis(10);
const RECORD_BATCH: usize = 64 * 1024;
/// How long no ready connections are made after descriptors ran out.
const EXHAUSTED_MS: u64 = 5000;
/// Sessions that count as a burst once they are gone; fewer leave nothing worth giving back.
const BURST: usize = 1000;
/// How often the heart beats and idle pipes are closed.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A running worker.
#[derive(Debug)]
pub struct WorkerHandle {
    /// Where commands go.
    pub commands: mpsc::UnboundedSender<Command>,
    /// Its thread.
    pub thread: JoinHandle<()>,
}

/// The state of one worker, on its own thread.
#[derive(Debug)]
pub struct Worker {
    /// Number, from 0.
    pub id: usize,
    /// State of the whole process.
    pub shared: Arc<Shared>,
    /// Open sessions.
    pub sessions: Sessions,
    /// Sessions that are put aside.
    pub held: Held,
    /// Where bytes pass through; borrowed only between two polls, never across one.
    pub buffer: RefCell<Box<[u8]>>,
    /// Pipes for splicing.
    pub pipes: Pipes,
    /// Connections at once over all workers.
    pub max_connections: Cell<u32>,
    /// Workers that accept connections.
    pub staff: Cell<usize>,
    /// Whether this one is none of them any more.
    pub rests: Cell<bool>,
    /// Whether it runs on one CPU only.
    pub pinned: Cell<bool>,
    /// How records look.
    pub log: RefCell<Log>,
    /// Rung when a ready connection was used, or pools changed.
    pub ready_wanted: Notify,
    pools: RefCell<Pools>,
    peers: RefCell<Vec<mpsc::WeakUnboundedSender<Command>>>,
    /// What floods of refusals may write.
    pub refusals: Refusals,
    records: RefCell<Vec<u8>>,
    records_waiting: Notify,
    /// Until when ready connections are given up, on the coarse clock.
    exhausted: Cell<u64>,
    random: Cell<u64>,
    next_session: Cell<u64>,
}

/// Starts a worker. `seed` is a random number of the process.
///
/// # Errors
/// When the thread or its runtime cannot be started.
pub fn spawn(id: usize, shared: Arc<Shared>, log: Log, seed: u64) -> io::Result<WorkerHandle> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (started, outcome) = std::sync::mpsc::sync_channel(1);
    // A runtime cannot move between threads, so it is built on its own and the outcome reported.
    let body = move || {
        let _essential = Essential;
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                drop(started.send(Ok(())));
                runtime.block_on(run(Rc::new(Worker::new(id, shared, log, seed)), inbox));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    };
    let thread = thread::Builder::new().name(format!("{WORKER_THREAD}{id}")).spawn(body)?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended at once")))?;
    Ok(WorkerHandle { commands, thread })
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    let background = Rc::clone(&worker);
    spawn_local(essential(async move { background.sessions.keep_time().await }));
    spawn_local(essential(Rc::clone(&worker).write_records()));
    spawn_local(essential(Rc::clone(&worker).beat()));
    spawn_local(essential(ready::keep(Rc::clone(&worker))));
    let (mut doors, mut rests) = (Doors::new(), false);
    let heir = loop {
        match inbox.recv().await {
            Some(Command::Install(generation, answer)) => {
                install(&worker, generation, &mut doors);
                // Whoever asked may not wait.
                let _ = answer.send(());
            }
            Some(Command::Sockets(answer)) => drop(answer.send(doors::duplicate(&doors))),
            Some(Command::HandOver(passage, answer)) => {
                doors::rest(&doors);
                rests = true;
                worker.hold(hand_over::besides(&passage)).await;
                let _ = answer.send(hand_over::send_held(&worker, &passage));
            }
            Some(Command::GoOn) => {
                if std::mem::take(&mut rests) {
                    doors::open(&worker, &mut doors);
                }
                worker.release();
            }
            Some(Command::LetGo(passage)) => break Some(passage),
            Some(Command::Leave) | None => break None,
            Some(other) => worker.obey(other),
        }
    };
    worker.set_pools(Rc::new([]));
    if let Some(passage) = heir {
        drop(doors);
        hand_over::let_go(&worker);
        let worker = Rc::clone(&worker);
        spawn_local(essential(async move { hand_over::send_late(&worker, &passage).await }));
    } else {
        doors::close(doors).await;
    }
    loop {
        tokio::select! {
            () = worker.sessions.until_empty() => break,
            command = inbox.recv() => match command {
                Some(command) => worker.obey(command),
                None => _ = worker.end(&Matching::All, CloseReason::Shutdown, usize::MAX),
            },
        }
    }
    worker.sum_up_refusals();
    worker.hand_over_records();
}

impl Worker {
    fn new(id: usize, shared: Arc<Shared>, log: Log, seed: u64) -> Self {
        Self {
            id,
            sessions: Sessions::new(),
            held: Held::default(),
            buffer: RefCell::new(vec![0; BUFFER].into_boxed_slice()),
            pipes: Pipes::new(Arc::clone(&shared), id),
            max_connections: Cell::new(0),
            staff: Cell::new(1),
            rests: Cell::new(false),
            pinned: Cell::new(false),
            log: RefCell::new(log),
            ready_wanted: Notify::new(),
            pools: RefCell::new(Rc::new([])),
            peers: RefCell::default(),
            refusals: Refusals::default(),
            records: RefCell::default(),
            records_waiting: Notify::new(),
            exhausted: Cell::new(0),
            random: Cell::new(next_random(seed ^ id as u64)),
            // 16 random bits of the process, 8 of the worker, 40 to count with.
            next_session: Cell::new((seed & 0xffff) << 48 | (id as u64 & 0xff) << 40),
            shared,
        }
    }

    /// This worker's own counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.shared.workers[self.id]
    }

    /// A random number; good for balancing, not for secrets.
    pub fn random(&self) -> u64 {
        let number = next_random(self.random.get());
        self.random.set(number);
        number
    }

    /// The next session's id.
    pub fn next_session_id(&self) -> u64 {
        let id = self.next_session.get() + 1;
        self.next_session.set(id);
        id
    }

    /// Does what needs no listening socket; the rest does not concern a worker that leaves.
    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            // Whoever asked may not want to know, or have gone away.
            Command::End { matching, reason, most, answer } => _ = answer.send(self.end(&matching, reason, most)),
            Command::List(wanted, answer) => drop(spawn_local(essential(list(Rc::clone(self), wanted, answer)))),
            // As above.
            Command::Locate { listener, source, answer } => drop(answer.send(backends_of(self, &listener, source))),
            Command::Meet(peers, place) => {
                self.peers.replace(peers);
                self.run_at(&place);
            }
            Command::Hold => self.held.begin(Besides::Waiting),
            Command::TakeUp(parcel, heirs, answer) => {
                drop(answer.send(hand_over::take_up(self, parcel, &heirs, Comes::WithAll)));
            }
            Command::TakeUpLate(parcel, heirs) => self.take_up_late(parcel, &heirs),
            Command::Count(tallies, snapshot, answer) => {
                tallies.add_to(&self.shared, &snapshot, self.id);
                let _ = answer.send(());
            }
            // For a worker that does not leave.
            Command::Install(..)
            | Command::Leave
            | Command::Sockets(_)
            | Command::HandOver(..)
            | Command::LetGo(..)
            | Command::GoOn => {}
        }
    }

    /// Takes the pools of a generation; without any, ready connections are given up.
    pub fn set_pools(&self, pools: Pools) {
        // Who waits may find room in them.
        let all = Rc::clone(&pools);
        self.pools.replace(pools);
        all.iter().for_each(|pool| pool.brief.state.places.call());
        self.ready_wanted.notify_one();
    }

    /// A pool as the present generation has it, or as it was when it is gone.
    pub fn present(&self, pool: &Rc<PoolView>) -> Rc<PoolView> {
        let pools = self.pools.borrow();
        let present = pools.iter().find(|now| Arc::ptr_eq(&now.brief.state, &pool.brief.state));
        Rc::clone(present.unwrap_or(pool))
    }

    /// The pools of the present generation.
    pub fn pools(&self) -> Pools {
        Rc::clone(&self.pools.borrow())
    }

    /// Whether places or descriptors run short: what is kept only for speed is given up.
    pub fn is_pressed(&self) -> bool {
        let most = self.max_connections.get();
        self.exhausted.get() > coarse_ms() || self.shared.active.load(Ordering::Relaxed) >= most - most / 10
    }

    /// Descriptors or memory ran out: gives up spare pipes and ready connections now, and has none of these for a while.
    pub fn note_exhaustion(&self) {
        self.pipes.trim();
        self.exhausted.set(coarse_ms() + EXHAUSTED_MS);
        self.ready_wanted.notify_one();
    }

    /// The other workers that are still there.
    pub fn peers(&self) -> Vec<mpsc::UnboundedSender<Command>> {
        self.peers.borrow().iter().filter_map(mpsc::WeakUnboundedSender::upgrade).collect()
    }

    /// Has sessions end, `most` at most of those that were not told yet. Returns how many were told.
    pub fn end(&self, matching: &Matching, reason: CloseReason, most: usize) -> u64 {
        let mut left = most;
        self.sessions.for_each(|session| {
            let facts = session.facts.borrow();
            let backend = facts.seat.as_ref().map(|seat| &seat.backend().backend);
            let meant = match matching {
                Matching::All => true,
                Matching::Backend(wanted) => backend.is_some_and(|backend| Arc::ptr_eq(backend, wanted)),
                Matching::Ids(wanted) => wanted.contains(&session.id),
                Matching::Routes(wanted) => facts.route.as_ref().is_some_and(|route| {
                    wanted.get(&session.listener.state.name).is_some_and(|rules| rules.contains(&route.identity))
                }),
            };
            drop(facts);
            if meant && left > 0 && session.ordered().is_none() {
                left -= 1;
                session.order(reason);
            }
        });
        (most - left) as u64
    }

    /// Appends a record line that `write` formats.
    pub fn record(&self, write: impl FnOnce(&mut Vec<u8>, LogFormat)) {
        let mut records = self.records.borrow_mut();
        let (was_empty, length) = (records.is_empty(), records.len());
        if faults::contained(|| write(&mut records, self.log.borrow().format)).is_none() {
            // Half a line would spoil the next one.
            records.truncate(length);
            self.counters().faults.add(1);
        }
        let full = records.len() >= RECORD_BATCH;
        drop(records);
        if full {
            self.hand_over_records();
        } else if was_empty {
            self.records_waiting.notify_one();
        }
    }

    /// Whether records are written for this kind of event.
    pub fn records_starts(&self) -> bool {
        self.log.borrow().sessions == LogSessions::Both
    }

    /// Whether records are written at all.
    pub fn records_ends(&self) -> bool {
        self.log.borrow().sessions != LogSessions::Off
    }

    /// Whether the records of a session are written although nothing went wrong; otherwise one more is counted as left out.
    /// The id decides, so that a start and its end are written both or neither.
    pub fn samples(&self, session: u64) -> bool {
        let share = self.log.borrow().sample;
        let is_in = share >= 1.0 || (next_random(session) as f64) < share * u64::MAX as f64;
        if !is_in {
            self.counters().sampled_out.add(1);
        }
        is_in
    }

    /// Gives the records that wait to the log.
    pub fn hand_over_records(&self) {
        let lines = std::mem::take(&mut *self.records.borrow_mut());
        if !lines.is_empty() {
            self.shared.log.send(lines);
        }
    }

    async fn write_records(self: Rc<Self>) {
        loop {
            self.records_waiting.notified().await;
            tokio::time::sleep(RECORD_DELAY).await;
            self.hand_over_records();
        }
    }

    /// Says what a flood of refusals kept out of the log, at most once a second.
    fn sum_up_refusals(&self) {
        self.refusals.sum_up(|listener, count, reasons| {
            self.shared.log.count_dropped(count);
            tracing::warn!(listener, worker = self.id, count, reasons, "refusals too many to record one by one");
        });
    }

    /// Beats, for the watchdog, closes pipes that were needed once, and gives memory back after a burst.
    async fn beat(self: Rc<Self>) {
        let (mut most, mut before) = (0, 0);
        loop {
            self.counters().heartbeats.add(1);
            provoke("beating", || Some(self.counters().heartbeats.get().to_string()));
            let used = self.counters().cpu_earlier.get() + thread_cpu_micros();
            self.counters().cpu_micros.store(used, Ordering::Relaxed);
            self.sum_up_refusals();
            if self.counters().pipes_in_use.load(Ordering::Relaxed) == 0 {
                self.pipes.trim();
            }
            let open = self.sessions.count();
            // Once they have ended: what ends later would be given back only after the next burst.
            let still_ending = before > open + BURST / 4;
            if most > BURST && open < most / 2 && !still_ending {
                most = open;
                limits::trim_memory();
            }
            most = most.max(open);
            before = open;
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}
