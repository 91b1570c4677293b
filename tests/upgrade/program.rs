//! A copy of the program that a test may replace on disk while it runs.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use serde_json::Value;

use crate::support::TempDir;

pub struct Program {
    dir: TempDir,
}

impl Program {
    pub fn new() -> Self {
        let program = Self { dir: TempDir::new() };
        link(Path::new(env!("CARGO_BIN_EXE_sluice")), &program.real());
        program.put_back();
        program
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("sluice")
    }

    /// The program itself, under another name.
    pub fn real(&self) -> PathBuf {
        self.dir.path().join("real")
    }

    /// Has a command start the copy.
    pub fn start<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let mut own = Command::new(self.path());
        own.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        own.stdout(Stdio::null()).stderr(Stdio::null());
        *command = own;
        command
    }

    /// Puts the program back on disk.
    pub fn put_back(&self) {
        let fresh = self.dir.path().join("fresh");
        link(&self.real(), &fresh);
        fs::rename(fresh, self.path()).unwrap();
    }

    /// Puts a script on disk instead.
    pub fn replace(&self, script: &str) {
        let fresh = self.dir.path().join("fresh");
        fs::write(&fresh, script).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(fresh, self.path()).unwrap();
    }

    /// Puts the player of the other process on disk.
    pub fn play(&self, mode: &Value) {
        self.replace(&format!("#!/usr/bin/python3\nMODE = {mode}\n{}", include_str!("peer.py")));
    }

    /// Leaves nothing on disk.
    pub fn remove(&self) {
        fs::remove_file(self.path()).unwrap();
    }
}

fn link(from: &Path, to: &Path) {
    let linked = fs::hard_link(from, to);
    if linked.is_err() {
        let copied: io::Result<u64> = fs::copy(from, to);
        copied.unwrap();
    }
}
