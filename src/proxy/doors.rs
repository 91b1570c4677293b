//! The listening sockets of one worker over generations: those that stay get their new listener, others come and go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::task::{JoinHandle, spawn_local};

use super::accept::{self, Door};
use super::view;
use super::worker::{Generation, Listening, Worker};
use crate::sys::socket::set_first_speaker;

/// Listening sockets by their configured address, mostly one, with the tasks that accept on them.
pub type Doors = HashMap<SocketAddr, Vec<(Rc<Door>, JoinHandle<()>)>>;

/// Takes a generation: sockets that stay get their new listener, new ones begin to accept, others are closed.
pub fn install(worker: &Rc<Worker>, generation: Generation, doors: &mut Doors) {
    worker.max_connections.set(generation.snapshot.config.global.max_connections);
    worker.pipes.set_capacity(generation.snapshot.config.global.relay.pipe_size as usize);
    let log = &generation.snapshot.config.log;
    if *worker.log.borrow() != *log {
        // What waits looks, and goes where, it was meant to.
        worker.hand_over_records();
        worker.log.replace(log.clone());
    }
    let (pools, listeners) = view::listeners(&generation.snapshot, &worker.pools(), worker.id);
    worker.set_pools(pools);
    let mut kept = HashMap::new();
    for Listening { bind, listener, sockets } in generation.listening {
        let Some(view) = listeners.get(listener) else { continue };
        let mut here = doors.remove(&bind).unwrap_or_default();
        for socket in sockets {
            match Door::new(socket, Rc::clone(view)) {
                Ok(door) => {
                    let door = Rc::new(door);
                    let task = spawn_local(accept::run(Rc::clone(worker), Rc::clone(&door)));
                    here.push((door, task));
                }
                Err(error) => tracing::error!(%bind, %error, "cannot register the listening socket"),
            }
        }
        for (door, _) in &here {
            door.listener.replace(Rc::clone(view));
            // Without the option a connection is accepted a little earlier than needed.
            let _ = set_first_speaker(door.socket(), view.first_speaker());
        }
        kept.insert(bind, here);
    }
    for (door, _) in doors.values().flatten() {
        door.close();
    }
    *doors = kept;
}
