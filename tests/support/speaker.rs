//! A backend that answers a ClientHello as told and may be told something else while it runs. No cryptography: what it
//! says only looks like TLS, which is all that a layer-4 balancer sees. And a pool of two to look at.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::hello::client_hello;
use super::scripted::{Client, SSL_REQUEST};
use super::{Backend, DEADLINE, Daemon, eventually};

/// Backend `a` takes everything as long as it can; `b` what is left.
pub const TWO: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
first-byte-timeout = "60ms"
[[pool.p.backend]]
name = "a"
address = "{ip}:1001"
[[pool.p.backend]]
name = "b"
address = "{ip}:1002"
backup = true
[pool.p.passive]
failures = 3
"#;

/// The beginning of a ServerHello, as a record that ends there.
pub const SERVER_HELLO: [u8; 11] = [0x16, 3, 3, 0, 6, 2, 0, 0, 2, 3, 3];

/// What a speaker says to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// [`SERVER_HELLO`], and whatever the client says after that.
    Hello,
    /// A fatal alert, then FIN.
    Alert(u8),
    /// These bytes, then FIN.
    Bytes(&'static [u8]),
    /// FIN.
    Closes,
    /// RST.
    Resets,
    /// Nothing until it is told to say something.
    Nothing,
}

/// A backend that says what it is told.
pub struct Speaker {
    backend: Backend,
    says: Arc<(Mutex<Says>, Condvar)>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
}

impl Speaker {
    #[track_caller]
    pub fn start(address: impl Into<SocketAddr>, says: Says) -> Self {
        let says = Arc::new((Mutex::new(says), Condvar::new()));
        let told = Arc::clone(&says);
        let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
        let kept = Arc::clone(&arrivals);
        let backend = Backend::start(address, move |stream| {
            kept.lock().unwrap().push(Instant::now());
            // A client that leaves early is none of its business.
            drop(serve(stream, &told));
        });
        Self { backend, says, arrivals }
    }

    /// From now on it says this, also to those who wait for a word.
    pub fn tell(&self, says: Says) {
        *self.says.0.lock().unwrap() = says;
        self.says.1.notify_all();
    }

    /// Connections so far.
    pub fn accepted(&self) -> u32 {
        self.backend.accepted()
    }

    /// When connections came.
    pub fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().unwrap().clone()
    }

    /// Stops listening.
    pub fn stop(&mut self) {
        self.backend.stop();
    }
}

fn serve(mut stream: TcpStream, told: &(Mutex<Says>, Condvar)) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    if head[..] == SSL_REQUEST[..5] {
        stream.read_exact(&mut [0; 3])?;
        stream.write_all(b"S")?;
        stream.read_exact(&mut head)?;
    }
    let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut hello)?;
    let says = told.1.wait_timeout_while(told.0.lock().unwrap(), DEADLINE, |says| *says == Says::Nothing);
    let says = *says.unwrap().0;
    match says {
        Says::Hello => {
            stream.write_all(&SERVER_HELLO)?;
            let mut copy = stream.try_clone()?;
            io::copy(&mut stream, &mut copy)?;
        }
        Says::Alert(alert) => stream.write_all(&[0x15, 3, 3, 0, 2, 2, alert])?,
        Says::Bytes(bytes) => stream.write_all(bytes)?,
        Says::Closes | Says::Nothing => {}
        Says::Resets => return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
    }
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Sends `hello` from a source and reads once: what came, or the error instead.
#[track_caller]
pub fn ask_from(source: [u8; 4], to: SocketAddr, hello: &[u8]) -> io::Result<Vec<u8>> {
    let mut client = Client::from(source, to);
    client.say(hello);
    let mut answer = [0; 64];
    let count = client.0.read(&mut answer)?;
    Ok(answer[..count].to_vec())
}

/// What the clients say.
pub fn hello() -> Vec<u8> {
    client_hello(Some("a.test"), &["h2"])
}

/// The row of a backend in the status.
#[track_caller]
pub fn backend(daemon: &Daemon, name: &str) -> Value {
    let list = daemon.json("/v1/backends");
    list.as_array().unwrap().iter().find(|row| row["backend"] == name).unwrap().clone()
}

/// Events of backends that came about for this reason.
#[track_caller]
pub fn events(daemon: &Daemon, reason: &str) -> Vec<Value> {
    let list = daemon.json("/v1/events");
    list.as_array().unwrap().iter().filter(|event| event["reason"] == reason).cloned().collect()
}

/// Waits until a backend has given so many answers of a kind.
#[track_caller]
pub fn wait_for_answers(daemon: &Daemon, name: &str, answer: &str, count: u64) {
    let counted = || backend(daemon, name)["first_answers"][answer].as_u64();
    eventually(&format!("{count} x {answer} of {name}, not {:?}", counted()), || (counted()? == count).then_some(()));
}

/// Asks as a client in one network; `None`: it was reset.
#[track_caller]
pub fn ask(daemon: &Daemon, network: u8) -> Option<Vec<u8>> {
    ask_from([127, 100, network, 1], daemon.at(443), &hello()).ok()
}
