//! Reads the log of a daemon as it grows, and has it begin a new file now and then, so that the log of millions of
//! sessions needs no room. No line is lost: the daemon's old file is read to its end once the new one is there.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Daemon, eventually};

/// Bytes after which a new file is asked for.
const ENOUGH: u64 = 4 << 20;

pub struct LogTail {
    /// Whom to ask for a new file; `None`: the log is not that long.
    pid: Option<Pid>,
    folder: PathBuf,
    file: File,
    /// Bytes read of this file.
    read: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl LogTail {
    pub fn new(daemon: &Daemon) -> Self {
        let folder = daemon.dir().to_owned();
        let file = File::open(folder.join("log")).unwrap();
        Self { pid: Some(daemon.pid()), folder, file, read: 0, rest: Vec::new() }
    }

    /// Without new files: several processes write to this one.
    pub fn of_several(daemon: &Daemon) -> Self {
        Self { pid: None, ..Self::new(daemon) }
    }

    /// Hands over the whole lines that have come since the last call.
    pub fn read(&mut self, mut take: impl FnMut(&str)) {
        self.read_file(&mut take);
        if let Some(pid) = self.pid.filter(|_| self.read > ENOUGH) {
            let (log, old) = (self.folder.join("log"), self.folder.join("log.old"));
            fs::rename(&log, &old).unwrap();
            kill(pid, Signal::SIGUSR1).unwrap();
            // Once there is a new file, nothing is written to the old one.
            let fresh = eventually("a new log", || File::open(&log).ok());
            self.read_file(&mut take);
            (self.file, self.read) = (fresh, 0);
            fs::remove_file(&old).unwrap();
        }
    }

    /// Hands over what is left once the daemon has ended.
    pub fn read_rest(mut self, mut take: impl FnMut(&str)) {
        self.read_file(&mut take);
    }

    fn read_file(&mut self, take: &mut impl FnMut(&str)) {
        self.read += self.file.read_to_end(&mut self.rest).unwrap() as u64;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        std::str::from_utf8(&self.rest[..whole]).unwrap().lines().for_each(take);
        self.rest.drain(..whole);
    }
}
