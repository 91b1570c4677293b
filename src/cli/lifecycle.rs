//! `sluice reload`, `sluice upgrade` and `sluice stop`.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Globals;
use super::client::{ask, show};
use super::figures::{millis, span};
use super::output::{Exit, data, message, note};
use crate::api::{ReloadReport, StatusReport, StopParams, Stopping, Upgraded};

/// Runs `reload`. The daemon reloads before it answers, so that waiting is reading the answer.
pub fn reload(globals: &Globals, wait: bool) -> Exit {
    if wait {
        return show(globals, "reload", &json!({}), |report: ReloadReport| data(&format!("{}\n", report.message)));
    }
    let status: StatusReport = match ask(globals, "status", &json!({})) {
        Ok(status) => status,
        Err(exit) => return exit,
    };
    match kill(Pid::from_raw(status.pid.cast_signed()), Signal::SIGHUP) {
        Ok(()) => {
            note(globals, "asked for; `sluice status` says how it went, or use --wait");
            Exit::Ok
        }
        Err(error) => {
            message(&format!("cannot send SIGHUP to the daemon: {error}; try --wait"));
            Exit::Failed
        }
    }
}

/// Runs `upgrade`. The daemon answers once another process goes on.
pub fn upgrade(globals: &Globals) -> Exit {
    show(globals, "upgrade", &json!({}), |done: Upgraded| {
        let Upgraded { pid, version, sessions, pause_ms, took_ms } = done;
        let sessions = if sessions == 1 { "1 session".to_owned() } else { format!("{sessions} sessions") };
        data(&format!(
            "upgraded: process {pid}, version {version}, goes on with {sessions}; \
             no byte moved for {pause_ms:.1} ms, all of it took {took_ms:.1} ms\n"
        ));
    })
}

/// Runs `stop`.
pub fn stop(globals: &Globals, grace: Option<Duration>) -> Exit {
    show(globals, "stop", &StopParams { grace_ms: grace.map(millis) }, |stopping: Stopping| {
        let open = match (stopping.connections, grace) {
            (0, _) => String::new(),
            (open, None) => format!("; {open} connections may run for shutdown-grace"),
            (open, Some(grace)) => format!("; {open} connections may run for {}", span(grace)),
        };
        data(&format!("stopping{open}\n"));
    })
}
