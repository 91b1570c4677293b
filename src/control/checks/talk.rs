//! One conversation of a check: connects, sends, receives within bounds, and writes down phase by phase what went and
//! came, so that whoever reads of a failure sees what it was. The deadline is kept by who runs the check.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::evidence::{Excerpt, excerpt};
use super::{Finding, Target, certificate};
use crate::decide::health::agent::AgentWords;
use crate::decide::hello::proxy::{Version, write_local};
use crate::state::{CertificateFacts, CheckPhase};
use crate::sys::socket::{self, Start};

/// Most bytes that one answer may have.
pub const MOST: usize = 16 * 1024;
/// Longest wait for the other side's FIN. Chosen: servers that notice at all do so within a few round trips.
const LONGEST_PARTING: Duration = Duration::from_millis(100);
/// Most bytes of evidence of one phase.
const MOST_EVIDENCE: usize = 1024;

/// A backend that is well.
#[derive(Debug)]
pub struct Passed {
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub detail: String,
}

/// Why a backend is not well that has no place for anybody new: those who are there are served all the same.
pub const FULL: &str = "full";

/// A backend that is not, or of which nothing can be said.
#[derive(Debug)]
pub struct Failed {
    /// Which of both.
    pub finding: Finding,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub detail: String,
}

impl Passed {
    /// Well, for this reason.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl Failed {
    /// Not well, for this reason.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { finding: Finding::Unwell, reason, detail: detail.into() }
    }

    /// Nothing can be said, for this reason.
    pub fn unknown(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { finding: Finding::Nothing, reason, detail: detail.into() }
    }

    /// Nothing can be said: it is a matter of this machine.
    pub fn local(detail: impl Into<String>) -> Self {
        Self::unknown("local", detail)
    }
}

/// What a conversation leaves behind, however it ended.
#[derive(Debug)]
pub struct Found {
    /// How it went.
    pub phases: Vec<CheckPhase>,
    /// The certificate that was shown.
    pub certificate: Option<CertificateFacts>,
    /// What an agent said.
    pub agent: Option<AgentWords>,
}

/// One conversation.
#[derive(Debug)]
pub struct Talk<'a> {
    /// With whom.
    pub target: &'a Target<'a>,
    /// The certificate that was shown.
    pub certificate: Option<CertificateFacts>,
    /// What an agent said.
    pub agent: Option<AgentWords>,
    begun: Instant,
    phases: Vec<CheckPhase>,
    running: Option<Running>,
}

/// The phase that is running.
#[derive(Debug)]
struct Running {
    name: &'static str,
    begun: Instant,
    evidence: String,
    /// What came since the last note.
    came: Excerpt,
}

impl Running {
    fn note(&mut self, text: &str) {
        self.note_what_came();
        if self.evidence.len() + text.len() > MOST_EVIDENCE {
            return;
        }
        if !self.evidence.is_empty() {
            self.evidence.push_str("; ");
        }
        self.evidence.push_str(text);
    }

    fn note_what_came(&mut self) {
        if !self.came.is_empty() {
            let text = format!("got {}", std::mem::take(&mut self.came).show());
            self.note(&text);
        }
    }
}

impl<'a> Talk<'a> {
    /// Nothing was said yet.
    pub fn new(target: &'a Target<'a>) -> Self {
        Self { target, certificate: None, agent: None, begun: Instant::now(), phases: Vec::new(), running: None }
    }

    /// Begins a phase; the one before it is over.
    pub fn phase(&mut self, name: &'static str) {
        self.end_phase();
        let running = Running { name, begun: Instant::now(), evidence: String::new(), came: Excerpt::default() };
        self.running = Some(running);
    }

    /// Adds to the evidence of the running phase; `text` must be harmless and short.
    pub fn note(&mut self, text: &str) {
        if let Some(running) = &mut self.running {
            running.note(text);
        }
    }

    /// Time that is left for all of it.
    pub fn left(&self) -> Duration {
        self.target.limit.saturating_sub(self.begun.elapsed())
    }

    fn end_phase(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.note_what_came();
            self.phases.push(CheckPhase {
                name: running.name.into(),
                took: running.begun.elapsed(),
                evidence: running.evidence,
            });
        }
    }

    /// What was found on the way.
    pub fn end(mut self) -> Found {
        self.end_phase();
        Found { phases: self.phases, certificate: self.certificate, agent: self.agent }
    }

    /// The failure when time is up: in which phase, and what had come until then.
    pub fn timed_out(&mut self) -> Failed {
        let (address, limit) = (self.target.address, self.target.limit.as_millis());
        let Some(running) = &mut self.running else {
            return Failed::new("timeout", format!("{address} timed out after {limit} ms"));
        };
        running.note_what_came();
        let so_far = if running.evidence.is_empty() { String::new() } else { format!(": {}", running.evidence) };
        Failed::new("timeout", format!("{} to {address} timed out after {limit} ms{so_far}", running.name))
    }

    /// The failure that an error of the running phase is.
    pub fn failed(&self, error: &io::Error) -> Failed {
        let phase = self.running.as_ref().map_or("check", |running| running.name);
        let address = self.target.address;
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return certificate::failure(error, self.certificate.as_ref());
        }
        if socket::is_local(error) {
            return Failed::local(format!("cannot check {address}: {error}"));
        }
        let reason = match error.kind() {
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
            ErrorKind::UnexpectedEof => "closed",
            _ => "error",
        };
        Failed::new(reason, format!("{phase} to {address}: {error}"))
    }

    /// Connects; a backend that expects PROXY headers gets one that says whose connection it is: ours (LOCAL).
    pub async fn connect(&mut self) -> Result<TcpStream, Failed> {
        self.connect_with(self.target.send_proxy).await
    }

    /// Connects and leaves at once, with FIN. What is established at once is never registered with the runtime: of a thousand
    /// such checks that is a third of our part.
    pub async fn reach(&mut self) -> Result<(), Failed> {
        if self.target.send_proxy.is_some() {
            return self.connect().await.map(drop);
        }
        self.phase("connect");
        let reached = async {
            let socket = socket::start_connect(self.target.address, Start { from: None, fast_open: false })?;
            if socket::is_established(&socket) {
                return Ok(());
            }
            let stream = TcpStream::from_std(socket.into())?;
            stream.writable().await?;
            stream.take_error()?.map_or(Ok(()), Err)
        };
        let reached = reached.await;
        reached.map_err(|error| self.failed(&error))
    }

    /// Connects to what is not the backend itself and expects no PROXY header.
    pub async fn connect_bare(&mut self) -> Result<TcpStream, Failed> {
        self.connect_with(None).await
    }

    async fn connect_with(&mut self, send_proxy: Option<Version>) -> Result<TcpStream, Failed> {
        self.phase("connect");
        let connected = async {
            let mut stream = TcpStream::connect(self.target.address).await?;
            // A dialogue of small messages waits for each other's acknowledgements otherwise.
            stream.set_nodelay(true)?;
            if let Some(version) = send_proxy {
                let header = write_local(version, stream.local_addr()?, stream.peer_addr()?);
                stream.write_all(&header).await?;
            }
            Ok(stream)
        };
        let connected = connected.await;
        if let (Ok(_), Some(version)) = (&connected, send_proxy) {
            self.note(&format!("sent PROXY {} LOCAL", version.name()));
        }
        connected.map_err(|error| self.failed(&error))
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failed> {
        self.send_as(stream, bytes, &excerpt(bytes)).await
    }

    /// Sends all of `bytes`, which hold a secret: the evidence shows `description` in their place.
    pub async fn send_as(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
        description: &str,
    ) -> Result<(), Failed> {
        self.note(&format!("sent {description}"));
        let sent = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        sent.await.map_err(|error| self.failed(&error))
    }

    /// Receives into `buffer` until `is_enough`, which sees all that is in it; what came too much stays in it. Fails
    /// when the other side closes before, or sends more than 16 KiB.
    pub async fn receive(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
        is_enough: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Failed> {
        let mut chunk = [0; 2048];
        while !is_enough(buffer) {
            if buffer.len() >= MOST {
                let (address, phase) = (self.target.address, self.running_name());
                return Err(Failed::new("too_long", format!("{phase}: answer of {address} is over {MOST} bytes")));
            }
            let room = chunk.len().min(MOST - buffer.len());
            match stream.read(&mut chunk[..room]).await {
                Ok(0) => return Err(self.closed()),
                Ok(count) => {
                    buffer.extend_from_slice(&chunk[..count]);
                    if let Some(running) = &mut self.running {
                        running.came.add(&chunk[..count]);
                    }
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    /// The failure when the other side closes too early.
    pub fn closed(&mut self) -> Failed {
        let address = self.target.address;
        let Some(running) = &mut self.running else { return Failed::new("closed", format!("{address} closed")) };
        running.note_what_came();
        let so_far = if running.evidence.is_empty() { String::new() } else { format!(": {}", running.evidence) };
        Failed::new("closed", format!("{}: {address} closed the connection{so_far}", running.name))
    }

    /// Ends a connection in the middle of things as gently as can be: with FIN, and what still comes is read, because closing
    /// with unread bytes is a reset, which servers log. Bounded, and nothing that happens here changes a verdict.
    pub async fn part(&mut self, stream: &mut TcpStream) {
        self.phase("close");
        let rest = async {
            stream.shutdown().await?;
            let mut left = MOST;
            let mut chunk = [0; 2048];
            while left > 0 {
                match stream.read(&mut chunk).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok::<(), io::Error>(())
        };
        let _ = tokio::time::timeout(LONGEST_PARTING.min(self.left() / 2), rest).await;
    }

    fn running_name(&self) -> &'static str {
        self.running.as_ref().map_or("check", |running| running.name)
    }
}
