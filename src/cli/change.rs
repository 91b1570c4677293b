//! Commands that change something: a backend's state or weight, the members of a pool, open sessions.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::Globals;
use super::client::{ask, show};
use super::figures::{self, millis};
use super::output::{Exit, message, note};
use super::tables;
use crate::api::{
    AddParams, Added, BackendReport, BackendsParams, Changed, DrainParams, KillParams, Killed, OrderParams,
    RemoveParams, Removed, WeightParams,
};

/// How often a drain is looked at. Chosen.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `enable` and `disable`.
#[derive(Args, Debug)]
pub struct OrderArgs {
    /// POOL/BACKEND.
    backend: String,
    #[command(flatten)]
    limit: Limit,
}

/// For how long a change is.
#[derive(Args, Debug)]
struct Limit {
    /// Undo it after this time, such as 30m.
    #[arg(long = "for", value_name = "TIME", value_parser = figures::duration)]
    time: Option<Duration>,
}

impl Limit {
    fn millis(&self) -> Option<u64> {
        self.time.map(millis)
    }
}

/// Arguments of `weight`.
#[derive(Args, Debug)]
pub struct WeightArgs {
    /// POOL/BACKEND.
    backend: String,
    /// 0 takes no new connections; 100 is usual.
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
    weight: u32,
    #[command(flatten)]
    limit: Limit,
}

/// Arguments of `drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// POOL/BACKEND.
    backend: String,
    /// Wait until no session is left, at most so long.
    #[arg(long, value_name = "TIME", value_parser = figures::duration)]
    wait: Option<Duration>,
    /// End the sessions that are left after this time.
    #[arg(long, value_name = "TIME", value_parser = figures::duration)]
    kill_after: Option<Duration>,
    /// End so many a second then, instead of all at once.
    #[arg(long, value_name = "N/s", requires = "kill_after", value_parser = figures::per_second)]
    rate: Option<f64>,
    #[command(flatten)]
    limit: Limit,
}

/// Arguments of `kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    /// A session, as `sluice sessions` and the log name it.
    #[arg(required_unless_present = "backend", conflicts_with = "backend")]
    session: Option<String>,
    /// All sessions of this backend.
    #[arg(long, value_name = "POOL/BACKEND")]
    backend: Option<String>,
    /// So many a second, instead of all at once.
    #[arg(long, value_name = "N/s", requires = "backend", value_parser = figures::per_second)]
    rate: Option<f64>,
}

/// The commands of `backend`.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Add a backend to a pool.
    #[command(after_help = "Example:\n  sluice backend add shop 10.0.0.13:443 --weight 50")]
    Add {
        /// The pool.
        pool: String,
        /// IP:PORT.
        address: String,
        /// What it is called; the address, unless said.
        #[arg(long)]
        name: Option<String>,
        /// 0 to 1000; 100, unless said.
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1000))]
        weight: Option<u32>,
    },
    /// Take a backend out of its pool.
    #[command(after_help = "Example:\n  sluice backend remove shop/10.0.0.13:443")]
    Remove {
        /// POOL/BACKEND.
        backend: String,
    },
}

/// Runs `enable` and `disable`.
pub fn order(globals: &Globals, method: &str, args: OrderArgs) -> Exit {
    let params = OrderParams { for_ms: args.limit.millis(), backend: args.backend };
    show(globals, method, &params, |changed| print(globals, &changed))
}

/// Runs `reset`.
pub fn reset(globals: &Globals, backend: String) -> Exit {
    show(globals, "reset", &OrderParams { backend, for_ms: None }, |changed| print(globals, &changed))
}

/// Runs `weight`.
pub fn weight(globals: &Globals, args: WeightArgs) -> Exit {
    let params = WeightParams { for_ms: args.limit.millis(), backend: args.backend, weight: args.weight };
    show(globals, "weight", &params, |changed| print(globals, &changed))
}

fn print(globals: &Globals, changed: &Changed) {
    tables::changed(changed, Timestamp::now()).print(globals);
    if changed.kept == Some(false) {
        message("the state file could not be written: a restart forgets this change");
    }
}

/// Runs `kill`.
pub fn kill(globals: &Globals, args: KillArgs) -> Exit {
    let params = KillParams { session: args.session, backend: args.backend, rate: args.rate };
    show(globals, "kill", &params, |killed: Killed| tables::killed(&killed).print(globals))
}

/// Runs `backend add` and `backend remove`.
pub fn member(globals: &Globals, command: MemberCommand) -> Exit {
    match command {
        MemberCommand::Add { pool, address, name, weight } => {
            let params = AddParams { pool, address, name, weight };
            show(globals, "backend_add", &params, |added: Added| tables::added(&added).print(globals))
        }
        MemberCommand::Remove { backend } => {
            let params = RemoveParams { backend };
            show(globals, "backend_remove", &params, |removed: Removed| tables::removed(&removed).print(globals))
        }
    }
}

/// Runs `drain`. With a time to wait it exits with 0 when no session is left, with 1 when the time is over.
pub fn drain(globals: &Globals, args: DrainArgs) -> Exit {
    let params = DrainParams {
        for_ms: args.limit.millis(),
        kill_after_ms: args.kill_after.map(millis),
        rate: args.rate,
        backend: args.backend,
    };
    let exit = show(globals, "drain", &params, |changed| print(globals, &changed));
    match (exit, args.wait) {
        (Exit::Ok, Some(limit)) => wait(globals, &params.backend, limit).unwrap_or_else(|exit| exit),
        (exit, _) => exit,
    }
}

fn wait(globals: &Globals, path: &str, limit: Duration) -> Result<Exit, Exit> {
    let begun = Instant::now();
    let mut before = None;
    loop {
        let left = active(globals, path)?;
        if left == 0 {
            note(globals, &format!("{path}: no session is left"));
            return Ok(Exit::Ok);
        }
        if before.replace(left) != Some(left) {
            note(globals, &format!("{path}: {left} left"));
        }
        let rest = limit.saturating_sub(begun.elapsed());
        if rest.is_zero() {
            message(&format!("{path}: {left} left after {}", figures::span(limit)));
            return Ok(Exit::Failed);
        }
        std::thread::sleep(LOOK.min(rest));
    }
}

/// Connections of a backend.
fn active(globals: &Globals, path: &str) -> Result<u32, Exit> {
    let pool = path.split('/').next().map(str::to_owned);
    let list: Vec<BackendReport> = ask(globals, "backends", &BackendsParams { pool })?;
    let found = list.iter().find(|backend| format!("{}/{}", backend.pool, backend.backend) == path);
    found.map(|backend| backend.active).ok_or_else(|| {
        message(&format!("{path} was removed meanwhile"));
        Exit::Refused
    })
}
