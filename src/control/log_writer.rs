//! The one thread that writes the log: lines of workers and messages of the process, in whole lines, in order.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::{fmt, thread};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets, dynamic_filter_fn};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;

use super::journal::Journal;
use crate::config::{Log, LogFormat, LogTarget};
use crate::state::{LogMessage, LogOutput, LogSink};
use crate::sys::privileges::{denied, give_up_capabilities};

/// Batches that may wait. A batch holds up to 64 KiB of lines, so this bounds memory at 64 MiB when the target hangs.
const QUEUE: usize = 1024;

/// Why the log cannot go somewhere.
#[derive(Debug)]
pub struct LogError(LogTarget, io::Error);

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(target, cause) = self;
        match target {
            LogTarget::File(path) => write!(f, "cannot open log file {}: {}", path.display(), denied(path, cause)),
            LogTarget::Journal => write!(f, "cannot reach the journal: {cause}"),
            LogTarget::Stderr => write!(f, "cannot start the log: {cause}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Opens the target and starts the writer.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn start_log(log: &Log) -> Result<LogSink, LogError> {
    let output = open_target(&log.target)?;
    let (queue, inbox) = sync_channel(QUEUE);
    let sink = LogSink::new(queue);
    let mut writer = Writer { output, sink: sink.clone(), failing: false, torn: false };
    let body = move || {
        // It was started before the process gave its own up; without that it only has more than it needs.
        let _ = give_up_capabilities();
        for message in inbox {
            writer.take(message);
        }
    };
    thread::Builder::new().name("log".to_owned()).spawn(body).map_err(|cause| LogError(log.target.clone(), cause))?;
    Ok(sink)
}

/// Opens a target. May take long, where a file system hangs.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn open_target(target: &LogTarget) -> Result<Box<dyn LogOutput>, LogError> {
    match Target::open(target) {
        Ok(target) => Ok(Box::new(target)),
        Err(cause) => Err(LogError(target.clone(), cause)),
    }
}

/// Whether messages of the process are JSON; there is one subscriber in a process.
static JSON: AtomicBool = AtomicBool::new(false);

/// Sets how messages of the process look from now on.
pub fn set_format(format: LogFormat) {
    JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Sends messages of the process the same way. May be called once per process; later calls change the format only.
pub fn start_tracing(sink: LogSink, format: LogFormat, level: tracing::Level) {
    set_format(format);
    // The resolver warns of every forged answer; a stranger must not fill the log. We say ourselves what became of a name.
    let resolver = if level >= tracing::Level::DEBUG { level.into() } else { LevelFilter::OFF };
    let levels = Targets::new().with_default(level).with_target("hickory", resolver);
    // Both are there all the time, and one of them speaks: a span must be known to whoever writes about it.
    let only =
        |json: bool| dynamic_filter_fn(move |_, _| JSON.load(Ordering::Relaxed) == json).with_max_level_hint(level);
    let lines = || layer().with_ansi(false).with_target(false).with_timer(Rfc3339).with_writer(Sender(sink.clone()));
    let text = lines().with_filter(only(false));
    let both = text.and_then(lines().json().flatten_event(true).with_filter(only(true)));
    let subscriber = registry().with(levels).with(both);
    // A second subscriber in one process (tests, the demo) keeps the first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// What the thread knows.
struct Writer {
    output: Box<dyn LogOutput>,
    sink: LogSink,
    /// Whether the last write failed.
    failing: bool,
    /// Whether the output ends in the middle of a line.
    torn: bool,
}

impl Writer {
    fn take(&mut self, message: LogMessage) {
        if self.sink.takes_hurry() && !self.switch() {
            self.output.reopen();
        }
        match message {
            LogMessage::Reopen => self.output.reopen(),
            LogMessage::Switch => _ = self.switch(),
            LogMessage::Lines(lines) => self.write(lines),
            LogMessage::Flush(answer) => drop(answer.send(())),
        }
    }

    /// Takes the output that was left for it. Returns whether there was one.
    fn switch(&mut self) -> bool {
        let next = self.sink.takes_output();
        let is_there = next.is_some();
        if let Some(output) = next {
            (self.output, self.failing, self.torn) = (output, false, false);
        }
        is_there
    }

    fn write(&mut self, mut lines: Vec<u8>) {
        if self.torn {
            lines.insert(0, b'\n');
        }
        let result = self.output.write(&lines);
        if let Err((written, error)) = &result {
            // What follows a line that was cut off begins a line of its own; the cut one is lost.
            self.torn = if *written == 0 { self.torn } else { lines[written - 1] != b'\n' };
            self.sink.count_lost(lines[*written..].trim_ascii_start());
            if !self.failing {
                // Said once, where somebody may still read it; the next lines may succeed.
                let _ = writeln!(io::stderr(), "cannot write the log: {error}; lines are counted in log_dropped_total");
            }
        } else {
            self.torn = false;
        }
        self.failing = result.is_err();
    }
}

#[derive(Debug)]
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
}

impl LogOutput for Target {
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
