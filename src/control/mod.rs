//! The control plane: one thread beside the workers. Probes backends, reloads, answers the status socket, counts for
//! metrics, obeys signals. A slow probe, a big scrape or a stuck client of the socket never delays a byte.

mod checks;
mod failure;
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
mod renewal;
mod report;
mod sampler;
mod socket;
mod standing;
mod state_file;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::api::{SessionReport, SessionsParams};
use crate::config::{Config, SourceError, Sources};
use crate::decide::close::CloseReason;
use crate::state::{Matching, Operators, Shared, Snapshot};

pub use lifecycle::run;
pub use log_writer::{LogError, start_log, start_tracing};
pub use socket::{SocketError, StatusSocket};

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
            Self::Text(text) => Ok(Sources::from_text("command line", text)),
        }
    }
}

/// What the control plane asks of the data plane. The composition root connects the two: neither imports the other.
pub trait DataPlane {
    /// Binds what `snapshot` wants and is not bound; on an error nothing changes.
    fn prepare(&mut self, snapshot: &Snapshot) -> Result<(), BindError>;
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
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// The listener.
    pub listener: Arc<str>,
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub cause: std::io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "listener {} cannot bind {}: {}", self.listener, self.address, self.cause)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
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
    reloads: reload::Requests,
    /// What operators said beside the configuration.
    operators: RefCell<Operators>,
    /// Held while the state file is written.
    saving: tokio::sync::Mutex<()>,
    /// Sessions that are being ended at a rate.
    kills: RefCell<kill::Kills>,
    /// The status socket and the address for metrics.
    served: socket::Served,
    stops: mpsc::UnboundedSender<lifecycle::Stop>,
}

impl Control {
    /// The snapshot in force.
    fn snapshot(&self) -> Arc<Snapshot> {
        // Set before anything can ask.
        self.shared.snapshot().unwrap_or_else(|| unreachable!("a snapshot is in force before the socket answers"))
    }

    /// The configuration in force.
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.snapshot().config)
    }
}

type Handle = Rc<Control>;
