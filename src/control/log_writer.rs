//! The one thread that writes the log: lines of workers and messages of the process, in whole lines, in order.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;

use super::journal::Journal;
use crate::config::{Log, LogFormat, LogTarget};
use crate::state::{LogMessage, LogSink};
use crate::sys::privileges::give_up_capabilities;

/// Batches that may wait. A batch holds up to 64 KiB of lines, so this bounds memory at 64 MiB when the target hangs.
const QUEUE: usize = 1024;

/// Opens the target and starts the writer.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn start_log(log: &Log) -> io::Result<LogSink> {
    let mut target = Target::open(&log.target)?;
    let (queue, inbox) = sync_channel(QUEUE);
    let sink = LogSink::new(queue);
    let counter = sink.clone();
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        // It was started before the process gave its own up; without that it only has more than it needs.
        let _ = give_up_capabilities();
        write_all(&mut target, &inbox, &counter);
    })?;
    Ok(sink)
}

/// Sends messages of the process the same way. May be called once per process; later calls change nothing.
pub fn start_tracing(sink: LogSink, format: LogFormat, level: tracing::Level) {
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_writer(Sender(sink)).with_ansi(false).with_target(false);
    // The resolver warns of every forged answer; a stranger must not fill the log. We say ourselves what became of a name.
    let resolver = if level >= tracing::Level::DEBUG { level.into() } else { LevelFilter::OFF };
    let levels = Targets::new().with_default(level).with_target("hickory", resolver);
    // A second subscriber in one process (tests, the demo) keeps the first.
    let _ = match format {
        LogFormat::Text | LogFormat::TcpLog => {
            tracing::subscriber::set_global_default(builder.with_timer(Rfc3339).finish().with(levels))
        }
        LogFormat::Json => {
            let subscriber = builder.with_timer(Rfc3339).json().flatten_event(true).finish();
            tracing::subscriber::set_global_default(subscriber.with(levels))
        }
    };
}

fn write_all(target: &mut Target, inbox: &Receiver<LogMessage>, sink: &LogSink) {
    let (mut failing, mut torn) = (false, false);
    for message in inbox {
        if sink.takes_reopen() {
            target.reopen();
        }
        match message {
            LogMessage::Reopen => target.reopen(),
            LogMessage::Lines(mut lines) => {
                if torn {
                    lines.insert(0, b'\n');
                }
                let result = target.write(&lines);
                if let Err((written, error)) = &result {
                    // What follows a line that was cut off begins a line of its own; the cut one is lost.
                    torn = if *written == 0 { torn } else { lines[written - 1] != b'\n' };
                    sink.count_lost(lines[*written..].trim_ascii_start());
                    if !failing {
                        // Said once, where somebody may still read it; the next lines may succeed.
                        let _ = writeln!(
                            io::stderr(),
                            "cannot write the log: {error}; lines are counted in log_dropped_total"
                        );
                    }
                } else {
                    torn = false;
                }
                failing = result.is_err();
            }
            LogMessage::Flush(answer) => drop(answer.send(())),
        }
    }
}

enum Target {
    Stderr,
    Journal(Journal),
    File { path: std::path::PathBuf, file: File },
}

impl Target {
    fn open(target: &LogTarget) -> io::Result<Self> {
        Ok(match target {
            LogTarget::Stderr => Self::Stderr,
            LogTarget::Journal => Self::Journal(Journal::connect()?),
            LogTarget::File(path) => Self::File { path: path.clone(), file: append(path)? },
        })
    }

    /// Writes whole lines. An error comes with how many bytes were written before.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        match self {
            Self::Stderr => write_counting(&mut io::stderr(), lines),
            Self::Journal(journal) => journal.write(lines),
            Self::File { file, .. } => write_counting(file, lines),
        }
    }

    /// Keeps the old file when the new one cannot be opened: lines in the wrong place beat lost ones.
    fn reopen(&mut self) {
        if let Self::File { path, file } = self {
            match append(path) {
                Ok(fresh) => *file = fresh,
                Err(error) => drop(writeln!(file, "cannot reopen {}: {error}", path.display())),
            }
        }
    }
}

fn write_counting(out: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// Opens for appending. A pipe that nobody reads is an error instead of a wait without end; one that nobody reads any
/// further is waited for, by the writer alone.
fn append(path: &std::path::Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, writer: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:.3}", jiff::Timestamp::now())
    }
}

/// Collects one message and sends it as a whole.
struct Sender(LogSink);

struct Message<'a> {
    sink: &'a LogSink,
    line: Vec<u8>,
}

impl Write for Message<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        self.sink.send(std::mem::take(&mut self.line));
    }
}

impl<'a> MakeWriter<'a> for Sender {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        Message { sink: &self.0, line: Vec::new() }
    }
}
