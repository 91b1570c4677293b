//! What the control plane says to a worker.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use socket2::Socket;
use tokio::sync::{mpsc, oneshot};

use super::place::Place;
use super::postgres::CancelTarget;
use crate::api::{SessionReport, SessionsParams};
use crate::decide::close::CloseReason;
use crate::state::{Heirs, Matching, Snapshot, Tallies};
use crate::sys::channel::{Parcel, Passage};

/// What the control plane asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Take a new generation, and say so.
    Install(Generation, oneshot::Sender<()>),
    /// Take what waits, close the listening sockets, and end once no session is open.
    Leave,
    /// End sessions.
    End {
        /// Which.
        matching: Matching,
        /// Why.
        reason: CloseReason,
        /// How many at most, of those that were not told yet.
        most: usize,
        /// Where it is said how many were told.
        answer: oneshot::Sender<u64>,
    },
    /// Describe open sessions that match.
    List(Arc<SessionsParams>, oneshot::Sender<Vec<SessionReport>>),
    /// Duplicate the listening sockets.
    Sockets(SyncSender<io::Result<Vec<(SocketAddr, Socket)>>>),
    /// Put every session aside from now on.
    Hold,
    /// Stop accepting, put every session aside, send all of them to the process that is to take its place, and say how many.
    HandOver(Passage, SyncSender<io::Result<u64>>),
    /// That process has them: let go of them and of the listening sockets, send those that are still set up once their bytes
    /// flow or they wait for a place, and end.
    LetGo(Passage),
    /// Accept and go on with what was put aside.
    GoOn,
    /// Put sessions aside that another process sent.
    TakeUp(Parcel, Arc<Heirs>, SyncSender<io::Result<u64>>),
    /// Go on with sessions that another process sent late.
    TakeUpLate(Parcel, Arc<Heirs>),
    /// Add counts of another process, and say so.
    Count(Arc<Tallies>, Arc<Snapshot>, SyncSender<()>),
    /// Know the other workers, and run there.
    Meet(Vec<mpsc::WeakUnboundedSender<Self>>, Place),
    /// Say on which backends a source has sessions; asked by another worker.
    Locate {
        /// Through this listener.
        listener: Arc<str>,
        /// The client's address.
        source: IpAddr,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<CancelTarget>>,
    },
}

/// A snapshot and the sockets to listen on.
#[derive(Debug)]
pub struct Generation {
    /// Routes and pools.
    pub snapshot: Arc<Snapshot>,
    /// Every address of every listener; those not in it are closed.
    pub listening: Vec<Listening>,
    /// What the sockets in there are.
    pub given: Sockets,
}

/// What a worker is given of listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Those that it does not have yet.
    New,
    /// All that it is to have. What it gives up goes on elsewhere, with those who wait in it.
    All,
    /// None, now that there are to be fewer workers: it only has its sessions to finish.
    None,
}

/// One address of one listener.
#[derive(Debug)]
pub struct Listening {
    /// The address as configured: the identity of the socket over reloads.
    pub bind: SocketAddr,
    /// Position of the listener.
    pub listener: usize,
    /// New sockets; none where the worker has some.
    pub sockets: Vec<Socket>,
}
