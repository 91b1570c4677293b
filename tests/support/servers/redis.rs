//! A real Redis with the arguments of a test's own.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{Process, printed, program, wait_until_listening};
use crate::support::TempDir;

/// A server that keeps nothing on disk unless it is told to. It answers to everybody: there are no strangers on loopback.
pub struct Redis {
    process: Option<Process>,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Redis {
    #[track_caller]
    pub fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let mut redis = Self { process: None, address, dir: TempDir::new() };
        redis.start_again(arguments);
        redis
    }

    /// Starts it with these arguments, after [`Redis::stop`] with what it saved.
    #[track_caller]
    pub fn start_again(&mut self, arguments: &[&str]) {
        let (said, address) = (self.dir.path().join("said"), self.address);
        let mut command = program("/usr/bin/redis-server");
        command.args(["--bind", &address.ip().to_string(), "--protected-mode", "no", "--save", "", "--dir"]);
        command.arg(self.dir.path()).args(arguments);
        if !arguments.contains(&"--tls-port") {
            command.args(["--port", &address.port().to_string()]);
        }
        command.stdout(File::create(&said).unwrap()).stderr(Stdio::null());
        let process = self.process.insert(Process::spawn(&mut command, Signal::SIGTERM));
        wait_until_listening(process, address, &said);
    }

    /// Ends it; back when it is gone.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Runs one command and returns what it answers.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let mut command = program("/usr/bin/redis-cli");
        command.args(["-h", &self.address.ip().to_string(), "-p", &self.address.port().to_string()]).args(words);
        printed(&mut command)
    }
}
