//! The composition root: builds the state, starts workers and the control plane, waits, and ends. Only it sees both planes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use crate::api::{SessionReport, SessionsParams};
use crate::config::{Config, LogTarget};
use crate::control::{self, BindError, ConfigSource, DataPlane, SocketError, StatusSocket};
use crate::decide::close::CloseReason;
use crate::proxy::{self, Command, Generation, Listening, WorkerHandle};
use crate::state::{Matching, Operators, Resolution, Shared, Snapshot, Supplement};
use crate::sys::{limits, socket};

/// Descriptors that the process needs besides connections: sockets, logs, runtimes, probes.
const OWN_DESCRIPTORS: u64 = 512;

/// Why the daemon did not start.
#[derive(Debug)]
pub enum StartError {
    /// The log cannot be opened.
    Log(LogTarget, io::Error),
    /// The status socket cannot be opened.
    Socket(SocketError),
    /// A listener cannot be bound.
    Bind(BindError),
    /// The metrics address cannot be bound.
    Metrics(SocketAddr, io::Error),
    /// Threads or runtimes cannot be started.
    System(io::Error),
    /// A pool is too large for its method.
    Pool(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(LogTarget::File(path), cause) => write!(f, "cannot open log file {}: {cause}", path.display()),
            Self::Log(LogTarget::Journal, cause) => write!(f, "cannot reach the journal: {cause}"),
            Self::Log(LogTarget::Stderr, cause) => write!(f, "cannot start the log: {cause}"),
            Self::Socket(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Metrics(address, cause) => write!(f, "cannot bind metrics address {address}: {cause}"),
            Self::System(cause) => write!(f, "cannot start: {cause}"),
            Self::Pool(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until it is told to stop.
pub fn run(config: Config, source: ConfigSource, level: tracing::Level) -> Result<(), StartError> {
    let descriptors = limits::raise_descriptor_limit();
    let log = control::start_log(&config.log).map_err(|error| StartError::Log(config.log.target.clone(), error))?;
    control::start_tracing(log.clone(), config.log.format, level);
    warn_of_limits(&config, descriptors);
    let cpus = limits::allowed_cpus();
    let workers = config.global.workers.unwrap_or(cpus.len()).max(1);
    let shared = Arc::new(Shared::new(workers, log));
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(StartError::System)?;
    runtime.block_on(async {
        let status = StatusSocket::open(&config.global.status_socket).map_err(StartError::Socket)?;
        let metrics = match config.global.metrics {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|error| StartError::Metrics(address, error))?)
            }
        };
        let supplement = Supplement { names: &Resolution::Sets(HashMap::new()), operators: &Operators::default() };
        let snapshot = Snapshot::build(Arc::new(config), None, &supplement, workers);
        let snapshot = Arc::new(snapshot.map_err(|error| StartError::Pool(error.to_string()))?);
        let mut plane = Workers::new(workers);
        plane.prepare(&snapshot).map_err(StartError::Bind)?;
        plane.start(&cpus, &shared, &snapshot).map_err(StartError::System)?;
        let plane = Box::new(plane);
        control::run(shared, source, snapshot, plane, status, metrics).await;
        Ok(())
    })
}

fn warn_of_limits(config: &Config, descriptors: u64) {
    let wanted = u64::from(config.global.max_connections) * 2 + OWN_DESCRIPTORS;
    if descriptors < wanted {
        let connections = descriptors.saturating_sub(OWN_DESCRIPTORS) / 2;
        tracing::warn!(
            descriptors,
            wanted,
            "the limit of descriptors allows about {connections} connections, less than max-connections; raise LimitNOFILE"
        );
    }
}

/// The workers, as the control plane sees them.
struct Workers {
    handles: Vec<WorkerHandle>,
    count: usize,
    /// Addresses that are bound.
    bound: HashSet<SocketAddr>,
    /// New sockets, per worker, until they are installed.
    prepared: Vec<Vec<(SocketAddr, socket2::Socket)>>,
}

impl Workers {
    fn new(count: usize) -> Self {
        Self { handles: Vec::new(), count, bound: HashSet::new(), prepared: Vec::new() }
    }

    fn start(&mut self, cpus: &[usize], shared: &Arc<Shared>, snapshot: &Snapshot) -> io::Result<()> {
        let seed =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), std::process::id());
        for id in 0..self.count {
            // With as many CPUs as workers each gets its own; with fewer the scheduler decides.
            let cpu = if self.count <= cpus.len() { cpus.get(id).copied() } else { None };
            let log = snapshot.config.log.clone();
            self.handles.push(proxy::spawn(id, cpu, Arc::clone(shared), log, seed)?);
        }
        for (id, handle) in self.handles.iter().enumerate() {
            let others = self.handles.iter().enumerate().filter(|(other, _)| *other != id);
            let others = others.map(|(_, other)| other.commands.downgrade()).collect();
            // As below.
            let _ = handle.commands.send(Command::Meet(others));
        }
        Ok(())
    }
}

/// Every address of every listener, with the listener's position.
fn addresses(snapshot: &Snapshot) -> Vec<(usize, SocketAddr)> {
    let listeners = snapshot.listeners.iter().enumerate();
    listeners.flat_map(|(id, listener)| listener.config.bind.iter().map(move |bind| (id, *bind))).collect()
}

impl DataPlane for Workers {
    fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), BindError> {
        let mut fresh: Vec<Vec<(SocketAddr, socket2::Socket)>> = (0..self.count).map(|_| Vec::new()).collect();
        let wanted = addresses(snapshot);
        for (listener, address) in wanted.iter().filter(|(_, address)| !self.bound.contains(address)) {
            let failed = |cause| BindError {
                listener: Arc::clone(&snapshot.listeners[*listener].config.name),
                address: *address,
                cause,
            };
            // With port 0 the kernel chooses for the first worker, and the others share its choice.
            let mut real = *address;
            // Our own sockets are no obstacle: a wildcard may give way to one of its addresses, or the other way round.
            let beside_own = |own: &SocketAddr| {
                let same_host = own.ip().is_unspecified() || real.ip().is_unspecified();
                own.port() == real.port() && own.is_ipv4() == real.is_ipv4() && same_host
            };
            if !self.bound.iter().any(beside_own) {
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

    fn install(&mut self, snapshot: &Arc<Snapshot>) {
        let wanted = addresses(snapshot);
        for (handle, mut sockets) in self.handles.iter().zip(std::mem::take(&mut self.prepared)) {
            let listening = wanted.iter().map(|(listener, bind)| {
                let place = sockets.iter().position(|(address, _)| address == bind);
                Listening { bind: *bind, listener: *listener, socket: place.map(|place| sockets.swap_remove(place).1) }
            });
            let listening = listening.collect();
            // A worker that is gone is noticed by the watchdog.
            let _ = handle.commands.send(Command::Install(Generation { snapshot: Arc::clone(snapshot), listening }));
        }
        self.bound = wanted.into_iter().map(|(_, bind)| bind).collect();
    }

    fn leave(&mut self) {
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
}
