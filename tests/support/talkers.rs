//! Clients that talk while something happens to the daemon, and must notice nothing of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::hello::client_hello;
use super::{DEADLINE, eventually};

/// Some talk over one session all the time, some begin a new one for every few words. Backends send everything back.
pub struct Talkers {
    stop: Arc<AtomicBool>,
    /// Answers of long sessions, and new sessions that were served.
    heard: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Talkers {
    /// Two of each kind.
    #[track_caller]
    pub fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let heard: [Arc<AtomicU64>; 2] = Default::default();
        let talk = |kind: usize| {
            let (stop, heard) = (Arc::clone(&stop), Arc::clone(&heard[kind]));
            thread::spawn(move || {
                let mut session = open(to)?;
                while !stop.load(Ordering::SeqCst) {
                    if kind == 1 {
                        session = open(to)?;
                    }
                    echo(&mut session, b"are you there?")?;
                    heard.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            })
        };
        let threads = [0, 0, 1, 1].map(talk).into();
        let talkers = Self { stop, heard, threads };
        talkers.go_on();
        talkers
    }

    /// Waits until both kinds have had an answer since now.
    #[track_caller]
    pub fn go_on(&self) {
        for heard in &self.heard {
            // The one on its way does not count.
            let before = heard.load(Ordering::SeqCst) + 2;
            eventually("clients are answered", || (heard.load(Ordering::SeqCst) > before).then_some(()));
        }
    }

    /// Ends the talk; nobody may have failed.
    #[track_caller]
    pub fn end(self) {
        self.go_on();
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap().expect("no client notices anything");
        }
    }
}

fn open(to: SocketAddr) -> io::Result<TcpStream> {
    let mut session = TcpStream::connect_timeout(&to, DEADLINE)?;
    session.set_read_timeout(Some(DEADLINE))?;
    echo(&mut session, &client_hello(Some("any.test"), &[]))?;
    Ok(session)
}

fn echo(session: &mut TcpStream, words: &[u8]) -> io::Result<()> {
    session.write_all(words)?;
    let mut answer = vec![0; words.len()];
    session.read_exact(&mut answer)?;
    if answer == words { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
