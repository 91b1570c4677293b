//! The way of a line into the log: batches through a bounded queue to one writer. A full queue drops, counts, and
//! never blocks a worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

/// What the writer gets.
#[derive(Debug)]
pub enum LogMessage {
    /// Whole lines.
    Lines(Vec<u8>),
    /// Open the file anew.
    Reopen,
    /// What follows goes to the output that was left with the handle.
    Switch,
    /// Everything before this is to be written; the answer says that it was.
    Flush(SyncSender<()>),
}

/// Where the writer puts lines.
pub trait LogOutput: fmt::Debug + Send {
    /// Writes whole lines. An error comes with how many bytes were written before.
    fn write(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)>;
    /// Opens the file anew, if it is one.
    fn reopen(&mut self);
}

/// A handle to the writer.
#[derive(Clone, Debug)]
pub struct LogSink {
    queue: SyncSender<LogMessage>,
    dropped: Arc<AtomicU64>,
    /// What the full queue could not take is to be done with the next message.
    hurry: Arc<AtomicBool>,
    next: Arc<Mutex<Option<Box<dyn LogOutput>>>>,
}

impl LogSink {
    /// A handle that puts batches into `queue`.
    pub fn new(queue: SyncSender<LogMessage>) -> Self {
        Self { queue, dropped: Arc::default(), hurry: Arc::default(), next: Arc::default() }
    }

    /// Hands over whole lines. Drops them when the queue is full, and counts the lines.
    pub fn send(&self, lines: Vec<u8>) {
        if let Err(TrySendError::Full(LogMessage::Lines(lost)) | TrySendError::Disconnected(LogMessage::Lines(lost))) =
            self.queue.try_send(LogMessage::Lines(lines))
        {
            self.count_lost(&lost);
        }
    }

    /// Sends a message other than lines, unless the queue is full. Returns whether it was taken.
    pub fn try_send(&self, message: LogMessage) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// Has the file opened anew, once what came before is written; at once when the queue is full.
    pub fn reopen(&self) {
        self.send_or_hurry(LogMessage::Reopen);
    }

    /// Has lines go to `output`, once what came before is written where it was meant to go; at once when the queue is full.
    pub fn switch(&self, output: Box<dyn LogOutput>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(output);
        self.send_or_hurry(LogMessage::Switch);
    }

    fn send_or_hurry(&self, message: LogMessage) {
        if self.queue.try_send(message).is_err() {
            self.hurry.store(true, Ordering::Release);
        }
    }

    /// For the writer: whether the file is to be opened anew, or another output taken, at once.
    pub fn takes_hurry(&self) -> bool {
        self.hurry.swap(false, Ordering::Acquire)
    }

    /// For the writer: the output to switch to, if there is one.
    pub fn takes_output(&self) -> Option<Box<dyn LogOutput>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts lines that could not be written.
    pub fn count_lost(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts lines that were left out on purpose.
    pub fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_full_queue_drops_lines_and_counts_them_but_no_request_to_open_the_file_anew() {
        let (queue, inbox) = sync_channel(1);
        let sink = LogSink::new(queue);
        sink.reopen();
        assert!(!sink.takes_hurry(), "it stands in the queue");
        sink.send(b"one\ntwo\n".to_vec());
        sink.reopen();
        assert_eq!((sink.dropped(), sink.takes_hurry(), sink.takes_hurry()), (2, true, false));
        assert!(matches!(inbox.recv(), Ok(LogMessage::Reopen)));
        sink.send(b"three\n".to_vec());
        assert_eq!(sink.dropped(), 2);
    }
}
