//! Thousands of backends in one: a listener on all loopback addresses that takes every connection and notes when it came.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub struct Arrivals {
    port: u16,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

impl Arrivals {
    #[track_caller]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind on all addresses");
        let port = listener.local_addr().unwrap().port();
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (stopping, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                noted.lock().unwrap().push(Instant::now());
                drop(stream);
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        Self { port, stop, seen, thread: Some(thread) }
    }

    /// Where backend number `number` is.
    pub fn address(&self, number: usize) -> SocketAddr {
        (Ipv4Addr::new(127, 90, (number >> 8) as u8, number as u8), self.port).into()
    }

    /// The addresses of the first `count`, as a list in a configuration.
    pub fn list(&self, count: usize) -> String {
        let addresses: Vec<String> = (0..count).map(|number| format!("\"{}\"", self.address(number))).collect();
        format!("[{}]", addresses.join(", "))
    }

    /// When connections came, in order.
    pub fn seen(&self) -> Vec<Instant> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the loop.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
