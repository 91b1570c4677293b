//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;
use crate::proxies::Kind;

/// What to print for `--help`.
pub const HELP: &str = "\
Compares sluice with HAProxy and nginx stream on this machine.

cargo bench --bench compare -- [OPTIONS]

  --quick             the main loads, two rounds, under a minute
  --only LOAD         only this load (repeatable; the beginning of a name is enough)
  --proxies A,B       of sluice, haproxy, nginx, direct (default: all that are found)
  --rounds N          rounds, each with every proxy in turn (default 5, quick 2); minor loads have three in five
  --seconds S         length of one measurement (default 1.2, quick 0.7)
  --json FILE         write every single result there
  --readme            put the figures of a full run into README.md
  --from FILE         run nothing: put the figures of a run that wrote FILE with --json into README.md
  --syscalls          only count system calls for each connection, exchange and MiB, under strace
  --sluice PATH       the binary (default: the one that cargo built for this bench)
  --haproxy PATH, --nginx PATH
  --sluice-pool LINE  a further line for sluice's pools, such as 'relay = \"copy\"' (repeatable)
  --sluice-relay LINE the same for its [global.relay], such as 'pipe-size = \"256KiB\"'
  --nginx-buffer SIZE proxy_buffer_size of nginx (default 64k for bulk and mix, else 16k, its own default)
  --list              list the loads

The exit code is 1 if a row is void: an error, a lost or wrong byte, a flow that stands still. `must` is what the design demands of
sluice, as a ratio to the best peer; it does not change the exit code. Beside other work, `nice -n -10` before it helps; measurements
in which others took more than a quarter of a core are told under the table.
";

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub enum Task {
    /// Measure and print tables.
    #[default]
    Compare,
    /// Count system calls.
    CountCalls,
    /// Write README.md from raw results.
    WriteReadme(PathBuf),
    /// Print the loads.
    List,
    /// Print the help.
    Help,
}

/// What was asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// What to do.
    pub task: Task,
    /// The short form.
    pub quick: bool,
    /// Only loads whose names begin like one of these.
    pub only: Vec<String>,
    /// Only these proxies.
    pub proxies: Vec<Kind>,
    /// Rounds, where not the default.
    pub rounds: Option<usize>,
    /// Length of a measurement, where not the default.
    pub seconds: Option<f64>,
    /// Where raw results go.
    pub json: Option<PathBuf>,
    /// Put the figures into README.md as well.
    pub readme: bool,
    /// The proxies' binaries, where not the default.
    pub sluice: Option<PathBuf>,
    /// `HAProxy`'s binary.
    pub haproxy: Option<PathBuf>,
    /// nginx's binary.
    pub nginx: Option<PathBuf>,
    /// Further lines for sluice's pools.
    pub sluice_pool: Vec<String>,
    /// Lines for sluice's `[global.relay]`.
    pub sluice_relay: Vec<String>,
    /// nginx's buffer size.
    pub nginx_buffer: Option<String>,
}

impl Options {
    /// Reads the arguments; what cargo adds by itself is passed over.
    pub fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, attached) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || attached.clone().or_else(|| rest.next().cloned()).ok_or(format!("{name} needs a value"));
            match name {
                "--bench" => {}
                "--help" | "-h" => options.task = Task::Help,
                "--list" => options.task = Task::List,
                "--quick" => options.quick = true,
                "--only" => options.only.push(value()?),
                "--proxies" => {
                    for word in value()?.split(',') {
                        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word);
                        options.proxies.push(kind.ok_or(format!("no proxy called {word}"))?);
                    }
                }
                "--rounds" => options.rounds = Some(value()?.parse()?),
                "--seconds" => options.seconds = Some(value()?.parse()?),
                "--readme" => options.readme = true,
                "--from" => options.task = Task::WriteReadme(value()?.into()),
                "--syscalls" => options.task = Task::CountCalls,
                "--json" => options.json = Some(value()?.into()),
                "--sluice" => options.sluice = Some(value()?.into()),
                "--haproxy" => options.haproxy = Some(value()?.into()),
                "--nginx" => options.nginx = Some(value()?.into()),
                "--sluice-pool" => options.sluice_pool.push(value()?),
                "--sluice-relay" => options.sluice_relay.push(value()?),
                "--nginx-buffer" => options.nginx_buffer = Some(value()?),
                _ => return Err(format!("unknown option {argument}; --help lists them").into()),
            }
        }
        if options.rounds == Some(0) || options.seconds.is_some_and(|seconds| !(0.1..=600.0).contains(&seconds)) {
            return Err("at least one round, and 0.1 to 600 seconds".into());
        }
        if options.readme && options.is_partial() {
            return Err("--readme is for a full run: no --quick, --only, --proxies or --syscalls".into());
        }
        Ok(options)
    }

    /// Whether a run leaves something out.
    pub fn is_partial(&self) -> bool {
        self.quick || self.task != Task::Compare || !self.only.is_empty() || !self.proxies.is_empty()
    }

    /// Rounds to run.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// Length of one measurement.
    pub fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.7 } else { 1.2 }))
    }
}
