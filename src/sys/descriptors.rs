//! Descriptors that the service manager hands over at start (`sd_listen_fds(3)`), and those that it keeps for the next start
//! (`sd_pid_notify_with_fds(3)`, "FDSTORE"). What they are for is decided elsewhere.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use sd_notify::NotifyState;
use socket2::{Domain, Socket, Type};

use super::socket;

/// A descriptor with the name that it was given (`FileDescriptorName=`).
#[derive(Debug)]
pub struct HandedOver {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: Handed,
}

/// What a descriptor is.
#[derive(Debug)]
pub enum Handed {
    /// A listening TCP socket with the options that the data path wants, and its address.
    Tcp(Socket, SocketAddr),
    /// A listening unix socket.
    Unix(UnixListener),
    /// Something else; it is closed.
    Other,
}

/// Takes what the service manager handed over; nothing without one. To be called once, before descriptors are opened.
///
/// # Errors
/// When the environment is wrong, or a socket cannot be set up.
#[allow(unsafe_code)]
pub fn take() -> io::Result<Vec<HandedOver>> {
    let all = sd_notify::listen_fds_with_names()?;
    all.map(|(descriptor, name)| {
        // SAFETY: the protocol gives these descriptors to this process, and nothing else has taken them.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(HandedOver { name, what: sort(owned)? })
    })
    .collect()
}

fn sort(descriptor: OwnedFd) -> io::Result<Handed> {
    let socket = Socket::from(descriptor);
    // Everything that is no socket fails here.
    if !socket.is_listener().unwrap_or(false) || socket.r#type()? != Type::STREAM {
        return Ok(Handed::Other);
    }
    socket.set_nonblocking(true)?;
    match socket.domain()? {
        Domain::UNIX => Ok(Handed::Unix(UnixListener::from(OwnedFd::from(socket)))),
        Domain::IPV4 | Domain::IPV6 => {
            socket::adopt_listener(&socket)?;
            let address = socket::local_address(&socket)?;
            Ok(Handed::Tcp(socket, address))
        }
        _ => Ok(Handed::Other),
    }
}

/// Name under which a listening socket is kept: `:` may not be in it.
fn store_name(address: SocketAddr) -> String {
    format!("tcp_{address}").replace(':', "_")
}

/// Asks the service manager to keep a listening socket for the next start. Without one, or where the unit has no
/// `FileDescriptorStoreMax=`, this does nothing.
pub fn keep(address: SocketAddr, socket: &Socket) -> io::Result<()> {
    let name = store_name(address);
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[socket.as_fd()])
}

/// Whether a socket that was handed over is one that [`keep`] had kept, and not one that the service manager opened.
pub fn was_kept(name: &str, address: SocketAddr) -> bool {
    name == store_name(address)
}

/// Asks it to forget those of an address.
pub fn forget(address: SocketAddr) -> io::Result<()> {
    let name = store_name(address);
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)])
}
