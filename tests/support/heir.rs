//! The process that has taken the place of a daemon: it is nobody's child for a moment, then this test's.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Daemon, eventually};

#[derive(Default)]
pub struct Heir(AtomicI32);

impl Heir {
    /// Its process, if there is one.
    pub fn pid(&self) -> Option<Pid> {
        Some(self.0.load(Ordering::SeqCst)).filter(|pid| *pid != 0).map(Pid::from_raw)
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&self) -> Option<ExitStatus> {
        let pid = self.pid()?;
        Some(eventually("sluice ends", || match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::from_raw(signal as i32)),
            // Still running, or still the child of the process before it.
            _ => None,
        }))
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

impl Daemon {
    /// Upgrades to the same binary, which must work; returns what the daemon says of it.
    #[track_caller]
    pub fn upgrade(&self) -> Value {
        // Whoever loses its parent becomes this test's child.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let answer = self.ask("upgrade", &json!({}));
        let pid = answer["result"]["pid"].as_i64();
        let pid = pid.unwrap_or_else(|| panic!("{answer}\n{}{}", self.stderr(), self.log()));
        self.heir.0.store(pid as i32, Ordering::SeqCst);
        answer["result"].clone()
    }
}
