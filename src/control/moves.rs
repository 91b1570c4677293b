//! What a reload moves besides the data plane: the log, the status socket, the address for metrics. All of it is opened before
//! anything changes, and moved once the new generation is in force.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::log_writer::{open_target, set_format};
use super::socket::StatusSocket;
use super::{Control, Handle};
use crate::config::{Config, LogTarget};
use crate::state::LogOutput;

/// Longest wait for the file of a log.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// What is open and waits to be used. Dropped, it leaves nothing but an empty file for the log.
pub struct Moves {
    log: Option<Box<dyn LogOutput>>,
    status: Option<StatusSocket>,
    metrics: Metrics,
}

/// What becomes of the address for metrics.
enum Metrics {
    /// It stays.
    Stay,
    /// There is another one, or none any more.
    Move(Option<TcpListener>),
}

/// Opens what `config` has elsewhere than `running`. What cannot be moved is said, and stays in `config` as it is.
///
/// # Errors
/// When something cannot be opened; nothing has changed then.
pub async fn prepare(control: &Control, running: &Config, config: &mut Config) -> Result<Moves, String> {
    let log = if running.log.target == config.log.target { None } else { Some(open_log(&config.log.target).await?) };
    let status = if running.global.status_socket == config.global.status_socket {
        None
    } else {
        open_status(control, running, config)?
    };
    let metrics = if running.global.metrics == config.global.metrics {
        Metrics::Stay
    } else {
        Metrics::Move(open_metrics(control, config.global.metrics)?)
    };
    Ok(Moves { log, status, metrics })
}

async fn open_log(target: &LogTarget) -> Result<Box<dyn LogOutput>, String> {
    // A file on a dead mount must not hold up the control plane.
    let opening = spawn_blocking({
        let target = target.clone();
        move || open_target(&target)
    });
    match timeout(OPEN_LIMIT, opening).await {
        Ok(Ok(opened)) => opened.map_err(|error| error.to_string()),
        Ok(Err(_)) | Err(_) => Err(format!("the log could not be opened within {OPEN_LIMIT:?}")),
    }
}

/// What stays as it is, and what brings another value into force.
pub fn fixed(control: &Control) -> BTreeMap<String, String> {
    let is_ours = control.served.of_status(StatusSocket::owns_file) != Some(false);
    let fixed = [("global.status-socket", "it stays where it is: the service manager opened it")];
    fixed.into_iter().filter(|_| !is_ours).map(|(key, effect)| (key.to_owned(), effect.to_owned())).collect()
}

fn open_status(control: &Control, running: &Config, config: &mut Config) -> Result<Option<StatusSocket>, String> {
    let path = &mut config.global.status_socket;
    if control.served.of_status(StatusSocket::owns_file) == Some(false) {
        tracing::warn!(path = %path.display(), "the status socket stays where it is: the service manager opened it");
        path.clone_from(&running.global.status_socket);
        return Ok(None);
    }
    if control.served.of_status(|socket| socket.is_at(path)) == Some(true) {
        return Ok(None);
    }
    StatusSocket::open(path).map(Some).map_err(|error| error.to_string())
}

fn open_metrics(control: &Control, address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    let bind = |address| {
        let failed = |error: io::Error| format!("cannot bind metrics address {address}: {error}");
        control.served.bind_metrics(address).map_err(failed)
    };
    address.map(bind).transpose()
}

impl Moves {
    /// Uses what was opened. Every worker has the new generation by now, so that no line in the old format follows.
    pub async fn carry_out(self, control: &Handle) {
        let config = control.config();
        if let Some(output) = self.log {
            tracing::info!(to = %config.log.target, "the log goes on elsewhere");
            set_format(config.log.format);
            control.shared.log.switch(output);
        }
        set_format(config.log.format);
        if let Some(socket) = self.status {
            tracing::info!(path = %config.global.status_socket.display(), "status socket moved");
            control.served.take_status(control, socket).await;
        }
        if let Metrics::Move(listener) = self.metrics {
            let address = config.global.metrics.map(|address| address.to_string());
            tracing::info!(address, "metrics moved");
            control.served.take_metrics(control, listener).await;
        }
    }
}
