//! Accepts connections on one listening socket of one worker. First stop of the spine.
//! Errors are sorted: a failed connection is skipped, shortage pauses with back-off, anything else ends the listener.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::Socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::sleep;

use super::session::{Accepted, serve};
use super::view::ListenerView;
use super::worker::Worker;
use crate::sys::socket::{self, AcceptError};

/// Connections accepted before others get their turn.
const BATCH: usize = 64;
/// First and longest pause when descriptors or memory run out.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How often a full house looks for a free place.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// One listening socket of one worker.
#[derive(Debug)]
pub struct Door {
    socket: AsyncFd<Socket>,
    /// The listener of the present generation.
    pub listener: RefCell<Rc<ListenerView>>,
    /// The address, unless it is a wildcard and must be asked for per connection.
    destination: Option<SocketAddr>,
    closing: Notify,
}

impl Door {
    /// Registers a listening socket with the worker's runtime.
    pub fn new(socket: Socket, listener: Rc<ListenerView>) -> std::io::Result<Self> {
        let address = socket::local_address(&socket)?;
        let destination = (!address.ip().is_unspecified()).then_some(address);
        let socket = socket::watch_listener(socket)?;
        Ok(Self { socket, listener: RefCell::new(listener), destination, closing: Notify::new() })
    }

    /// The listening socket.
    pub fn socket(&self) -> &Socket {
        self.socket.get_ref()
    }

    /// Asks the loop to take what waits in the kernel's queue and to close the socket.
    pub fn close(&self) {
        self.closing.notify_one();
    }
}

/// Accepts until the door is closed.
pub async fn run(worker: Rc<Worker>, door: Rc<Door>) {
    let mut pause = PAUSE.0;
    loop {
        tokio::select! {
            biased;
            () = door.closing.notified() => break,
            ready = door.socket.readable() => {
                let Ok(mut guard) = ready else { break };
                match batch(&worker, &door) {
                    Batch::Empty => guard.clear_ready(),
                    Batch::More => yield_now().await,
                    Batch::Full => sleep(FULL_PAUSE).await,
                    Batch::Exhausted(error) => {
                        worker.note_exhaustion();
                        if pause == PAUSE.0 {
                            let listener = &door.listener.borrow().listener.config.name;
                            tracing::warn!(%listener, %error, "cannot accept: out of descriptors or memory; pausing");
                        }
                        drop(guard);
                        sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                        continue;
                    }
                    Batch::Fatal(error) => {
                        let listener = &door.listener.borrow().listener.config.name;
                        tracing::error!(%listener, %error, "listening socket is broken");
                        break;
                    }
                }
                pause = PAUSE.0;
            }
        }
    }
    // Whoever waits in this socket's queue would get a reset when it closes.
    while matches!(batch(&worker, &door), Batch::More) {}
}

enum Batch {
    /// Nobody waits.
    Empty,
    /// The batch was used up.
    More,
    /// No place is free in the whole process.
    Full,
    Exhausted(std::io::Error),
    Fatal(std::io::Error),
}

fn batch(worker: &Rc<Worker>, door: &Door) -> Batch {
    let counters = worker.counters();
    for _ in 0..BATCH {
        // The place is taken before the connection, so that workers together never exceed the limit.
        if !worker.take_place() {
            return Batch::Full;
        }
        match socket::accept(door.socket.get_ref()) {
            Ok((socket, client)) => {
                let local = door.destination.map_or_else(|| socket::local_address(&socket), Ok);
                let listener = Rc::clone(&door.listener.borrow());
                // An address that cannot be asked for belongs to a connection that is gone already.
                let destination = local.unwrap_or(client);
                spawn_local(serve(worker, listener, Accepted { socket, client, destination }));
            }
            Err(error) => {
                worker.give_place_back();
                match socket::sort_accept_error(&error) {
                    AcceptError::Empty => return Batch::Empty,
                    AcceptError::Connection => counters.accept_errors[socket::accept_errno(&error)].add(1),
                    AcceptError::Exhausted => {
                        counters.accept_errors[socket::accept_errno(&error)].add(1);
                        return Batch::Exhausted(error);
                    }
                    AcceptError::Fatal => return Batch::Fatal(error),
                }
            }
        }
    }
    Batch::More
}

impl Worker {
    fn take_place(&self) -> bool {
        let taken = self.shared.active.fetch_add(1, Ordering::Relaxed);
        let free = taken < self.max_connections.get();
        if !free {
            self.give_place_back();
        }
        free
    }

    /// Gives a connection's place back.
    pub fn give_place_back(&self) {
        self.shared.active.fetch_sub(1, Ordering::Relaxed);
    }
}
