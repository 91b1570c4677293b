//! The sockets that the control plane serves, until a reload puts others in their place: the status socket and the address
//! for metrics. Who was accepted is served to the end; who had connected before is accepted first.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::Handle;
use super::super::upgrade::Sockets;
use super::{StatusSocket, serve, serve_metrics};
use crate::sys::privileges::Binding;

/// How long those are accepted who had connected before the socket was told to go.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Longest wait for that.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Pause after an error of `accept`.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients of metrics that may wait to be accepted. As many as tokio's own listeners let wait.
const BACKLOG: u32 = 1024;

/// When it is time to leave; until then there is none.
#[derive(Clone)]
pub struct Leaving(watch::Receiver<Option<Instant>>);

impl Leaving {
    /// The next client; `None` when it is time to leave.
    pub async fn next<T>(&self, what: &'static str, accept: impl AsyncFn() -> io::Result<T>) -> Option<T> {
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                () = self.over() => return None,
            };
            match accepted {
                Ok(client) => return Some(client),
                Err(error) => {
                    tracing::warn!(%error, "{what} cannot accept");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn over(&self) {
        let mut word = self.0.clone();
        // Without anybody who could say it, it is time.
        if let Ok(Some(at)) = word.wait_for(Option::is_some).await.map(|at| *at) {
            sleep_until(at).await;
        }
    }
}

/// A socket and the task that accepts on it.
struct Door<S> {
    socket: Rc<S>,
    leave: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
}

impl<S> Door<S> {
    fn open<F: Future<Output = ()> + 'static>(socket: S, serve: impl FnOnce(Rc<S>, Leaving) -> F) -> Self {
        let socket = Rc::new(socket);
        let (leave, leaving) = watch::channel(None);
        let task = spawn_local(serve(Rc::clone(&socket), Leaving(leaving)));
        Self { socket, leave, task }
    }

    async fn close(self) {
        // The task has the other end.
        let _ = self.leave.send(Some(Instant::now() + LAST_LOOK));
        // It may wait for a place for its last client.
        let _ = timeout(END_LIMIT, self.task).await;
    }
}

/// All that is served.
#[derive(Default)]
pub struct Served {
    status: RefCell<Option<Door<StatusSocket>>>,
    metrics: RefCell<Option<Door<TcpListener>>>,
}

impl Served {
    /// What is said of the status socket; `None` while there is none.
    pub fn of_status<T>(&self, say: impl FnOnce(&StatusSocket) -> T) -> Option<T> {
        self.status.borrow().as_ref().map(|door| say(&door.socket))
    }

    /// Binds an address for metrics beside the one that is served.
    pub fn bind_metrics(&self, address: SocketAddr) -> io::Result<TcpListener> {
        bind_metrics(address, self.metrics.borrow().as_ref().map(|door| &*door.socket))
    }

    /// Serves this status socket from now on. The one before goes with its file.
    pub async fn take_status(&self, control: &Handle, socket: StatusSocket) {
        let control = Handle::clone(control);
        let door = Door::open(socket, |socket, leaving| serve(control, socket, leaving));
        let before = self.status.replace(Some(door));
        if let Some(before) = before {
            before.socket.unlink();
            before.close().await;
        }
    }

    /// Serves metrics here from now on, or nowhere, and no more where they were before.
    pub async fn take_metrics(&self, control: &Handle, listener: Option<TcpListener>) {
        let control = Handle::clone(control);
        let door = listener
            .map(|listener| Door::open(listener, |listener, leaving| serve_metrics(control, listener, leaving)));
        let before = self.metrics.replace(door);
        if let Some(before) = before {
            before.close().await;
        }
    }

    /// The sockets for another process, with what they are.
    pub fn duplicate(&self) -> io::Result<Vec<(Sockets, OwnedFd)>> {
        let mut all = Vec::new();
        if let Some(Door { socket, .. }) = &*self.status.borrow() {
            let (path, ours) = (socket.path().to_owned(), socket.owns_file());
            all.push((Sockets::Status { path, ours }, socket.as_fd().try_clone_to_owned()?));
        }
        if let Some(Door { socket, .. }) = &*self.metrics.borrow() {
            all.push((Sockets::Metrics(socket.local_addr()?), socket.as_fd().try_clone_to_owned()?));
        }
        Ok(all)
    }

    /// Accepts nobody any more: another process does. Clients that are here are served; the status socket's file stays.
    pub fn leave_to_heir(&self) {
        self.of_status(StatusSocket::leave_file);
        self.give_up();
    }

    /// Gives up all of it at once.
    pub fn give_up(&self) {
        if let Some(door) = self.status.take() {
            door.socket.unlink();
            door.task.abort();
        }
        if let Some(door) = self.metrics.take() {
            door.task.abort();
        }
    }
}

/// Binds an address for metrics. `own` is closed only afterwards and may have the same port, as when it moves from one
/// address to all of them.
pub fn bind_metrics(address: SocketAddr, own: Option<&TcpListener>) -> io::Result<TcpListener> {
    let _binding = Binding::begin();
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if let Some(own) = own.filter(|own| own.local_addr().is_ok_and(|own| own.port() == address.port())) {
        // Both must say that they share the port. A second daemon does not, and is refused as always.
        SockRef::from(own).set_reuse_port(true)?;
        socket.set_reuseport(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
