//! The listening sockets of one worker over generations: those that stay get their new listener, others come and go.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use socket2::Socket;
use tokio::task::{JoinHandle, spawn_local};

use super::accept::{self, Door};
use super::command::{Generation, Listening, Sockets};
use super::faults::essential;
use super::view::{self, ListenerView};
use super::worker::Worker;
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
    worker.staff.set(generation.snapshot.workers);
    worker.rests.set(generation.given == Sockets::None);
    worker.set_pools(pools);
    if generation.given != Sockets::New {
        close_for_others(&generation.listening, &listeners, doors);
    }
    let mut kept = HashMap::new();
    for Listening { bind, listener, sockets } in generation.listening {
        let Some(view) = listeners.get(listener) else { continue };
        let mut here = doors.remove(&bind).unwrap_or_default();
        for socket in sockets {
            match Door::new(socket, Rc::clone(view)) {
                Ok(door) => {
                    let door = Rc::new(door);
                    let task = spawn_local(essential(accept::run(Rc::clone(worker), Rc::clone(&door))));
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

/// Closes sockets that go on elsewhere. Who is accepted meanwhile is judged by the present generation.
fn close_for_others(listening: &[Listening], listeners: &[Rc<ListenerView>], doors: &mut Doors) {
    for (bind, here) in doors.drain() {
        let present = listening.iter().find(|one| one.bind == bind).and_then(|one| listeners.get(one.listener));
        for (door, _) in here {
            if let Some(view) = present {
                door.listener.replace(Rc::clone(view));
            }
            door.close();
        }
    }
}

/// Stops accepting for now: who comes meanwhile waits in the kernel's queue.
pub fn rest(doors: &Doors) {
    doors.values().flatten().for_each(|(_, task)| task.abort());
}

/// Accepts again after a rest.
pub fn open(worker: &Rc<Worker>, doors: &mut Doors) {
    for (door, task) in doors.values_mut().flatten() {
        *task = spawn_local(essential(accept::run(Rc::clone(worker), Rc::clone(door))));
    }
}

/// The listening sockets, duplicated, with their addresses as configured.
pub fn duplicate(doors: &Doors) -> io::Result<Vec<(SocketAddr, Socket)>> {
    let all = doors.iter().flat_map(|(bind, here)| here.iter().map(|(door, _)| (*bind, door)));
    all.map(|(bind, door)| Ok((bind, door.socket().try_clone()?))).collect()
}

/// Takes what waits in the kernel's queues, and closes the listening sockets.
pub async fn close(doors: Doors) {
    let closing = doors.into_values().flatten().map(|(door, task)| {
        door.close();
        task
    });
    for task in closing.collect::<Vec<_>>() {
        // The loop ends by itself once its queue is empty.
        let _ = task.await;
    }
}
