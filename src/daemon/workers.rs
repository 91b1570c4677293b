//! The workers as the control plane sees them: starts them, gives them their sockets, and passes on what they are told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::given::Listeners;
use crate::api::{SessionReport, SessionsParams};
use crate::control::{DataPlane, PrepareError};
use crate::decide::close::CloseReason;
use crate::proxy::{self, Command, Generation, Listening, Place, Sockets, WorkerHandle};
use crate::state::{Heirs, Matching, Shared, Snapshot, Tallies};
use crate::sys::channel::{Parcel, Passage};
use crate::sys::privileges::Binding;
use crate::sys::{descriptors, limits, socket};

/// Workers have closed a listening socket by then.
const CLOSING: Duration = Duration::from_secs(5);
/// Longest wait for the listening sockets of workers that become more or fewer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The workers.
pub struct Workers {
    /// Those that run. A reload that makes them fewer leaves the rest without listening sockets: their sessions go on.
    handles: Vec<WorkerHandle>,
    /// How the next one is started; `None` before the first.
    hiring: Option<Hiring>,
    /// How many accept.
    count: usize,
    /// Whether the prepared sockets are all that workers are to have.
    moves: bool,
    /// Addresses that are bound.
    bound: HashSet<SocketAddr>,
    /// New sockets, per worker, until they are installed.
    prepared: Vec<Vec<(SocketAddr, socket2::Socket)>>,
    /// Sockets that were handed over. Those of the service manager stay open, so that a listener may come back.
    handed_over: Listeners,
    /// Addresses of those that the process before had opened itself.
    inherited: Vec<SocketAddr>,
    /// Addresses that were given up lately.
    left: HashMap<SocketAddr, Instant>,
}

/// What workers are started with.
struct Hiring {
    shared: Arc<Shared>,
    seed: u64,
}

impl Workers {
    /// None yet. `handed_over` are sockets that are open already.
    pub fn new(handed_over: Listeners) -> Self {
        Self {
            handles: Vec::new(),
            hiring: None,
            count: 0,
            moves: false,
            bound: HashSet::new(),
            prepared: Vec::new(),
            handed_over,
            inherited: Vec::new(),
            left: HashMap::new(),
        }
    }

    /// Starts them.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn start(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) -> io::Result<()> {
        let seed =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), std::process::id());
        self.hiring = Some(Hiring { shared: Arc::clone(shared), seed });
        self.hire(snapshot)?;
        self.count = snapshot.workers;
        self.introduce();
        Ok(())
    }

    /// Starts those that are missing. Until they are told more they do nothing.
    fn hire(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let Some(Hiring { shared, seed }) = &self.hiring else { return Ok(()) };
        for id in self.handles.len()..snapshot.workers {
            let log = snapshot.config.log.clone();
            self.handles.push(proxy::spawn(id, Arc::clone(shared), log, *seed)?);
        }
        Ok(())
    }

    /// Tells each of the others, and on which CPUs it is to run.
    fn introduce(&self) {
        let cpus = limits::allowed_cpus();
        for (id, handle) in self.handles.iter().enumerate() {
            let others = self.handles.iter().enumerate().filter(|(other, _)| *other != id);
            let others = others.map(|(_, other)| other.commands.downgrade()).collect();
            // With as many CPUs as workers each gets its own; with fewer the scheduler decides.
            let own = cpus.get(id).filter(|_| self.count <= cpus.len());
            let place = own.map_or_else(|| Place::Anywhere(cpus.clone()), |cpu| Place::Cpu(*cpu));
            // A worker that is gone is noticed by the watchdog.
            let _ = handle.commands.send(Command::Meet(others, place));
        }
    }

    /// The listening sockets that are open, each once, by their addresses as configured.
    fn open_sockets(&self, limit: Duration) -> io::Result<HashMap<SocketAddr, Vec<socket2::Socket>>> {
        let mut all: HashMap<SocketAddr, Vec<socket2::Socket>> = HashMap::new();
        let mut seen = HashSet::new();
        for answer in self.ask_all(Command::Sockets) {
            let late = |_: RecvTimeoutError| io::Error::other("a worker did not answer in time");
            for (bind, socket) in answer.recv_timeout(limit).map_err(late)?? {
                if seen.insert(socket::identity(&socket)?) {
                    all.entry(bind).or_default().push(socket);
                }
            }
        }
        Ok(all)
    }

    /// Shares the sockets of addresses that stay out anew, for workers that become more or fewer: nobody is lost who waits in
    /// one, because it goes on elsewhere. Those that are missing are bound, and listen once their worker accepts from them.
    fn move_sockets(
        &self,
        wanted: &[(usize, SocketAddr)],
        open: HashMap<SocketAddr, Vec<socket2::Socket>>,
        fresh: &mut [Vec<(SocketAddr, socket2::Socket)>],
    ) -> io::Result<()> {
        for (address, mut sockets) in open {
            if !wanted.iter().any(|(_, bind)| *bind == address) {
                continue;
            }
            // The service manager's are as many as it says.
            let missing =
                if self.handed_over.contains_key(&address) { 0 } else { fresh.len().saturating_sub(sockets.len()) };
            let real = socket::local_address(&sockets[0])?;
            for _ in 0..missing {
                sockets.push(socket::bind(real)?);
            }
            for turn in sockets.len()..fresh.len() {
                sockets.push(sockets[turn % sockets.len()].try_clone()?);
            }
            for (turn, socket) in sockets.into_iter().enumerate() {
                fresh[turn % fresh.len()].push((address, socket));
            }
        }
        Ok(())
    }

    /// Has prepared sockets listen that do not yet; the others do not mind.
    fn have_all_listen(&self) {
        for (address, socket) in self.prepared.iter().flatten() {
            if let Err(error) = socket::adopt_listener(socket) {
                tracing::error!(%address, %error, "a worker has a listening socket less");
            }
        }
    }

    fn forget_prepared(&mut self) {
        self.moves = false;
        self.prepared.clear();
    }

    /// Keeps only those handed-over sockets that the service manager opened: workers have the others.
    pub fn keep_only(&mut self, activated: &HashSet<SocketAddr>) {
        self.inherited = self.handed_over.keys().filter(|address| !activated.contains(address)).copied().collect();
        self.handed_over.retain(|address, _| activated.contains(address));
    }

    /// Tells a worker something; one that is gone is noticed by the watchdog.
    fn tell(&self, id: usize, command: Command) {
        if let Some(handle) = self.handles.get(id) {
            let _ = handle.commands.send(command);
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        (0..self.handles.len()).for_each(|id| self.tell(id, command()));
    }

    /// Asks every worker something.
    fn ask_all<T>(&self, question: impl Fn(std::sync::mpsc::SyncSender<T>) -> Command) -> Vec<Receiver<T>> {
        let ask = |id| {
            let (answer, told) = sync_channel(1);
            self.tell(id, question(answer));
            told
        };
        (0..self.handles.len()).map(ask).collect()
    }
}

/// Gives each worker its sockets of an address that was handed over. With fewer than workers some share one; with more,
/// some get several: one that nobody accepts from would swallow its clients.
fn share_out(
    address: SocketAddr,
    given: &[socket2::Socket],
    fresh: &mut [Vec<(SocketAddr, socket2::Socket)>],
) -> io::Result<()> {
    let workers = fresh.len();
    for turn in 0..workers.max(given.len()) {
        fresh[turn % workers].push((address, given[turn % given.len()].try_clone()?));
    }
    Ok(())
}

fn report_store(address: SocketAddr, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%address, %error, "cannot speak to the descriptor store");
    }
}

/// Every address of every listener, with the listener's position.
fn addresses(snapshot: &Snapshot) -> Vec<(usize, SocketAddr)> {
    let listeners = snapshot.listeners.iter().enumerate();
    listeners.flat_map(|(id, listener)| listener.config.bind.iter().map(move |bind| (id, *bind))).collect()
}

impl DataPlane for Workers {
    fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), PrepareError> {
        self.forget_prepared();
        self.moves = self.hiring.is_some() && snapshot.workers != self.count;
        // Before the right to bind is there, which threads would inherit.
        let open = if self.moves {
            self.hire(snapshot).and_then(|()| self.open_sockets(ANSWER_LIMIT)).map_err(PrepareError::Workers)?
        } else {
            HashMap::new()
        };
        let mut fresh: Vec<Vec<(SocketAddr, socket2::Socket)>> = (0..snapshot.workers).map(|_| Vec::new()).collect();
        let wanted = addresses(snapshot);
        let _binding = Binding::begin();
        self.move_sockets(&wanted, open, &mut fresh).map_err(PrepareError::Workers)?;
        for (listener, address) in wanted.iter().filter(|(_, address)| !self.bound.contains(address)) {
            let failed = |cause| PrepareError::Bind {
                listener: Arc::clone(&snapshot.listeners[*listener].config.name),
                address: *address,
                cause,
            };
            if let Some(given) = self.handed_over.get(address) {
                share_out(*address, given, &mut fresh).map_err(failed)?;
                continue;
            }
            // With port 0 the kernel chooses for the first worker, and the others share its choice.
            let mut real = *address;
            // Our own sockets are no obstacle: a wildcard may give way to one of its addresses, or the other way round.
            let beside_own = |own: &SocketAddr| {
                let same_host = own.ip().is_unspecified() || real.ip().is_unspecified();
                own.port() == real.port() && own.is_ipv4() == real.is_ipv4() && same_host
            };
            // Nor are those that workers may not have closed yet.
            let leaving = self.left.get(address).is_some_and(|since| since.elapsed() < CLOSING);
            if !leaving && !self.bound.iter().chain(self.handed_over.keys()).any(beside_own) {
                socket::refuse_if_taken(real).map_err(failed)?;
            }
            for sockets in &mut fresh {
                let socket = socket::listen(real).map_err(failed)?;
                real = socket::local_address(&socket).map_err(failed)?;
                sockets.push((*address, socket));
            }
        }
        self.prepared = fresh;
        Ok(())
    }

    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Vec<oneshot::Receiver<()>> {
        let wanted = addresses(snapshot);
        let mut given = Sockets::New;
        if std::mem::take(&mut self.moves) {
            self.count = snapshot.workers;
            self.introduce();
            self.have_all_listen();
            given = Sockets::All;
        }
        // Not before they are in force: nobody would have the service manager forget them.
        for (address, socket) in self.prepared.iter().flatten() {
            if !self.handed_over.contains_key(address) {
                report_store(*address, descriptors::keep(*address, socket));
            }
        }
        let mut taken = Vec::new();
        let mut prepared = std::mem::take(&mut self.prepared).into_iter();
        for handle in &self.handles {
            let (mut sockets, given) = prepared.next().map_or((Vec::new(), Sockets::None), |sockets| (sockets, given));
            let listening = wanted.iter().map(|(listener, bind)| {
                let new = sockets.extract_if(.., |(address, _)| address == bind).map(|(_, socket)| socket);
                Listening { bind: *bind, listener: *listener, sockets: new.collect() }
            });
            let listening = listening.collect();
            // A worker that is gone is noticed by the watchdog.
            let (answer, has_it) = oneshot::channel();
            let generation = Generation { snapshot: Arc::clone(snapshot), listening, given };
            let _ = handle.commands.send(Command::Install(generation, answer));
            taken.push(has_it);
        }
        let bound: HashSet<SocketAddr> = wanted.into_iter().map(|(_, bind)| bind).collect();
        self.left.retain(|_, since| since.elapsed() < CLOSING);
        for gone in self.bound.difference(&bound).filter(|address| !self.handed_over.contains_key(address)) {
            report_store(*gone, descriptors::forget(*gone));
            self.left.insert(*gone, Instant::now());
        }
        self.bound = bound;
        taken
    }

    fn leave(&mut self) {
        // Of a reload that the stop overtook: no worker will accept from them.
        self.forget_prepared();
        for handle in &self.handles {
            let _ = handle.commands.send(Command::Leave);
        }
    }

    fn end_sessions(&self, matching: &Matching, reason: CloseReason, most: usize) -> Vec<oneshot::Receiver<u64>> {
        let tell = |handle: &WorkerHandle| {
            let (answer, told) = oneshot::channel();
            let _ = handle.commands.send(Command::End { matching: matching.clone(), reason, most, answer });
            told
        };
        self.handles.iter().map(tell).collect()
    }

    fn list_sessions(&self, wanted: &Arc<SessionsParams>) -> Vec<oneshot::Receiver<Vec<SessionReport>>> {
        let ask = |handle: &WorkerHandle| {
            let (answer, list) = oneshot::channel();
            let _ = handle.commands.send(Command::List(Arc::clone(wanted), answer));
            list
        };
        self.handles.iter().map(ask).collect()
    }

    fn has_ended(&self) -> bool {
        self.handles.iter().all(|handle| handle.thread.is_finished())
    }

    fn sockets(&self, limit: Duration) -> io::Result<Vec<(SocketAddr, bool, OwnedFd)>> {
        let mut all = Vec::new();
        for (bind, sockets) in self.open_sockets(limit)? {
            let activated = self.handed_over.contains_key(&bind);
            all.extend(sockets.into_iter().map(|socket| (bind, activated, socket.into())));
        }
        // The service manager's, of listeners that may come back.
        for (bind, sockets) in self.handed_over.iter().filter(|(bind, _)| !self.bound.contains(bind)) {
            for socket in sockets {
                all.push((*bind, true, socket.try_clone()?.into()));
            }
        }
        Ok(all)
    }

    fn settle_store(&self, limit: Duration) {
        for gone in self.inherited.iter().filter(|address| !self.bound.contains(address)) {
            report_store(*gone, descriptors::forget(*gone));
        }
        for answer in self.ask_all(Command::Sockets) {
            let Ok(Ok(sockets)) = answer.recv_timeout(limit) else { continue };
            for (bind, socket) in sockets.iter().filter(|(bind, _)| !self.handed_over.contains_key(bind)) {
                report_store(*bind, descriptors::keep(*bind, socket));
            }
        }
    }

    fn hand_over(&self, passage: &Passage) -> Vec<Receiver<io::Result<u64>>> {
        self.ask_all(|answer| Command::HandOver(passage.clone(), answer))
    }

    fn let_go(&self, passage: &Passage) {
        self.tell_all(|| Command::LetGo(passage.clone()));
    }

    fn hold(&self) {
        self.tell_all(|| Command::Hold);
    }

    fn go_on(&self) {
        self.tell_all(|| Command::GoOn);
    }

    fn take_up(&self, turn: usize, parcel: Parcel, heirs: &Arc<Heirs>) -> Receiver<io::Result<u64>> {
        let (answer, told) = sync_channel(1);
        self.tell(turn % self.count.max(1), Command::TakeUp(parcel, Arc::clone(heirs), answer));
        told
    }

    fn take_up_late(&self, turn: usize, parcel: Parcel, heirs: &Arc<Heirs>) {
        self.tell(turn % self.count.max(1), Command::TakeUpLate(parcel, Arc::clone(heirs)));
    }

    fn count(&self, tallies: &Arc<Tallies>, snapshot: &Arc<Snapshot>) -> Vec<Receiver<()>> {
        self.ask_all(|answer| Command::Count(Arc::clone(tallies), Arc::clone(snapshot), answer))
    }
}
