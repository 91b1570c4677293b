//! The control plane: one thread beside the workers. Probes backends, reloads, answers the status socket, counts for
//! metrics, obeys signals. A slow probe, a big scrape or a stuck client of the socket never delays a byte.

mod checks;
mod failure;
mod heartbeats;
mod journal;
mod keeper;
mod kill;
mod lifecycle;
mod log_writer;
mod lookup;
mod lookup_runtime;
mod members;
mod metrics;
mod moves;
mod names;
mod overrides;
mod probe_now;
mod prober;
mod probes;
mod reload;
mod removals;
mod renewal;
mod report;
mod sampler;
mod socket;
mod standing;
mod state_file;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use self::failure::Failure;
use crate::api::{SessionReport, SessionsParams};
use crate::config::{Config, SourceError, Sources};
use crate::decide::close::CloseReason;
use crate::state::{Heirs, Matching, Operators, Phase, Shared, Snapshot, Tallies};
use crate::sys::channel::{Parcel, Passage};

pub use lifecycle::{Start, run};
pub use log_writer::{LogError, start_log, start_tracing};
pub use reload::warn_of_program;
pub use socket::{SocketError, StatusSocket, bind_metrics};
pub use upgrade::{Estate, Heir, Inherited, Socket};

/// What a configuration is called that comes from no file.
const COMMAND_LINE: &str = "command line";

/// Where the configuration comes from, at start and at every reload.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// Files and folders.
    Paths(Vec<PathBuf>),
    /// Text made from the command line.
    Text(String),
}

impl ConfigSource {
    /// Reads the sources anew; as root not those that anybody may write.
    pub fn read(&self) -> Result<Sources, SourceError> {
        match self {
            Self::Paths(paths) => {
                let sources = Sources::read(paths)?;
                if nix::unistd::geteuid().is_root() {
                    sources.refuse_open_to_all()?;
                }
                Ok(sources)
            }
            Self::Text(text) => Ok(Sources::from_text(COMMAND_LINE, text)),
        }
    }
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paths(paths) => {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&paths.join(", "))
            }
            Self::Text(_) => f.write_str(COMMAND_LINE),
        }
    }
}

/// What the control plane asks of the data plane. The composition root connects the two: neither imports the other.
pub trait DataPlane {
    /// Binds what `snapshot` wants and is not bound, and starts workers that are missing; on an error nothing changes.
    fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), PrepareError>;
    /// Puts a snapshot in force that was prepared before; each worker says when it has it.
    fn install(&mut self, snapshot: &Arc<Snapshot>) -> Vec<oneshot::Receiver<()>>;
    /// Stops accepting; workers end once their sessions have.
    fn leave(&mut self);
    /// Ends sessions; each worker at most so many of those that were not told yet, and it answers how many it told.
    fn end_sessions(&self, matching: &Matching, reason: CloseReason, most: usize) -> Vec<oneshot::Receiver<u64>>;
    /// Asks every worker for its open sessions that match; each answers with a list.
    fn list_sessions(&self, wanted: &Arc<SessionsParams>) -> Vec<oneshot::Receiver<Vec<SessionReport>>>;
    /// Whether every worker has ended.
    fn has_ended(&self) -> bool;
    /// The listening sockets, duplicated, with their addresses as configured, and whether the service manager opened them.
    fn sockets(&self, limit: Duration) -> io::Result<Vec<(SocketAddr, bool, OwnedFd)>>;
    /// Brings all sessions to a stand and sends them; each worker says how many it sent.
    fn hand_over(&self, passage: &Passage) -> Vec<Receiver<io::Result<u64>>>;
    /// Lets go of what was handed over; workers end once sessions that were still set up have followed.
    fn let_go(&self, passage: &Passage);
    /// Brings sessions to a stand, or to be, from now on.
    fn hold(&self);
    /// Lets everything go on that is at a stand.
    fn go_on(&self);
    /// Takes sessions of another process, which stay at a stand; the worker of this turn says how many they were.
    fn take_up(&self, turn: usize, parcel: Parcel, heirs: &Arc<Heirs>) -> Receiver<io::Result<u64>>;
    /// Takes sessions that go on at once.
    fn take_up_late(&self, turn: usize, parcel: Parcel, heirs: &Arc<Heirs>);
    /// Has the service manager keep the listening sockets that are open now, and forget those that the process before had.
    fn settle_store(&self, limit: Duration);
    /// Adds counts of another process.
    fn count(&self, tallies: &Arc<Tallies>, snapshot: &Arc<Snapshot>) -> Vec<Receiver<()>>;
}

/// Why the data plane cannot take a generation.
#[derive(Debug)]
pub enum PrepareError {
    /// An address could not be bound.
    Bind {
        /// The listener.
        listener: Arc<str>,
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// There cannot be as many workers as it wants.
    Workers(io::Error),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listener, address, cause } => {
                write!(f, "listener {listener} cannot bind {address}: {cause}{}", bind_advice(*address, cause))
            }
            Self::Workers(cause) => write!(f, "cannot change the number of workers: {cause}"),
        }
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let (Self::Bind { cause, .. } | Self::Workers(cause)) = self;
        Some(cause)
    }
}

/// What to say after the kernel's reason why `address` could not be bound, where that alone does not say what to do.
pub fn bind_advice(address: SocketAddr, cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::PermissionDenied if address.port() < 1024 => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        ErrorKind::AddrNotAvailable => "; no interface of this machine has it",
        _ => "",
    }
}

/// The control plane's state; lives on one thread.
pub struct Control {
    shared: Arc<Shared>,
    source: ConfigSource,
    plane: RefCell<Box<dyn DataPlane>>,
    probes: RefCell<probes::Probes>,
    names: RefCell<names::Names>,
    /// Rung when the pools are no longer what the configuration, names and agents say together.
    renewal: Rc<Notify>,
    /// Rung when a word for a while was said.
    clock: Notify,
    /// Held while a reload runs, or names change: the next one waits.
    reloading: tokio::sync::Mutex<()>,
    /// Held while an upgrade runs.
    upgrading: tokio::sync::Mutex<()>,
    reloads: reload::Requests,
    /// What operators said beside the configuration.
    operators: RefCell<Operators>,
    /// Held while the state file is written.
    saving: tokio::sync::Mutex<()>,
    /// Sessions that are being ended at a rate.
    kills: RefCell<kill::Kills>,
    /// Sessions that are to end later, because a reload removed what they belong to.
    removals: RefCell<Vec<Rc<removals::Removal>>>,
    /// The status socket and the address for metrics.
    served: socket::Served,
    stops: mpsc::UnboundedSender<lifecycle::Stop>,
    /// Whether most of the file system is closed for the process.
    confined: bool,
    /// How the process was started; or why that is not known.
    program: Result<upgrade::Program, String>,
    /// What is left to do once another process has taken over.
    given: RefCell<Option<upgrade::Given>>,
    /// Ends once the process whose place this one took has sent all.
    predecessor: RefCell<Option<JoinHandle<()>>>,
    /// Whether another process has taken over: what is kept on disk is its affair now.
    succeeded: Cell<bool>,
}

impl Control {
    /// Nothing changes any more in a process whose place another one has taken.
    fn refuse_late_words(&self) -> Result<(), Failure> {
        if self.succeeded.get() {
            return Err(Failure::new("handed_over", "another process has taken over").hint("ask again"));
        }
        Ok(())
    }

    /// The snapshot in force.
    fn snapshot(&self) -> Arc<Snapshot> {
        // Set before anything can ask.
        self.shared.snapshot().unwrap_or_else(|| unreachable!("a snapshot is in force before the socket answers"))
    }

    /// Whether the process was told to stop: nothing new comes into force any more.
    fn is_stopping(&self) -> bool {
        matches!(self.shared.phase(), Phase::Leaving | Phase::Draining)
    }

    /// The configuration in force.
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.snapshot().config)
    }
}

type Handle = Rc<Control>;
