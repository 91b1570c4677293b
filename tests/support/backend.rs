//! Small backends: one that handles every connection on a thread, and one that does not answer at all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};

/// A backend that handles every connection on a thread of its own. Stops accepting when dropped or stopped.
pub struct Backend {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Backend {
    /// Listens on `address` and calls `handle` for every connection.
    #[track_caller]
    pub fn start(address: impl Into<SocketAddr>, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address.into()).expect("bind backend");
        let address = listener.local_addr().unwrap();
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopping, counter, handle) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(handle));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                counter.fetch_add(1, Ordering::SeqCst);
                let handle = Arc::clone(&handle);
                thread::spawn(move || handle(stream));
            }
        });
        Self { address, stop, accepted, thread: Some(thread) }
    }

    /// A backend that reads whatever comes first, answers with its name and FIN, and reads on to the end.
    #[track_caller]
    pub fn naming(address: impl Into<SocketAddr>, name: &'static str) -> Self {
        Self::start(address, move |mut stream| {
            let mut first = [0; 4096];
            if stream.read(&mut first).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(name.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = io::copy(&mut stream, &mut io::sink());
            }
        })
    }

    /// A backend that sends everything back.
    #[track_caller]
    pub fn echo(address: impl Into<SocketAddr>) -> Self {
        Self::start(address, |mut stream| {
            let mut copy = stream.try_clone().unwrap();
            let _ = io::copy(&mut stream, &mut copy);
            let _ = copy.shutdown(std::net::Shutdown::Write);
        })
    }

    /// Connections accepted so far, health checks included.
    pub fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Stops listening.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Ordering::SeqCst);
            // Wakes the loop.
            drop(TcpStream::connect(self.address));
            let _ = thread.join();
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An address that does not answer, as behind a firewall that drops: its accept queue is full and nobody accepts.
/// It answers again once the sockets are dropped.
#[track_caller]
pub fn deaf(address: impl Into<SocketAddr>) -> Vec<Socket> {
    let address = address.into().into();
    let new = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&address).expect("bind a deaf address");
    listener.listen(0).unwrap();
    let fill = (0..4).map(|_| {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        // In progress, or stuck in it: either is what is wanted.
        let _ = socket.connect(&address);
        socket
    });
    fill.collect::<Vec<_>>().into_iter().chain([listener]).collect()
}
