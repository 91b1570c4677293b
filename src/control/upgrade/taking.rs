//! The new process's part of an upgrade.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;
use std::{io, path::PathBuf};

use tokio::task::{spawn_blocking, spawn_local};

use super::estate::Estate;
use super::words::{Heard, Hello, Listening, Sockets, Word, choose_format, hear, hear_word, out_of_turn, say};
use super::{FOLLOW_LIMIT, READY_LIMIT, STEP_LIMIT};
use crate::control::{Handle, removals, standing};
use crate::state::{Heirs, Snapshot};
use crate::sys::channel::Channel;

/// The new process's end of the channel, once both understand each other.
#[derive(Clone, Debug)]
pub struct Heir {
    channel: Arc<Channel>,
    format: u32,
    /// Whether most of the file system is closed already.
    pub confined: bool,
    /// Version of the running process.
    pub from: String,
}

/// What comes before the sessions.
#[derive(Debug)]
pub struct Inherited {
    /// Sockets, each with what it is.
    pub sockets: Vec<Socket>,
    /// What the control plane takes up.
    pub estate: Box<Estate>,
}

/// A socket that was handed over.
#[derive(Debug)]
pub enum Socket {
    /// A listening socket, its address as configured, and whether the service manager opened it.
    Listening(OwnedFd, SocketAddr, bool),
    /// The status socket, its path, and whether the file goes with the process.
    Status(OwnedFd, PathBuf, bool),
    /// The socket of the metrics.
    Metrics(OwnedFd, SocketAddr),
}

impl Heir {
    /// Takes standard input as the channel to the running process, and hears who that is.
    ///
    /// # Errors
    /// When nobody is there, or its format is not understood; it is told so.
    pub fn meet() -> Result<Self, String> {
        let channel = Channel::from_stdin()
            .and_then(|channel| channel.set_limit(Some(READY_LIMIT)).map(|()| channel))
            .map_err(|error| format!("no running process is at the other end of standard input: {error}"))?;
        match hear_word(&channel)? {
            Word::Hello(hello) => Self::answer(channel, &hello),
            other => Err(out_of_turn(&other)),
        }
    }

    fn answer(channel: Channel, hello: &Hello) -> Result<Self, String> {
        let chosen = choose_format(hello);
        let heir = Self {
            channel: Arc::new(channel),
            format: chosen.as_ref().copied().unwrap_or(0),
            confined: hello.confined,
            from: hello.version.clone(),
        };
        chosen.map(|_| heir.clone()).inspect_err(|why| heir.refuse(why))
    }

    /// Tells the running process that nothing comes of it, and why.
    pub fn refuse(&self, why: &str) {
        // It may have ended.
        let _ = say(&self.channel, &Word::Refused { why: why.to_owned() });
    }

    /// Receives sockets and state.
    ///
    /// # Errors
    /// When they do not come, or are not understood.
    pub fn inherit(&self) -> Result<Inherited, String> {
        let mut sockets = Vec::new();
        loop {
            let (word, mut descriptors) = match hear(&self.channel)? {
                Heard::Word(word, descriptors) => (word, descriptors.into_iter()),
                Heard::Sessions(_) => return Err("sessions came out of turn".to_owned()),
            };
            match word {
                Word::Sockets(Sockets::Listening(all)) => {
                    let listening = all.into_iter().zip(descriptors).map(|(listening, descriptor)| {
                        let Listening { bind, activated } = listening;
                        Socket::Listening(descriptor, bind, activated)
                    });
                    sockets.extend(listening);
                }
                Word::Sockets(Sockets::Status { path, ours }) => {
                    sockets.extend(descriptors.next().map(|descriptor| Socket::Status(descriptor, path, ours)));
                }
                Word::Sockets(Sockets::Metrics(address)) => {
                    sockets.extend(descriptors.next().map(|descriptor| Socket::Metrics(descriptor, address)));
                }
                Word::State(estate) => return Ok(Inherited { sockets, estate }),
                other => return Err(out_of_turn(&other)),
            }
        }
    }
}

impl Inherited {
    /// Number of the generation that was in force there.
    pub const fn generation(&self) -> u64 {
        self.estate.generation()
    }
}

/// Takes over: waits for the sessions, and has everything go on here. `snapshot` is in force and its backends were asked.
///
/// # Errors
/// When anything is missing or does not come; the running process then goes on, and this one must end.
pub fn take_over(control: &Handle, snapshot: &Arc<Snapshot>, heir: &Heir) -> Result<u64, String> {
    control.plane.borrow().hold();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    say(&heir.channel, &Word::Ready { format: heir.format, version })?;
    let estate = match hear_word(&heir.channel)? {
        Word::State(estate) => estate,
        other => return Err(out_of_turn(&other)),
    };
    let limit = heir.channel.set_limit(Some(STEP_LIMIT));
    limit.map_err(|error| error.to_string())?;
    let heirs = Arc::new(estate.heirs(snapshot));
    let unfinished = estate.take_up(control, snapshot);
    // What was in force there may not be what this configuration comes to.
    standing::sum_up_all(control, snapshot);
    let sessions = receive_sessions(control, &heir.channel, &heirs)?;
    say(&heir.channel, &Word::Holding)?;
    match hear_word(&heir.channel)? {
        Word::Go => {}
        other => return Err(out_of_turn(&other)),
    }
    // Said before the first byte moves: without it the other process goes on with them.
    say(&heir.channel, &Word::Took)?;
    drop(control.plane.borrow_mut().install(snapshot));
    control.plane.borrow().go_on();
    receive_counts(control, snapshot, &heir.channel, &heirs);
    removals::end_removed(control, heirs.gone(), &snapshot.config);
    removals::end_unrouted(control, heirs.gone_rules().clone(), &snapshot.config);
    unfinished.resume(control, &heirs);
    follow(control, snapshot, heir, heirs);
    Ok(sessions)
}

fn receive_sessions(control: &Handle, channel: &Channel, heirs: &Arc<Heirs>) -> Result<u64, String> {
    let mut taken: Vec<Receiver<io::Result<u64>>> = Vec::new();
    loop {
        match hear(channel)? {
            Heard::Sessions(parcel) => taken.push(control.plane.borrow().take_up(taken.len(), parcel, heirs)),
            Heard::Word(Word::Handed { sessions }, _) => {
                let mut here = 0;
                for batch in taken {
                    let count = batch.recv_timeout(STEP_LIMIT).map_err(|_| "a worker did not answer".to_owned())?;
                    here += count.map_err(|error| format!("sessions could not be taken up: {error}"))?;
                }
                let all = here == sessions;
                return if all { Ok(here) } else { Err(format!("{sessions} sessions were sent, {here} came")) };
            }
            Heard::Word(other, _) => return Err(out_of_turn(&other)),
        }
    }
}

/// Counters go on from where they were, before anybody can read them here. Sessions that were still set up may come first.
fn receive_counts(control: &Handle, snapshot: &Arc<Snapshot>, channel: &Channel, heirs: &Arc<Heirs>) {
    let mut late = 0;
    let why = loop {
        match hear(channel) {
            Ok(Heard::Sessions(parcel)) => {
                control.plane.borrow().take_up_late(late, parcel, heirs);
                late += 1;
            }
            Ok(Heard::Word(Word::Counts(tallies), _)) => {
                for worker in control.plane.borrow().count(&Arc::new(*tallies), snapshot) {
                    // A worker that does not answer is noticed by the watchdog.
                    let _ = worker.recv_timeout(STEP_LIMIT);
                }
                return;
            }
            Ok(Heard::Word(other, _)) => break out_of_turn(&other),
            Err(why) => break why,
        }
    };
    tracing::error!(why, "counters begin at zero");
}

/// Takes what the other process still has to send, until it ends.
fn follow(control: &Handle, snapshot: &Arc<Snapshot>, heir: &Heir, heirs: Arc<Heirs>) {
    let (snapshot, channel) = (Arc::clone(snapshot), Arc::clone(&heir.channel));
    let own = Handle::clone(control);
    // It may be silent until the last session is set up.
    if let Err(error) = channel.set_limit(Some(FOLLOW_LIMIT)) {
        tracing::warn!(%error, "the channel to the process before keeps its limit of {STEP_LIMIT:?}");
    }
    let following = spawn_local(async move {
        let begun = Instant::now();
        let mut late = 0;
        loop {
            let ear = Arc::clone(&channel);
            let heard = spawn_blocking(move || hear(&ear)).await.map_err(|error| error.to_string()).flatten();
            match heard {
                Ok(Heard::Sessions(parcel)) => {
                    own.plane.borrow().take_up_late(late, parcel, &heirs);
                    late += 1;
                    removals::end_removed(&own, heirs.gone(), &snapshot.config);
                    removals::end_unrouted(&own, heirs.gone_rules().clone(), &snapshot.config);
                }
                Ok(Heard::Word(Word::Counts(tallies), _)) => {
                    drop(own.plane.borrow().count(&Arc::new(*tallies), &snapshot));
                }
                Ok(Heard::Word(Word::Bye, _)) => {
                    // The service manager listens to this process by now.
                    own.plane.borrow().settle_store(STEP_LIMIT);
                    break;
                }
                Ok(Heard::Word(other, _)) => tracing::warn!(why = out_of_turn(&other), "from the process before"),
                Err(why) => {
                    tracing::warn!(why, "the process before ended without a farewell");
                    break;
                }
            }
        }
        tracing::info!(late, took_ms = begun.elapsed().as_millis() as u64, "the process before has ended");
    });
    control.predecessor.replace(Some(following));
}
