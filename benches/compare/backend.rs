//! The server behind the proxies: one thread and one epoll, two ports, one for each server name.

use std::io::{self, ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::Outcome;
use crate::process::listen;
use crate::transfer::{SCRATCH_LENGTH, Transfer};
use crate::wire::{HELLO_LENGTH, Mode, Pattern, REQUEST_LENGTH, Request, SERVER_NAMES, client_hello};

/// Steps that one session takes before the next one has its turn.
const STEPS_PER_TURN: usize = 2;

/// What a session does at the moment.
enum State {
    /// Waiting for the hello, which must be the one of this port.
    Hello,
    /// Waiting for a request.
    Request,
    /// Sending an answer.
    Sending(Transfer),
    /// Receiving an upload; its seed is that of the acknowledgement.
    Receiving(Transfer, u64),
}

struct Session {
    socket: TcpStream,
    name: usize,
    state: State,
    partial: Vec<u8>,
    waits_for_room: bool,
    watched_for_room: bool,
}

/// Serves until it is killed. Says `ready PORT PORT` on stdout, and on stderr whatever goes wrong: each such line voids a row.
pub fn serve() -> Outcome<()> {
    let pattern = Pattern::new()?;
    let hellos = SERVER_NAMES.map(client_hello);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut listeners = Vec::new();
    for index in 0..SERVER_NAMES.len() {
        let listener = listen()?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        listeners.push(listener);
    }
    let ports: Vec<String> =
        listeners.iter().map(|it| Ok(it.local_addr()?.port().to_string())).collect::<io::Result<_>>()?;
    println!("ready {}", ports.join(" "));

    let first_session = listeners.len();
    let mut sessions: Vec<Option<Session>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; SCRATCH_LENGTH];
    let mut events = vec![EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        let events = events.get_mut(..count).unwrap_or_default();
        // Those that wait for room send much; the others come first.
        events.sort_by_key(|event| event.events().contains(EpollFlags::EPOLLOUT));
        for event in events {
            let token = usize::try_from(event.data())?;
            if let Some(listener) = listeners.get(token) {
                accept(&epoll, listener, token, first_session, &mut sessions, &mut free)?;
                continue;
            }
            let index = token - first_session;
            let Some(session) = sessions.get_mut(index).and_then(Option::as_mut) else { continue };
            let goes_on = match session.turn(&pattern, &hellos, &mut scratch) {
                Ok(goes_on) => goes_on,
                Err(error) => {
                    eprintln!("backend, {}: {error}", session.doing());
                    false
                }
            };
            if goes_on {
                session.watch(&epoll, token)?;
            } else {
                sessions[index] = None;
                free.push(index);
            }
        }
    }
}

/// Takes what waits on a listener.
fn accept(
    epoll: &Epoll,
    listener: &TcpListener,
    name: usize,
    first_session: usize,
    sessions: &mut Vec<Option<Session>>,
    free: &mut Vec<usize>,
) -> Outcome<()> {
    for _ in 0..64 {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => {
                eprintln!("backend, accepting: {error}");
                break;
            }
        };
        socket.set_nonblocking(true)?;
        let index = free.pop().unwrap_or_else(|| {
            sessions.push(None);
            sessions.len() - 1
        });
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, (first_session + index) as u64))?;
        let session = Session {
            socket,
            name,
            state: State::Hello,
            partial: Vec::new(),
            waits_for_room: false,
            watched_for_room: false,
        };
        sessions[index] = Some(session);
    }
    Ok(())
}

impl Session {
    /// Does what can be done now; `false` at the end of the session.
    fn turn(&mut self, pattern: &Pattern, hellos: &[Vec<u8>], scratch: &mut [u8]) -> io::Result<bool> {
        for _ in 0..STEPS_PER_TURN {
            match self.step(pattern, hellos, scratch) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waits_for_room = matches!(self.state, State::Sending(_));
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset && self.is_between_requests() => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            // Small messages: one request at a time is all there is, so do not look for a second one.
            if matches!(self.state, State::Request) {
                break;
            }
        }
        self.waits_for_room = matches!(self.state, State::Sending(_));
        Ok(true)
    }

    fn step(&mut self, pattern: &Pattern, hellos: &[Vec<u8>], scratch: &mut [u8]) -> io::Result<bool> {
        match &mut self.state {
            State::Hello => {
                if !self.collect(HELLO_LENGTH + REQUEST_LENGTH, scratch)? {
                    return Ok(false);
                }
                if self.partial.len() >= HELLO_LENGTH {
                    if hellos.get(self.name).map(Vec::as_slice) != self.partial.get(..HELLO_LENGTH) {
                        return Err(io::Error::new(ErrorKind::InvalidData, "not the hello of this port"));
                    }
                    self.partial.drain(..HELLO_LENGTH);
                    self.state = State::Request;
                    self.begin(pattern)?;
                }
                Ok(true)
            }
            State::Request => {
                if !self.collect(REQUEST_LENGTH, scratch)? {
                    return Ok(false);
                }
                self.begin(pattern)?;
                Ok(true)
            }
            State::Sending(transfer) => {
                transfer.send(&mut self.socket, pattern)?;
                if transfer.is_complete() {
                    self.state = State::Request;
                }
                Ok(true)
            }
            State::Receiving(transfer, seed) => {
                transfer.receive(&mut self.socket, pattern, scratch)?;
                if transfer.is_complete() {
                    self.state = State::Sending(Transfer::new(*seed, crate::wire::ACKNOWLEDGEMENT_LENGTH));
                }
                Ok(true)
            }
        }
    }

    /// Reads until `limit` bytes are there; `false` when the client left between two requests.
    fn collect(&mut self, limit: usize, scratch: &mut [u8]) -> io::Result<bool> {
        let wanted = limit - self.partial.len();
        let received = self.socket.read(scratch.get_mut(..wanted).unwrap_or_default())?;
        if received == 0 {
            return match self.partial.len() {
                0 => Ok(false),
                _ => Err(io::Error::new(ErrorKind::UnexpectedEof, "the stream ended")),
            };
        }
        self.partial.extend_from_slice(scratch.get(..received).unwrap_or_default());
        Ok(true)
    }

    /// Begins the request, if it is there as a whole.
    fn begin(&mut self, pattern: &Pattern) -> io::Result<()> {
        if self.partial.len() < REQUEST_LENGTH {
            return Ok(());
        }
        let Some(request) = Request::read_from(pattern, &self.partial) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "a request with wrong bytes"));
        };
        self.partial = Vec::new();
        self.state = match request.mode {
            Mode::Send => State::Sending(Transfer::new(request.seed, request.size)),
            Mode::Receive => State::Receiving(Transfer::new(request.seed, request.size), request.seed),
        };
        Ok(())
    }

    fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Hello | State::Request) && self.partial.is_empty()
    }

    /// What the session was at, for messages.
    fn doing(&self) -> String {
        match &self.state {
            State::Hello => format!("waiting for a hello, {} bytes there", self.partial.len()),
            State::Request => format!("waiting for a request, {} bytes there", self.partial.len()),
            State::Sending(transfer) => format!("sending, {} bytes left", transfer.left()),
            State::Receiving(transfer, _) => format!("receiving, {} bytes left", transfer.left()),
        }
    }

    /// Watches for room while sending, for bytes otherwise.
    fn watch(&mut self, epoll: &Epoll, token: usize) -> Outcome<()> {
        if self.waits_for_room != self.watched_for_room {
            let flags = if self.waits_for_room { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
            epoll.modify(&self.socket, &mut EpollEvent::new(flags, token as u64))?;
            self.watched_for_room = self.waits_for_room;
        }
        Ok(())
    }
}
