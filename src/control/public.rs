//! The sockets that the control plane serves: status and metrics.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, spawn_local};

use super::socket::{serve, serve_metrics};
use super::upgrade::Sockets;
use super::{Handle, StatusSocket};

/// What is open.
#[derive(Default)]
pub struct Public {
    status: Option<Rc<StatusSocket>>,
    metrics: Option<(OwnedFd, SocketAddr)>,
    accepting: Vec<AbortHandle>,
}

impl Public {
    /// Begins to serve.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn open(control: &Handle, status: StatusSocket, metrics: Option<TcpListener>) -> io::Result<()> {
        let status = Rc::new(status);
        let mut public = Self { status: Some(Rc::clone(&status)), ..Self::default() };
        public.accepting.push(spawn_local(serve(Handle::clone(control), status)).abort_handle());
        if let Some(listener) = metrics {
            public.metrics = Some((listener.as_fd().try_clone_to_owned()?, listener.local_addr()?));
            public.accepting.push(spawn_local(serve_metrics(Handle::clone(control), listener)).abort_handle());
        }
        *control.public.borrow_mut() = public;
        Ok(())
    }

    /// The sockets for another process, with what they are.
    pub fn duplicate(&self) -> io::Result<Vec<(Sockets, OwnedFd)>> {
        let mut all = Vec::new();
        if let Some(status) = &self.status {
            let (path, ours) = (status.path().to_owned(), status.owns_file());
            all.push((Sockets::Status { path, ours }, status.as_fd().try_clone_to_owned()?));
        }
        if let Some((listener, address)) = &self.metrics {
            all.push((Sockets::Metrics(*address), listener.try_clone()?));
        }
        Ok(all)
    }

    /// Accepts nobody any more: another process does. Clients that are here are served; the status socket's file stays.
    pub fn leave_to_heir(&mut self) {
        self.accepting.drain(..).for_each(|task| task.abort());
        self.metrics = None;
        if let Some(status) = self.status.take() {
            status.leave_file();
        }
    }
}
