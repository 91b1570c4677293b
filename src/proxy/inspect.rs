//! Reads what the client sends first and finds its pool. Second and third stop of the spine.
//! The hello is read, not peeked at, into the worker's buffer; only an incomplete one gets memory of its own.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;

use socket2::Socket;
use tokio::net::TcpStream;

use super::refuse::Stop;
use super::session::Session;
use super::view::ListenerView;
use super::worker::Worker;
use crate::config::{PoolId, Protocol};
use crate::decide::close::CloseReason;
use crate::decide::hello::{AlpnList, ClientHello, HelloFacts, Joiner, Limits, ServerName, Step, single_record};
use crate::decide::route::Question;
use crate::state::Routed;
use crate::sys::socket;

/// Most bytes of one read while the hello is read; a hello and the early data behind it fit.
const READ_SIZE: usize = 16 * 1024;

/// What the first bytes said.
#[derive(Debug)]
pub struct Inspected {
    /// Bytes read so far, to be sent to the backend unchanged.
    pub bytes: Vec<u8>,
    /// Position of the pool.
    pub pool: PoolId,
}

/// The client's socket: registered with the runtime only when there is something to wait for.
#[derive(Debug)]
pub enum Client {
    /// Not registered.
    Raw(Socket),
    /// Registered.
    Stream(TcpStream),
    /// Given away, or lost to an error of registering it.
    Gone,
}

impl Client {
    /// Wraps a fresh socket.
    pub const fn new(socket: Socket) -> Self {
        Self::Raw(socket)
    }

    /// The registered socket.
    pub fn stream(&mut self) -> io::Result<&TcpStream> {
        if let Self::Raw(_) = self {
            let Self::Raw(socket) = std::mem::replace(self, Self::Gone) else { return Err(gone()) };
            *self = Self::Stream(TcpStream::from_std(socket.into())?);
        }
        match self {
            Self::Stream(stream) => Ok(stream),
            _ => Err(gone()),
        }
    }

    /// Gives the registered socket away.
    pub fn take_stream(&mut self) -> io::Result<TcpStream> {
        self.stream()?;
        match std::mem::replace(self, Self::Gone) {
            Self::Stream(stream) => Ok(stream),
            _ => Err(gone()),
        }
    }

    /// Reads what is there.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(socket) => socket.read(buffer),
            Self::Stream(stream) => stream.try_read(buffer),
            Self::Gone => Err(gone()),
        }
    }

    /// Writes what fits.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Raw(socket) => socket.write(bytes),
            Self::Stream(stream) => stream.try_write(bytes),
            Self::Gone => Err(gone()),
        }
    }

    /// Ends one or both halves.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Raw(socket) => socket.shutdown(how),
            Self::Stream(stream) => socket2::SockRef::from(stream).shutdown(how),
            Self::Gone => Err(gone()),
        }
    }

    /// Makes the coming close a reset.
    pub fn reset_on_close(&self) {
        match self {
            Self::Raw(raw) => socket::reset_on_close(raw),
            Self::Stream(stream) => socket::reset_on_close(stream),
            Self::Gone => {}
        }
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}

/// Reads the hello where the listener wants one, and routes.
pub async fn inspect(
    worker: &Rc<Worker>,
    listener: &ListenerView,
    session: &Session,
    client: &mut Client,
) -> Result<Inspected, Stop> {
    if listener.listener.config.protocol == Protocol::Tcp {
        let pool = route(listener, session, None)?;
        return Ok(Inspected { bytes: Vec::new(), pool });
    }
    let limits = Limits { handshake_bytes: listener.listener.config.max_hello };
    let deadline = session.started_ms + listener.listener.config.hello_timeout.as_millis() as u64;
    let mut bytes = Vec::new();
    let mut joiner = Joiner::new(limits);
    loop {
        let read = {
            let buffer = &mut worker.buffer.borrow_mut()[..READ_SIZE];
            match client.try_read(buffer) {
                Ok(0) => return Err(CloseReason::ClientGone.into()),
                Ok(count) => {
                    let fresh = &buffer[..count];
                    if bytes.is_empty()
                        && let Some(message) = single_record(fresh, limits)
                    {
                        let pool = read_hello(listener, session, message, count)?;
                        return Ok(Inspected { bytes: fresh.to_vec(), pool });
                    }
                    bytes.extend_from_slice(fresh);
                    Ok(joiner.push(fresh)?)
                }
                Err(error) => Err(error),
            }
        };
        match read {
            Ok(Step::Complete) => {
                let pool = read_hello(listener, session, joiner.message(), bytes.len())?;
                return Ok(Inspected { bytes, pool });
            }
            Ok(Step::NeedMore) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let readable = client.stream().map_err(Stop::local)?.readable();
                let ready = session.until(worker, deadline, CloseReason::HelloTimeout, readable).await;
                ready
                    .map_err(|reason| {
                        let detail = format!(
                            "{} bytes of the hello after {} ms",
                            bytes.len(),
                            session.started.elapsed().as_millis()
                        );
                        Stop::new(reason).because(detail)
                    })?
                    .map_err(Stop::local)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(CloseReason::ClientGone.into()),
        }
    }
}

/// Parses a whole hello, keeps its facts, and routes by it.
fn read_hello(listener: &ListenerView, session: &Session, message: &[u8], raw: usize) -> Result<PoolId, Stop> {
    let hello = ClientHello::parse(message)?;
    let took = session.started.elapsed();
    {
        let mut facts = session.facts.borrow_mut();
        facts.hello = Some(Box::new(HelloFacts::of(&hello)));
        facts.hello_time = Some(took.into());
    }
    let shard = session.listener.shard();
    shard.hello_ok.add(1);
    shard.hello_seconds.observe(took.as_secs_f64());
    shard.hello_bytes.observe(raw as f64);
    route(listener, session, Some(&hello))
}

/// The pool that takes the connection.
fn route(listener: &ListenerView, session: &Session, hello: Option<&ClientHello<'_>>) -> Result<PoolId, Stop> {
    let question = Question {
        sni: hello.and_then(|hello| hello.server_name.as_ref()).map(ServerName::as_str),
        alpn: hello.map_or_else(AlpnList::default, |hello| hello.alpn),
        version: hello.map(|hello| hello.version),
        source: session.client.ip(),
    };
    let (name, result) = match listener.listener.route(&question) {
        Routed::ByRule(rule, pool) => (&listener.origins[rule as usize], Ok(pool)),
        Routed::ByDefault(pool) => (&listener.default_origin, Ok(pool)),
        Routed::Rejected(rule, reject) => {
            let stop = Stop { reject: Some(reject), ..Stop::new(CloseReason::RouteRejected) };
            (&listener.origins[rule as usize], Err(stop))
        }
        Routed::Missed(miss) => return Err(Stop::no_route(miss)),
    };
    session.facts.borrow_mut().route = Some(Rc::clone(name));
    result
}
