//! TCP sockets: listening, accepting, connecting, closing, each with the options that the data path wants.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// First keepalive probe of accepted sockets, which inherit it. Chosen: firewalls forget idle connections after minutes,
/// Linux would wait for two hours.
pub const INHERITED_KEEPALIVE: Duration = Duration::from_mins(1);

/// Probes after the first: 6 more, 10 s apart.
const fn keepalive(first: Duration) -> TcpKeepalive {
    TcpKeepalive::new().with_time(first).with_interval(Duration::from_secs(10)).with_retries(6)
}

/// Longest accept queue asked for; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Who speaks first on a connection that a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSpeaker {
    /// The client: connections are accepted once bytes are there.
    Client,
    /// The server, or nobody knows.
    Server,
}

/// Opens a listening socket that shares its port with the other workers' sockets (`SO_REUSEPORT`).
/// Accepted sockets inherit no-delay and keepalive. IPv6 sockets take no IPv4.
pub fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = bind(address)?;
    adopt_listener(&socket)?;
    Ok(socket)
}

/// The same, but it does not listen yet: no connection comes to it before [`adopt_listener`].
pub fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets what accepted sockets inherit, and the longest queue; of a bound socket, which may be listening already.
pub fn adopt_listener(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive(INHERITED_KEEPALIVE))?;
    socket.listen(BACKLOG)
}

/// Sets `TCP_DEFER_ACCEPT` as fits who speaks first: with one second, a silent client is accepted after its
/// first retransmitted SYN-ACK, so the hello's deadline still runs in user space.
pub fn set_first_speaker(listener: &Socket, first: FirstSpeaker) -> io::Result<()> {
    let seconds: libc::c_int = match first {
        FirstSpeaker::Client => 1,
        FirstSpeaker::Server => 0,
    };
    set_option(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Sets an integer option that neither socket2 nor nix has.
#[allow(unsafe_code)]
fn set_option(socket: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the length given; the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Fails when somebody else listens on `address`: with `SO_REUSEPORT` a second daemon of the same user would
/// silently share the port instead. Binds without it for a moment, which only a free port allows.
pub fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Ports of sessions that are closing are no obstacle.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Registers a listening socket with the runtime of this thread.
#[allow(unsafe_code)]
pub fn watch_listener(listener: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a socket2 socket owns its descriptor until it is dropped and always returns the same one.
    unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }.map_err(Into::into)
}

/// Accepts one connection, non-blocking and closed on exec, in one call.
pub fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let (socket, address) = listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
    Ok((socket, inet(&address)?))
}

/// What tells a socket from all others, however often its descriptor was duplicated: its inode.
pub fn identity(socket: &Socket) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
}

/// Local address of a socket.
pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    inet(&socket.local_addr()?)
}

fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::from(ErrorKind::AddrNotAvailable))
}

/// How a connection is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// The address to connect from; `None`: the kernel's choice.
    pub from: Option<IpAddr>,
    /// Whether the first bytes may go in the SYN (`TCP_FASTOPEN_CONNECT`, Linux 4.11): with a cookie the first write
    /// connects.
    pub fast_open: bool,
}

/// Starts a connection; it is usually not established when this returns.
pub fn start_connect(address: SocketAddr, start: Start) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = start.from {
        // The port is chosen when the other end is known, so that every backend has all of them (`ip(7)`).
        set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    if start.fast_open {
        set_option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Whether a connection that was started is established: over loopback and to a container it is at once (`getpeername(2)`).
pub fn is_established(socket: &Socket) -> bool {
    socket.peer_addr().is_ok()
}

/// Sends what the socket takes at once; `WouldBlock` while it is not established (`send(2)`).
pub fn send_now(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    socket2::SockRef::from(&socket).send_with_flags(bytes, libc::MSG_NOSIGNAL)
}

/// Turns keepalive on with this time to the first probe, or off.
pub fn keep_alive(socket: impl AsFd, first: Option<Duration>) -> io::Result<()> {
    let socket = socket2::SockRef::from(&socket);
    match first {
        Some(first) => socket.set_tcp_keepalive(&keepalive(first)),
        None => socket.set_keepalive(false),
    }
}

/// Whether a ready connection is still good: open, and the peer has sent nothing (`recv(2)`, `MSG_PEEK`).
pub fn is_quiet(socket: impl AsFd) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit(); 1];
    let peeked = socket2::SockRef::from(&socket).recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Looks at the next bytes without taking them (`recv(2)`, `MSG_PEEK`); 0 is the end.
pub fn peek(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    Ok(nix::sys::socket::recv(socket.as_fd().as_raw_fd(), bytes, flags)?)
}

/// What the kernel asked a peer without an answer so far.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered {
    /// Times that data was sent once more.
    pub retransmits: u8,
    /// Probes of a closed window or of an idle connection.
    pub probes: u8,
    /// Since the last acknowledgement of any kind.
    pub silent: Duration,
}

/// What the kernel asked a peer without an answer (`TCP_INFO`, `tcp(7)`); `None` if it does not say.
pub fn unanswered(socket: &impl AsRawFd) -> Option<Unanswered> {
    let info = info(socket)?;
    Some(Unanswered {
        retransmits: info.tcpi_retransmits,
        probes: info.tcpi_probes,
        silent: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
}

/// Bytes in the send queue that the peer has not acknowledged and still may: none once the connection is gone, when the
/// kernel has thrown them away but counts on.
pub fn undelivered(socket: &impl AsRawFd) -> u32 {
    /// `TCP_CLOSE` of the kernel's `tcp_states.h`.
    const CLOSED: u8 = 7;
    match unsent(socket) {
        0 => 0,
        _ if info(socket).is_some_and(|info| info.tcpi_state == CLOSED) => 0,
        left => left,
    }
}

#[allow(unsafe_code)]
fn info(socket: &impl AsRawFd) -> Option<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer is to as many writable bytes as `length` says; the kernel writes no more.
    let result = unsafe {
        let place = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all bytes were zero before the call, and any bytes make a valid value of the plain integers inside.
    Some(unsafe { info.assume_init() })
}

/// Makes the coming close a reset.
pub fn reset_on_close(socket: impl AsFd) {
    // Without the option the peer sees an ordinary end; there is nobody to tell.
    let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// Bytes in the send queue that the peer has not acknowledged (`SIOCOUTQ`, `tcp(7)`).
#[allow(unsafe_code)]
pub fn unsent(socket: &impl AsRawFd) -> u32 {
    let mut count: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one integer to the pointer, which is to a live one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { count.unsigned_abs() } else { 0 }
}

/// How much a socket takes now, in bytes; `WouldBlock` while the kernel does not call it writable, which it does once a
/// third of the send buffer is free and less than half of `unsent_limit` waits to be sent. epoll tells when that changes
/// (`sk_stream_is_writeable` and `tcp_poll` in the kernel). Of a socket that is broken a write tells more.
pub fn room(socket: impl AsFd, unsent_limit: u32) -> io::Result<u32> {
    let (queued, limit) = send_buffer(&socket.as_fd())?;
    let free = limit.saturating_sub(queued);
    let is_limited = unsent_limit < u32::MAX;
    if free > 0 && free >= queued / 2 && !is_limited {
        return Ok(free);
    }
    // The kernel sends no event to somebody who was not refused; asking is enough to be told later.
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut asked, PollTimeout::ZERO)? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    Ok(if is_limited { free.min(unsent_limit / 2) } else { free }.max(1))
}

/// Bytes in the send buffer, bookkeeping included, and how many it may hold (`SO_MEMINFO`, Linux 4.12).
#[allow(unsafe_code)]
fn send_buffer(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    /// Places of `enum` in the kernel's `sock_diag.h`.
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    const VARS: usize = 9;
    let mut info = [0_u32; VARS];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointer is to as many writable bytes as `length` says, all of a plain integer; the kernel writes no more.
    let result = unsafe {
        let place = info.as_mut_ptr().cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, place, &raw mut length)
    };
    if result == 0 { Ok((info[WMEM_QUEUED], info[SNDBUF])) } else { Err(io::Error::last_os_error()) }
}

/// What an error of `accept(2)` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// No connection waits.
    Empty,
    /// The connection itself failed; the next may be fine.
    Connection,
    /// Descriptors or memory ran out: wait and try again.
    Exhausted,
    /// The listening socket is broken.
    Fatal,
}

/// Sorts errors of `accept(2)` as its manual page advises.
pub fn sort_accept_error(error: &io::Error) -> AcceptError {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EAGAIN => AcceptError::Empty,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => AcceptError::Exhausted,
        Errno::EBADF | Errno::EFAULT | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP => AcceptError::Fatal,
        _ => AcceptError::Connection,
    }
}

/// Names of the errors of `accept(2)` that are told apart; the last stands for all others.
pub const ACCEPT_ERRNOS: [&str; 6] = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "other"];

/// Position of an error in [`ACCEPT_ERRNOS`].
pub fn accept_errno(error: &io::Error) -> usize {
    let name = format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0)));
    ACCEPT_ERRNOS.iter().position(|known| *known == name).unwrap_or(ACCEPT_ERRNOS.len() - 1)
}

/// Whether this machine lacks something for a connection: ports, descriptors, memory. Says nothing of the peer.
pub fn is_local(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    let no_port = error.kind() == ErrorKind::AddrNotAvailable;
    no_port || matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Whether the way to an address is missing, rather than somebody there refusing.
pub fn is_unreachable(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN | Errno::EACCES)
}
