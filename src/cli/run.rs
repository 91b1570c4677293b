//! `sluice run`: the daemon in the foreground, from files or from the command line alone.

use std::fmt::Write;
use std::path::Path;

use clap::Args;

use super::check::load;
use super::output::{Exit, message};
use super::{Address, ConfigArgs, DEFAULT_SOCKET, Globals};
use crate::config;
use crate::control::{ConfigSource, Heir};
use crate::daemon;

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Without a file: listen here for TLS clients.
    #[arg(long, value_name = "ADDRESS", requires = "to", conflicts_with = "config")]
    listen: Vec<Address>,
    /// Take the place of the running process at the other end of standard input (`sluice upgrade` starts it so).
    #[arg(long, hide = true)]
    take_over: bool,
    /// Without a file: a backend by address or name, least connections.
    #[arg(long, value_name = "ADDRESS", requires = "listen", conflicts_with = "config")]
    to: Vec<config::Address>,
}

/// Runs `run`.
pub fn run(globals: &Globals, args: RunArgs) -> Exit {
    let heir = match args.take_over.then(Heir::meet).transpose() {
        Ok(heir) => heir,
        Err(why) => {
            message(&format!("cannot take over: {why}"));
            return Exit::Failed;
        }
    };
    let refuse = |why: &str| heir.iter().for_each(|heir| heir.refuse(why));
    let source = if args.listen.is_empty() {
        ConfigSource::Paths(args.config.paths())
    } else {
        ConfigSource::Text(quick_start(&args.listen, &args.to, &globals.socket))
    };
    let sources = match source.read() {
        Ok(sources) => sources,
        Err(error) => {
            refuse(&error.to_string());
            message(&error.to_string());
            return Exit::InvalidConfig;
        }
    };
    let config = match load(globals, &sources) {
        Ok(config) => config,
        Err(exit) => {
            refuse("the configuration has errors");
            return exit;
        }
    };
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => tracing::Level::ERROR,
        (false, 0) => tracing::Level::INFO,
        (false, 1) => tracing::Level::DEBUG,
        (false, _) => tracing::Level::TRACE,
    };
    match daemon::run(config, source, level, heir) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            message(&error.to_string());
            Exit::Failed
        }
    }
}

/// The configuration that `--listen` and `--to` stand for. Health is checked; a socket in `/run` may not be ours to
/// make, so that without `--socket` it goes next to other temporary files.
fn quick_start(listen: &[Address], to: &[config::Address], socket: &Path) -> String {
    let listen: Vec<String> = listen.iter().map(|address| format!("\"{address}\"")).collect();
    let to: Vec<String> = to.iter().map(|address| format!("\"{address}\"")).collect();
    let socket = if socket == Path::new(DEFAULT_SOCKET) {
        std::env::temp_dir().join(format!("sluice-{}.sock", std::process::id()))
    } else {
        socket.to_owned()
    };
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        "[global]\nstatus-socket = {}\n\n[[listener]]\nname = \"quick\"\nbind = [{}]\npool = \"quick\"\n\n\
         [pool.quick]\nbackends = [{}]\n\n[pool.quick.health]\ncheck = \"tcp\"\n",
        toml::Value::from(socket.display().to_string()),
        listen.join(", "),
        to.join(", ")
    );
    text
}
