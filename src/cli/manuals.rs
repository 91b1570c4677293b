//! What is made from the command line itself: completions for shells, and a manual page for each command.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::output::{Exit, data, message};

/// Runs `completions`.
pub fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
    data(&String::from_utf8_lossy(&script));
    Exit::Ok
}

/// Runs `man`: `sluice.1` and a page for each command, such as `sluice-backend-add.1`.
pub fn man(directory: &Path) -> Exit {
    let made = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    match made {
        Ok(()) => Exit::Ok,
        Err(error) => {
            message(&format!("cannot write manual pages into {}: {error}", directory.display()));
            Exit::Failed
        }
    }
}
