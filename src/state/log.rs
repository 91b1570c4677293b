//! The way of a line into the log: batches through a bounded queue to one writer. A full queue drops, counts, and
//! never blocks a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

/// What the writer gets.
#[derive(Debug)]
pub enum LogMessage {
    /// Whole lines.
    Lines(Vec<u8>),
    /// Everything before this is to be written; the answer says that it was.
    Flush(SyncSender<()>),
}

/// A handle to the writer.
#[derive(Clone, Debug)]
pub struct LogSink {
    queue: SyncSender<LogMessage>,
    dropped: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
}

impl LogSink {
    /// A handle that puts batches into `queue`.
    pub fn new(queue: SyncSender<LogMessage>) -> Self {
        Self { queue, dropped: Arc::default(), reopen: Arc::default() }
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

    /// Has the file opened anew before anything else is written.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // Wakes the writer; a full queue will.
        let _ = self.queue.try_send(LogMessage::Lines(Vec::new()));
    }

    /// For the writer: whether the file is to be opened anew.
    pub fn takes_reopen(&self) -> bool {
        self.reopen.swap(false, Ordering::Acquire)
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
