//! The check `exec`: runs a program, and its exit status is the verdict. No shell, no input, an environment of its own,
//! few at once; when time is up it is killed with all that it started.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::evidence::harmless;
use super::{Failed, Passed, Talk, Target};
use crate::config::Exec;

/// Programs at once, of all pools. Chosen: they cost far more than connections, and a daemon has other things to do.
const AT_ONCE: usize = 16;
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);
/// Bytes that are kept of the last line that a program prints.
const MOST_LINE: usize = 256;
/// Where programs are looked for when the daemon's own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run.
pub struct Dialogue {
    settings: Exec,
}

impl Dialogue {
    #[expect(clippy::unnecessary_wraps, reason = "every kind may fail to get ready")]
    pub fn new(settings: &Exec) -> Result<Self, String> {
        Ok(Self { settings: settings.clone() })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let program = harmless(&self.settings.program);
        talk.phase("wait");
        // Half of the time is left for the program: without that its end would say nothing of the backend.
        let Ok(Ok(_place)) = timeout(talk.left() / 2, PLACES.acquire()).await else {
            return Err(Failed::local(format!("{AT_ONCE} programs of checks run already, no place for {program}")));
        };
        talk.phase("run");
        talk.note(&format!("ran {program}"));
        let cannot = |error: io::Error| Failed::local(format!("cannot run {program}: {error}"));
        let (mut group, mut output) = self.start(talk.target).map_err(cannot)?;
        let mut tail = Tail::default();
        let status = tokio::select! {
            // What was printed before the end is read before the end is seen.
            biased;
            () = tail.read(&mut output) => group.child.wait().await,
            status = group.child.wait() => status,
        };
        let status = status.map_err(cannot)?;
        let said = tail.said();
        let with = if said.is_empty() { String::new() } else { format!(": {said}") };
        if !said.is_empty() {
            talk.note(&format!("it said {said}"));
        }
        match Ending::of(status) {
            Ending::Exit(0) => Ok(Passed::new("exit", format!("{program} ended with status 0{with}"))),
            Ending::Exit(code) => Err(Failed::new("exit", format!("{program} ended with status {code}{with}"))),
            Ending::Signal(number) => {
                Err(Failed::new("signal", format!("{program} was ended by signal {number}{with}")))
            }
        }
    }

    /// Starts the program in a group of its own, standard output and standard error on one pipe.
    fn start(&self, target: &Target<'_>) -> io::Result<(Group, pipe::Receiver)> {
        let (output, input) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let mut command = Command::new(&self.settings.program);
        command.args(&self.settings.arguments).current_dir("/").process_group(0);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH.into()));
        command.env("SLUICE_POOL", &*target.backend.pool).env("SLUICE_BACKEND", &*target.backend.name);
        command.env("SLUICE_ADDRESS", target.address.ip().to_string());
        command.env("SLUICE_PORT", target.address.port().to_string());
        command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        Ok((Group { child: command.spawn()? }, output))
    }
}

/// A program and what it started; killed when it is given up.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // There is a number only as long as nobody has waited for the program, so it is nobody else's.
        if let Some(leader) = self.child.id().and_then(|id| id.try_into().ok()) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Exit(i32),
    Signal(i32),
}

impl Ending {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exit(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

/// The last line of a text of any length that has something in it.
#[derive(Debug, Default)]
struct Tail {
    line: Vec<u8>,
    /// The line has ended; the next byte begins another.
    is_over: bool,
}

impl Tail {
    /// Reads to the end.
    async fn read(&mut self, output: &mut (impl AsyncRead + Unpin)) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut chunk).await {
            self.add(&chunk[..count]);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.is_over = true,
                // A blank line does not hide what was said before it.
                b' ' | b'\t' if self.is_over => {}
                _ => {
                    if std::mem::take(&mut self.is_over) {
                        self.line.clear();
                    }
                    if self.line.len() < MOST_LINE {
                        self.line.push(*byte);
                    }
                }
            }
        }
    }

    fn said(&self) -> String {
        harmless(String::from_utf8_lossy(&self.line).trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(printed: &[u8], want: &str) {
        for cut in 0..=printed.len() {
            let mut tail = Tail::default();
            tail.add(&printed[..cut]);
            tail.add(&printed[cut..]);
            assert_eq!(tail.said(), want, "{} cut at {cut}", printed.escape_ascii());
        }
    }

    #[test]
    fn the_last_line_that_says_something_is_kept() {
        check(b"", "");
        check(b"\n \n", "");
        check(b"one\ntwo\nthree", "three");
        check(b"one\r\ntwo\r\n \t\n", "two");
        check(b"one\n  two words \n", "two words");
        check(b"\x1b[2J\xff\n", "\\u{1b}[2J\\u{fffd}");
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.add(&[b'x'; 1000]);
        }
        assert_eq!(tail.line.len(), MOST_LINE);
        tail.add(b"\nlast");
        assert_eq!(tail.said(), "last");
    }
}
