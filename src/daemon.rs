//! The composition root: builds the state, starts workers and the control plane, waits, and ends. Only it sees both planes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

use crate::api::{SessionReport, SessionsParams};
use crate::config::{CheckKind, Config, HealthCheck, LogTarget};
use crate::control::{self, BindError, ConfigSource, DataPlane, LogError, SocketError, StatusSocket};
use crate::decide::close::CloseReason;
use crate::proxy::{self, Command, Generation, Listening, WorkerHandle};
use crate::state::{Matching, Operators, Resolution, Shared, Snapshot, Supplement};
use crate::sys::descriptors::{self, Handed, HandedOver};
use crate::sys::privileges::{self, Binding, Closed, Files};
use crate::sys::{limits, socket};

/// Descriptors that the process needs besides connections: sockets, logs, runtimes, probes.
const OWN_DESCRIPTORS: u64 = 512;
/// Workers have closed a listening socket by then.
const CLOSING: Duration = Duration::from_secs(5);
/// `FileDescriptorName=` of the status socket.
const STATUS_NAME: &str = "status";

/// Why the daemon did not start.
#[derive(Debug)]
pub enum StartError {
    /// The log cannot be opened.
    Log(LogError),
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
    /// The service manager handed over a socket for a listener that does not have its address.
    HandedOver(String, SocketAddr),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Socket(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Metrics(address, cause) => write!(f, "cannot bind metrics address {address}: {cause}"),
            Self::System(cause) => write!(f, "cannot start: {cause}"),
            Self::Pool(message) => f.write_str(message),
            Self::HandedOver(name, address) => {
                write!(f, "the service manager handed over {address} as `{name}`, but listener {name} does not bind it")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until it is told to stop.
pub fn run(config: Config, source: ConfigSource, level: tracing::Level) -> Result<(), StartError> {
    let handed_over = descriptors::take().map_err(StartError::System)?;
    let closed = confine(&config, &source);
    let limit = limits::raise_descriptor_limit();
    let log = control::start_log(&config.log).map_err(StartError::Log)?;
    control::start_tracing(log.clone(), config.log.format, level);
    warn_of_limits(&config, limit);
    if let Some(why) = closed {
        tracing::info!(why, "the file system stays open");
    }
    let (handed_status, handed_over) = sort_handed_over(handed_over, &config)?;
    let cpus = limits::allowed_cpus();
    let workers = config.global.workers.unwrap_or(cpus.len()).max(1);
    let shared = Arc::new(Shared::new(workers, log));
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(StartError::System)?;
    let outcome = runtime.block_on(async {
        let path = &config.global.status_socket;
        let status = match handed_status {
            Some(listener) => StatusSocket::adopt(listener, path),
            None => StatusSocket::open(path),
        };
        let status = status.map_err(StartError::Socket)?;
        let metrics = match config.global.metrics {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|error| StartError::Metrics(address, error))?)
            }
        };
        let supplement = Supplement { names: &Resolution::Sets(HashMap::new()), operators: &Operators::default() };
        let snapshot = Snapshot::build(Arc::new(config), None, &supplement, workers);
        let snapshot = Arc::new(snapshot.map_err(|error| StartError::Pool(error.to_string()))?);
        let mut plane = Workers::new(workers, handed_over);
        plane.prepare(&snapshot).map_err(StartError::Bind)?;
        // Before workers are started, which then have none either.
        if let Err(error) = privileges::give_up_capabilities() {
            tracing::warn!(%error, "capabilities are kept");
        }
        plane.start(&cpus, &shared, &snapshot).map_err(StartError::System)?;
        let plane = Box::new(plane);
        control::run(shared, source, snapshot, plane, status, metrics).await;
        Ok(())
    });
    // A file on a dead mount must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Closes what is never needed, before the first thread is started. Says why the file system was not closed, if so.
fn confine(config: &Config, source: &ConfigSource) -> Option<String> {
    if let Err(error) = privileges::refuse_new_privileges() {
        return Some(format!("no_new_privs cannot be set: {error}"));
    }
    if config.pools.iter().filter_map(|pool| pool.health.as_ref()).any(|check| matches!(check.kind, CheckKind::Exec(_)))
    {
        return Some("programs of `exec` checks may need any file".to_owned());
    }
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let mut files = Files::default();
    if let ConfigSource::Paths(paths) = source {
        for path in paths {
            files.read.extend(if path.is_dir() { Some(path.clone()) } else { folder(path) });
        }
    }
    let checks = config.pools.iter().filter_map(|pool| pool.health.as_ref());
    files.read.extend(checks.flat_map(HealthCheck::files).filter_map(|path| folder(&path)));
    files.read.extend(std::env::current_exe().ok().as_deref().and_then(folder));
    let authorities = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| std::env::var_os(name).map(PathBuf::from));
    files.read.extend(authorities.into_iter().flatten());
    let log = if let LogTarget::File(path) = &config.log.target { folder(path) } else { None };
    let state = config.global.state_file.as_deref().and_then(folder);
    files.written.extend([folder(&config.global.status_socket), log, state].into_iter().flatten());
    // A folder that is not there yet may still be made.
    for path in &mut files.written {
        while !path.exists() && path.parent().is_some_and(|above| above.parent().is_some()) {
            path.pop();
        }
    }
    // A relative path without a folder is in the present one.
    for path in files.read.iter_mut().chain(&mut files.written).filter(|path| path.as_os_str().is_empty()) {
        *path = PathBuf::from(".");
    }
    match privileges::close_file_system(&files) {
        Ok(Closed::Yes) => None,
        Ok(Closed::Unsupported) => Some("the kernel has no landlock".to_owned()),
        // As where a filter of system calls forbids it.
        Err(error) => Some(format!("landlock: {error}")),
    }
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

/// Listening sockets by their address.
type Listeners = HashMap<SocketAddr, Vec<socket2::Socket>>;

/// The workers, as the control plane sees them.
struct Workers {
    handles: Vec<WorkerHandle>,
    count: usize,
    /// Addresses that are bound.
    bound: HashSet<SocketAddr>,
    /// New sockets, per worker, until they are installed.
    prepared: Vec<Vec<(SocketAddr, socket2::Socket)>>,
    /// Sockets that the service manager handed over; they stay open, so that a listener may come back.
    handed_over: Listeners,
    /// Addresses that were given up lately.
    left: HashMap<SocketAddr, Instant>,
}

impl Workers {
    fn new(count: usize, handed_over: Listeners) -> Self {
        Self {
            handles: Vec::new(),
            count,
            bound: HashSet::new(),
            prepared: Vec::new(),
            handed_over,
            left: HashMap::new(),
        }
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

/// Sorts what was handed over: the status socket by its name, listening sockets by their address.
///
/// # Errors
/// When a descriptor has a listener's name, but not one of its addresses.
fn sort_handed_over(all: Vec<HandedOver>, config: &Config) -> Result<(Option<UnixListener>, Listeners), StartError> {
    let (mut status, mut sockets) = (None, Listeners::new());
    for HandedOver { name, what } in all {
        match what {
            Handed::Unix(listener) if name == STATUS_NAME => status = Some(listener),
            Handed::Tcp(socket, address) => {
                let own = config.listeners.iter().find(|listener| *listener.name == *name);
                if own.is_some_and(|listener| !listener.bind.contains(&address)) {
                    return Err(StartError::HandedOver(name, address));
                }
                if !config.listeners.iter().any(|listener| listener.bind.contains(&address)) {
                    tracing::warn!(name, %address, "handed over, but no listener has this address");
                }
                sockets.entry(address).or_default().push(socket);
            }
            Handed::Unix(_) | Handed::Other => {
                tracing::warn!(name, "handed over, but neither a TCP listener nor the unix socket called `status`");
            }
        }
    }
    Ok((status, sockets))
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
    fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), BindError> {
        let mut fresh: Vec<Vec<(SocketAddr, socket2::Socket)>> = (0..self.count).map(|_| Vec::new()).collect();
        let wanted = addresses(snapshot);
        let _binding = Binding::begin();
        for (listener, address) in wanted.iter().filter(|(_, address)| !self.bound.contains(address)) {
            let failed = |cause| BindError {
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
            if !leaving && !self.bound.iter().any(beside_own) {
                socket::refuse_if_taken(real).map_err(failed)?;
            }
            for sockets in &mut fresh {
                let socket = socket::listen(real).map_err(failed)?;
                real = socket::local_address(&socket).map_err(failed)?;
                report_store(*address, descriptors::keep(*address, &socket));
                sockets.push((*address, socket));
            }
        }
        self.prepared = fresh;
        Ok(())
    }

    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Vec<oneshot::Receiver<()>> {
        let wanted = addresses(snapshot);
        let mut taken = Vec::new();
        for (handle, mut sockets) in self.handles.iter().zip(std::mem::take(&mut self.prepared)) {
            let listening = wanted.iter().map(|(listener, bind)| {
                let new = sockets.extract_if(.., |(address, _)| address == bind).map(|(_, socket)| socket);
                Listening { bind: *bind, listener: *listener, sockets: new.collect() }
            });
            let listening = listening.collect();
            // A worker that is gone is noticed by the watchdog.
            let (answer, has_it) = oneshot::channel();
            let generation = Generation { snapshot: Arc::clone(snapshot), listening };
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
