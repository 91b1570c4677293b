//! Changes to the configuration of a running daemon that `Daemon::write_config` does not know of: `[log]`, the status socket.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::{Daemon, sluice};

/// Replaces texts of the daemon's configuration, each of which must be there.
#[track_caller]
pub fn rewrite(daemon: &Daemon, changes: &[(&str, &str)]) {
    let file = daemon.dir().join("sluice.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "no {old:?} in\n{text}");
        text = text.replace(old, new);
    }
    // Replaced as a whole, so that a reload never sees half of it.
    fs::write(daemon.dir().join("new"), text).unwrap();
    fs::rename(daemon.dir().join("new"), file).unwrap();
}

/// Runs a command against whatever answers on `socket`.
#[track_caller]
pub fn cli_at(socket: &Path, arguments: &[&str]) -> Output {
    sluice().arg("--socket").arg(socket).args(arguments).output().expect("run sluice")
}

/// Reloads, which must fail and leave the generation as it is; returns what was said.
#[track_caller]
pub fn refused(daemon: &Daemon) -> String {
    let generation = || daemon.metric("sluice_config_generation") as u64;
    let before = generation();
    let output = daemon.cli(&["reload", "--wait"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(generation(), before, "nothing changed: {said}");
    said
}
