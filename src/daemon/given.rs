//! Sockets that are open already when the daemon starts: from the service manager, or from the process whose place it takes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::StartError;
use crate::config::Config;
use crate::control::{Estate, Inherited, Socket};
use crate::sys::descriptors::{Handed, HandedOver, forget, was_kept};

/// `FileDescriptorName=` of the status socket.
const STATUS_NAME: &str = "status";

/// Listening sockets by their address.
pub type Listeners = HashMap<SocketAddr, Vec<socket2::Socket>>;

/// What is open.
#[derive(Default)]
pub struct Given {
    /// The status socket.
    pub status: Option<UnixListener>,
    /// Whether its file is to go with this process, once that has taken over.
    pub owns_status_file: bool,
    /// Its path, where that is known.
    pub status_path: Option<PathBuf>,
    /// The socket of the metrics.
    pub metrics: Option<(std::net::TcpListener, SocketAddr)>,
    /// Listening sockets.
    pub listeners: Listeners,
    /// Addresses of those that the service manager opened.
    pub activated: HashSet<SocketAddr>,
    /// What the process before knows.
    pub estate: Option<Box<Estate>>,
}

impl Given {
    /// From the process whose place this one takes.
    pub fn inherited(inherited: Inherited) -> Self {
        let mut given = Self { estate: Some(inherited.estate), ..Self::default() };
        for socket in inherited.sockets {
            match socket {
                Socket::Listening(descriptor, bind, activated) => {
                    given.listeners.entry(bind).or_default().push(descriptor.into());
                    if activated {
                        given.activated.insert(bind);
                    }
                }
                Socket::Status(descriptor, path, ours) => {
                    (given.status, given.owns_status_file) = (Some(descriptor.into()), ours);
                    given.status_path = Some(path);
                }
                Socket::Metrics(descriptor, address) => given.metrics = Some((descriptor.into(), address)),
            }
        }
        given
    }

    /// From the service manager: the status socket by its name, listening sockets by their address.
    ///
    /// # Errors
    /// When a descriptor has a listener's name, but not one of its addresses.
    pub fn activated(all: Vec<HandedOver>, config: &Config) -> Result<Self, StartError> {
        let mut given = Self::default();
        for HandedOver { name, what } in all {
            match what {
                Handed::Unix(listener) if name == STATUS_NAME => given.status = Some(listener),
                Handed::Tcp(socket, address) => {
                    let own = config.listeners.iter().find(|listener| *listener.name == *name);
                    if own.is_some_and(|listener| !listener.bind.contains(&address)) {
                        return Err(StartError::HandedOver(name, address));
                    }
                    let has_listener = config.listeners.iter().any(|listener| listener.bind.contains(&address));
                    if was_kept(&name, address) {
                        // Ours, from before a restart: it goes when its listener does, and here it has gone meanwhile.
                        if has_listener {
                            given.listeners.entry(address).or_default().push(socket);
                        } else if let Err(error) = forget(address) {
                            tracing::warn!(%address, %error, "the service manager keeps a socket that no listener has");
                        }
                        continue;
                    }
                    if !has_listener {
                        tracing::warn!(name, %address, "handed over, but no listener has this address");
                    }
                    given.listeners.entry(address).or_default().push(socket);
                    given.activated.insert(address);
                }
                Handed::Unix(_) | Handed::Other => {
                    tracing::warn!(name, "handed over, but neither a TCP listener nor the unix socket called `status`");
                }
            }
        }
        Ok(given)
    }
}
