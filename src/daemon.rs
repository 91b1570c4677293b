//! The composition root: builds the state, starts workers and the control plane, waits, and ends. Only it sees both planes.

mod given;
mod workers;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};

use crate::config::{Config, HealthCheck, LogTarget};
use crate::control::{self, ConfigSource, DataPlane, Heir, LogError, PrepareError, SocketError, StatusSocket};
use crate::proxy;
use crate::state::{Operators, Resolution, Shared, Snapshot, Supplement};
use crate::sys::privileges::{self, Closed, Files};
use crate::sys::{descriptors, limits};

use self::given::Given;
use self::workers::Workers;

/// Descriptors that the process needs besides connections: sockets, logs, runtimes, probes.
const OWN_DESCRIPTORS: u64 = 512;

/// Why the daemon did not start.
#[derive(Debug)]
pub enum StartError {
    /// The log cannot be opened.
    Log(LogError),
    /// The status socket cannot be opened.
    Socket(SocketError),
    /// A listener cannot be bound, or workers cannot be prepared.
    Prepare(PrepareError),
    /// The metrics address cannot be bound.
    Metrics(SocketAddr, io::Error),
    /// Threads or runtimes cannot be started.
    System(io::Error),
    /// A pool is too large for its method.
    Pool(String),
    /// The service manager handed over a socket for a listener that does not have its address.
    HandedOver(String, SocketAddr),
    /// It was to take the place of another process, and cannot.
    TakeOver(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Socket(error) => error.fmt(f),
            Self::Prepare(error) => error.fmt(f),
            Self::Metrics(address, cause) => {
                let advice = control::bind_advice(*address, cause);
                write!(f, "cannot bind metrics address {address}: {cause}{advice}")
            }
            Self::System(cause) => write!(f, "cannot start: {cause}"),
            Self::Pool(message) => f.write_str(message),
            Self::TakeOver(why) => write!(f, "cannot take over: {why}"),
            Self::HandedOver(name, address) => {
                write!(f, "the service manager handed over {address} as `{name}`, but listener {name} does not bind it")
            }
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until it is told to stop; as `heir` it takes the place of a running one.
pub fn run(
    config: Config,
    source: ConfigSource,
    level: tracing::Level,
    mut heir: Option<Heir>,
) -> Result<(), StartError> {
    let outcome = start(config, source, level, &mut heir);
    if let (Err(error), Some(heir)) = (&outcome, &heir) {
        heir.refuse(&error.to_string());
    }
    outcome
}

/// Takes `heir` once the control plane has to do with it.
fn start(
    config: Config,
    source: ConfigSource,
    level: tracing::Level,
    heir: &mut Option<Heir>,
) -> Result<(), StartError> {
    let inherited = heir.as_ref().map(Heir::inherit).transpose().map_err(StartError::TakeOver)?;
    let handed_over = if heir.is_some() { Vec::new() } else { descriptors::take().map_err(StartError::System)? };
    // Each closing stays in force for whoever is started, and there may be sixteen at most.
    let confined = heir.as_ref().is_some_and(|heir| heir.confined);
    let closed = if confined { None } else { confine(&config, &source) };
    let confined = closed.is_none();
    let limit = limits::raise_descriptor_limit();
    let log = control::start_log(&config.log).map_err(StartError::Log)?;
    control::start_tracing(log.clone(), config.log.format, level);
    proxy::faults::watch();
    if heir.as_ref().is_some_and(|heir| heir.confined)
        && let Some(pool) = config.program_of()
    {
        control::warn_of_program(pool);
    }
    warn_of_limits(&config, limit);
    if let Some(why) = closed {
        tracing::info!(why, "the file system stays open");
    }
    let mut given = match inherited {
        Some(inherited) => Given::inherited(inherited),
        None => Given::activated(handed_over, &config)?,
    };
    let workers = config.global.workers_on(limits::allowed_cpus().len());
    let shared = Arc::new(Shared::new(workers, log));
    let runtime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).map_err(StartError::System)?;
    let outcome = runtime.block_on(async {
        let path = &config.global.status_socket;
        let status = match given.status.take() {
            Some(listener) => StatusSocket::adopt(listener, given.status_path.as_ref().unwrap_or(path)),
            None => StatusSocket::open(path),
        };
        let status = status.map_err(StartError::Socket)?;
        let metrics = match (config.global.metrics, given.metrics.take()) {
            (None, _) => None,
            (Some(address), Some((listener, own))) if address == own => {
                Some(TcpListener::from_std(listener).map_err(|error| StartError::Metrics(address, error))?)
            }
            (Some(address), inherited) => {
                let own = inherited.map(|(listener, _)| TcpListener::from_std(listener)).transpose();
                let bound = own.and_then(|own| control::bind_metrics(address, own.as_ref()));
                Some(bound.map_err(|error| StartError::Metrics(address, error))?)
            }
        };
        let supplement = Supplement { names: &Resolution::Sets(HashMap::new()), operators: &Operators::default() };
        let snapshot = Snapshot::build(Arc::new(config), None, &supplement, workers);
        let mut snapshot = snapshot.map_err(|error| StartError::Pool(error.to_string()))?;
        if let Some(estate) = &given.estate {
            snapshot.generation = estate.generation() + 1;
        }
        let snapshot = Arc::new(snapshot);
        let mut plane = Workers::new(given.listeners);
        plane.prepare(&snapshot).map_err(StartError::Prepare)?;
        plane.keep_only(&given.activated);
        // Before workers are started, which then have none either.
        if let Err(error) = privileges::give_up_capabilities() {
            tracing::warn!(%error, "capabilities are kept");
        }
        plane.start(&shared, &snapshot).map_err(StartError::System)?;
        let plane = Box::new(plane);
        let heir = heir.take().zip(given.estate);
        let start = control::Start {
            shared,
            source,
            snapshot,
            plane,
            status,
            owns_status_file: given.owns_status_file,
            metrics,
            confined,
            heir,
        };
        control::run(start).await.map_err(StartError::TakeOver)
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
    if config.program_of().is_some() {
        return Some("programs of `exec` checks may need any file".to_owned());
    }
    // A link leads elsewhere, and a reload follows it as the start did.
    let folders = |path: &Path| {
        let both = [Some(path.to_owned()), path.canonicalize().ok()];
        both.into_iter().flatten().filter_map(|path| path.parent().map(Path::to_owned)).collect::<Vec<_>>()
    };
    let mut files = Files::default();
    if let ConfigSource::Paths(paths) = source {
        for path in paths {
            if let Ok(inside) = path.read_dir() {
                files.read.push(path.clone());
                files.read.extend(inside.flatten().flat_map(|entry| folders(&entry.path())));
            } else {
                files.read.extend(folders(path));
            }
        }
    }
    let checks = config.pools.iter().filter_map(|pool| pool.health.as_ref());
    files.read.extend(checks.flat_map(HealthCheck::files).flat_map(|path| folders(&path)));
    files.read.extend(std::env::current_exe().iter().flat_map(|path| folders(path)));
    let authorities = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| std::env::var_os(name).map(PathBuf::from));
    files.read.extend(authorities.into_iter().flatten());
    let log = if let LogTarget::File(path) = &config.log.target { Some(&**path) } else { None };
    let written = [Some(&*config.global.status_socket), log, config.global.state_file.as_deref()];
    files.written.extend(written.into_iter().flatten().flat_map(folders));
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
