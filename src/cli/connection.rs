//! A connection to the daemon's status socket in the JSON dialect: requests and their answers, one after the other, as
//! long as it holds. Prints nothing and never tries again: who uses it knows what for.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::api::VERSION;

/// Longest answer, in bytes; what 4096 backends say is some 6 MiB.
const MOST_ANSWER: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody is behind the socket.
    NoDaemon(String),
    /// The connection is of no use any more.
    Lost(String),
    /// The daemon said no; the connection stays.
    Refused(Refusal),
}

/// What the daemon said no with.
#[derive(Debug)]
pub struct Refusal {
    /// One word, for programs.
    pub code: String,
    /// What was tried on what, and why it was not done.
    pub message: String,
    /// What to do instead; may be empty.
    pub hint: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(why) | Self::Lost(why) => f.write_str(why),
            Self::Refused(Refusal { message, hint, .. }) if hint.is_empty() => f.write_str(message),
            Self::Refused(Refusal { message, hint, .. }) => write!(f, "{message}; hint: {hint}"),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
    path: String,
    last_id: u64,
}

impl Connection {
    /// Connects. `limit` is the longest silence within an exchange.
    pub fn open(path: &Path, limit: Duration) -> Result<Self, Trouble> {
        let shown = path.display().to_string();
        let open = || -> io::Result<UnixStream> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
            socket.set_read_timeout(Some(limit))?;
            // It bounds connecting too, which waits where the daemon's queue is full (unix(7)).
            socket.set_write_timeout(Some(limit))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(OwnedFd::from(socket).into())
        };
        match open() {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path: shown, last_id: 0 }),
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::NotFound => "no such file",
                    ErrorKind::ConnectionRefused => "nobody listens on it",
                    ErrorKind::PermissionDenied => "permission denied",
                    _ => "cannot connect",
                };
                Err(Trouble::NoDaemon(format!("no daemon behind {shown}: {why}")))
            }
        }
    }

    /// Asks. After [`Trouble::Lost`] the connection is to be dropped: an answer that is late would be taken for another.
    pub fn ask<T: DeserializeOwned>(&mut self, method: &str, params: &impl Serialize) -> Result<T, Trouble> {
        let path = self.path.clone();
        let strange = |error| {
            Trouble::Lost(format!("the daemon behind {path} answered with something else than `{method}`: {error}"))
        };
        let line = self.exchange(method, params).map_err(|error| {
            let why = match error.kind() {
                // What a time-out of a socket is called (socket(7)).
                ErrorKind::WouldBlock => "the time is over".to_owned(),
                _ => error.to_string(),
            };
            Trouble::Lost(format!("no answer from the daemon behind {path}: {why}"))
        })?;
        let mut answer: Value = serde_json::from_str(&line).map_err(strange)?;
        if answer["id"] != self.last_id {
            return Err(Trouble::Lost(format!("the daemon behind {path} answered another question")));
        }
        if let Some(failure) = answer.get("error") {
            let text = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
            return Err(Trouble::Refused(Refusal { code: text("code"), message: text("message"), hint: text("hint") }));
        }
        serde_json::from_value(answer["result"].take()).map_err(strange)
    }

    fn exchange(&mut self, method: &str, params: &impl Serialize) -> io::Result<String> {
        self.last_id += 1;
        let request = json!({ "v": VERSION, "id": self.last_id, "method": method, "params": params });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        (&mut self.stream).take(MOST_ANSWER).read_line(&mut line)?;
        if line.ends_with('\n') { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}
