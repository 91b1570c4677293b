//! Backends that count how many connections they have at once, and had at most. They never count one that is over: what
//! has ended is looked for before a new connection counts.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Connections of one backend, or of all together.
#[derive(Default)]
pub struct Count {
    open: AtomicU32,
    most: AtomicU32,
}

impl Count {
    /// Connections now.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::SeqCst)
    }

    /// The most at once since the last call; what is open now counts for the next one.
    pub fn take_most(&self) -> u32 {
        self.most.swap(self.open(), Ordering::SeqCst)
    }

    /// The most at once so far.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }

    fn set(&self, open: usize) {
        self.open.store(open as u32, Ordering::SeqCst);
    }

    fn note(&self) {
        self.most.fetch_max(self.open(), Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Shared {
    all: Count,
    each: Vec<Count>,
    stop: AtomicBool,
}

/// Backends on one thread. Each answers the first bytes with one byte, `a` for the first backend, and closes when the
/// other side has finished.
pub struct Counting {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Counting {
    #[track_caller]
    pub fn start(addresses: &[SocketAddr]) -> Self {
        let listeners: Vec<TcpListener> = addresses
            .iter()
            .map(|address| {
                let listener = TcpListener::bind(address).expect("bind backend");
                // The standard library's backlog of 128 is short for a wave of clients.
                nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            })
            .collect();
        let each = listeners.iter().map(|_| Count::default()).collect();
        let shared = Arc::new(Shared { each, ..Shared::default() });
        let mut loop_ = Loop::new(listeners, Arc::clone(&shared));
        Self { shared, thread: Some(thread::spawn(move || loop_.run())) }
    }

    /// All backends together.
    pub fn all(&self) -> &Count {
        &self.shared.all
    }

    /// One backend.
    pub fn of(&self, backend: usize) -> &Count {
        &self.shared.each[backend]
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

struct Connection {
    stream: TcpStream,
    backend: usize,
    /// Nobody is greeted before it counts, so that whoever was greeted can rely on the count.
    is_counted: bool,
    has_spoken: bool,
    is_greeted: bool,
}

struct Loop {
    epoll: Epoll,
    listeners: Vec<TcpListener>,
    connections: HashMap<u64, Connection>,
    open: Vec<usize>,
    shared: Arc<Shared>,
}

impl Loop {
    fn new(listeners: Vec<TcpListener>, shared: Arc<Shared>) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        for listener in &listeners {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, listener.as_raw_fd() as u64);
            epoll.add(listener, event).unwrap();
        }
        let open = vec![0; listeners.len()];
        Self { epoll, listeners, connections: HashMap::new(), open, shared }
    }

    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.look(EpollTimeout::from(20_u8));
            for backend in 0..self.listeners.len() {
                while let Ok((stream, _)) = self.listeners[backend].accept() {
                    self.enter(stream, backend);
                }
            }
        }
    }

    fn enter(&mut self, stream: TcpStream, backend: usize) {
        stream.set_nonblocking(true).unwrap();
        let key = stream.as_raw_fd() as u64;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, key)).unwrap();
        self.connections
            .insert(key, Connection { stream, backend, is_counted: false, has_spoken: false, is_greeted: false });
        self.open[backend] += 1;
        // Whoever made room for it has ended before it came, and perhaps it has itself.
        while self.look(EpollTimeout::ZERO) {}
        self.publish();
        self.shared.all.note();
        self.shared.each[backend].note();
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.is_counted = true;
            connection.greet();
        }
    }

    fn publish(&self) {
        self.shared.all.set(self.connections.len());
        for (count, open) in self.shared.each.iter().zip(&self.open) {
            count.set(*open);
        }
    }

    /// Handles what connections have to say. Returns whether any had.
    fn look(&mut self, timeout: EpollTimeout) -> bool {
        let mut events = [EpollEvent::empty(); 256];
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        let keys: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
        let mut any = false;
        for key in keys {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            any = true;
            if connection.read() {
                continue;
            }
            let Some(mut over) = self.connections.remove(&key) else { continue };
            // It may have finished before it counted; it is answered all the same.
            over.is_counted = true;
            over.greet();
            self.open[over.backend] -= 1;
            // Counted before the other side can know, and give the place to somebody else.
            self.publish();
            drop(over);
        }
        any
    }
}

impl Connection {
    /// Reads what is there. Returns whether the connection goes on.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(_) => {
                self.has_spoken = true;
                self.greet();
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn greet(&mut self) {
        if self.is_counted && self.has_spoken && !self.is_greeted {
            self.is_greeted = true;
            // One that is gone is found by the next read.
            let _ = self.stream.write_all(&[b'a' + self.backend as u8]);
        }
    }
}
