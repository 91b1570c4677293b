//! Live upgrade: another binary takes the place of this one with all sessions. The running process starts it and hands
//! everything over; until the new one has said that it took the sessions, the running one can go on as if nothing had been
//! tried, and does so whenever anything fails.

mod estate;
mod giving;
mod taking;
mod words;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use estate::Estate;
pub use giving::{Given, bid_farewell, upgrade};
pub use taking::{Heir, Inherited, Socket, take_over};
pub use words::Sockets;

/// How long the new process may take to start: configuration, names and first checks.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long one step of handing over may take while no byte moves. Chosen: far above what thousands of sessions need, and
/// short of what clients notice.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How long sessions that were still set up may take until their bytes flow; hello and connect time-outs are shorter.
const LATE_LIMIT: Duration = Duration::from_secs(30);
/// How long the process before may be silent while they do.
const FOLLOW_LIMIT: Duration = Duration::from_mins(1);

/// The program as it was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// Says that the process is to take the place of another one, which is at the other end of standard input.
pub const TAKE_OVER: &str = "--take-over";

impl Program {
    /// To be called at start: later the file may have another name, or be another one.
    ///
    /// # Errors
    /// When the system does not say where it is.
    pub fn of_this_process() -> io::Result<Self> {
        let arguments = std::env::args_os().skip(1).filter(|argument| argument != TAKE_OVER).collect();
        Ok(Self { path: std::env::current_exe()?, arguments })
    }
}
