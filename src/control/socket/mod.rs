//! The status socket: a unix socket, told apart by the first bytes into its dialects, with limits on clients and time.

mod clients;
mod haproxy;
mod http;
mod json_lines;
mod methods;
mod served;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, fs};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;

use self::clients::{Clients, Owner, Watched};
use self::http::Paths;
use self::served::Leaving;
use super::Handle;
use super::overrides::Peer;
use crate::sys::privileges::denied;

pub use self::served::{Served, bind_metrics};

/// Silence after which a client that has said nothing yet is let go: HAProxy's, for people who type.
const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// Time for a request head.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Time for writing an answer.
pub const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Silence after which a client of the JSON dialect is let go.
pub const IDLE: Duration = Duration::from_mins(1);

/// Why the status socket could not be opened.
#[derive(Debug)]
pub enum SocketError {
    /// A daemon answers on it.
    Taken(PathBuf),
    /// Something that is no socket is in the way.
    NoSocket(PathBuf),
    /// The system refused.
    Failed(PathBuf, io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(path) => write!(f, "another daemon answers on {}", path.display()),
            Self::NoSocket(path) => write!(f, "{} is in the way: it is no socket", path.display()),
            Self::Failed(path, cause) => {
                write!(f, "cannot open status socket {}: {}", path.display(), denied(path, cause))
            }
        }
    }
}

impl std::error::Error for SocketError {}

/// The open status socket; its file goes with it.
#[derive(Debug)]
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Whether the file goes with it.
    owns_file: Cell<bool>,
}

impl StatusSocket {
    /// Opens the socket with mode 0660. A file left behind by a daemon that is gone is replaced.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let failed = |cause| SocketError::Failed(path.to_owned(), cause);
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(SocketError::NoSocket(path.to_owned()));
            }
            match knock(path) {
                Ok(()) => return Err(SocketError::Taken(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        // Nobody must get in between bind and chmod.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = bound.map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), owns_file: Cell::new(true) })
    }

    /// Takes a socket that somebody else opened, with the mode that it has. The file stays theirs.
    pub fn adopt(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<Self, SocketError> {
        let listener = UnixListener::from_std(listener).map_err(|error| SocketError::Failed(path.to_owned(), error))?;
        Ok(Self { listener, path: path.to_owned(), owns_file: Cell::new(false) })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file goes with it.
    pub fn owns_file(&self) -> bool {
        self.owns_file.get()
    }

    /// The file goes with it from now on.
    pub fn keep_file(&self) {
        self.owns_file.set(true);
    }

    /// Leaves the file to whoever has the socket besides.
    pub fn leave_file(&self) {
        self.owns_file.set(false);
    }

    /// Whether `path` leads to it, however it is written.
    pub fn is_at(&self, path: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        file(path).is_some_and(|found| file(&self.path) == Some(found))
    }

    /// Removes its file, if that is ours: nobody new comes then.
    fn unlink(&self) {
        if self.owns_file.replace(false) {
            // A file that is left behind is recognised as stale at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for StatusSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Connects, to see whether somebody listens; one whose queue is full does. Never waits.
fn knock(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => result,
    }
}

/// Serves clients of the status socket until it is time to leave.
async fn serve(control: Handle, socket: Rc<StatusSocket>, leaving: Leaving) {
    let clients = Rc::new(Clients::default());
    while let Some((stream, _)) = leaving.next("status socket", || socket.listener.accept()).await {
        // Without them it is gone already.
        let Ok(credentials) = stream.peer_cred() else { continue };
        let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
        let control = Handle::clone(&control);
        clients.make_room().await;
        clients.admit(Owner::Process(peer.uid, peer.pid), |waiting| async move {
            // Errors are the client's own: it went away or was too slow.
            let _ = serve_client(control, Watched::new(stream, waiting), peer).await;
        });
    }
}

async fn serve_client(control: Handle, mut stream: Watched<UnixStream>, peer: Peer) -> io::Result<()> {
    let mut first = Vec::with_capacity(1024);
    if timeout(FIRST_LIMIT, stream.read_buf(&mut first)).await?? == 0 {
        return Ok(());
    }
    if first[0] == b'{' {
        return json_lines::serve(&control, stream, first, peer).await;
    }
    if is_http(&first) {
        let limit = REQUEST_LIMIT + WRITE_LIMIT;
        return timeout(limit, http::serve(&control, stream, first, Paths::All)).await?;
    }
    haproxy::serve(&control, stream, first, peer).await
}

/// An upper-case word first is an HTTP method; HAProxy's commands are in lower case.
fn is_http(first: &[u8]) -> bool {
    first.iter().take(3).all(u8::is_ascii_uppercase)
}

/// Serves `/metrics` on a TCP address until it is time to leave.
async fn serve_metrics(control: Handle, listener: Rc<TcpListener>, leaving: Leaving) {
    let clients = Rc::new(Clients::default());
    while let Some((stream, peer)) = leaving.next("metrics address", || listener.accept()).await {
        let control = Handle::clone(&control);
        clients.make_room().await;
        clients.admit(Owner::Host(peer.ip()), |waiting| async move {
            let stream = Watched::new(stream, waiting);
            let serving = http::serve(&control, stream, Vec::new(), Paths::MetricsOnly);
            // As above.
            let _ = timeout(REQUEST_LIMIT + WRITE_LIMIT, serving).await;
        });
    }
}
