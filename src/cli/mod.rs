//! The command line: types for clap, one file per command that needs code. Data goes to stdout, messages to stderr.

mod change;
mod check;
mod client;
mod connection;
mod diff;
mod doctor;
mod events;
mod figures;
mod health;
mod hello;
mod hello_words;
mod lifecycle;
mod manuals;
mod output;
mod route;
mod run;
mod show;
mod table;
mod tables;
mod top;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use output::Exit;

use crate::decide::hello::FirstBytes;

/// Where the configuration is looked for.
const DEFAULT_CONFIG: &str = "/etc/sluice/sluice.toml";
/// Where the daemon's socket is looked for.
const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

/// Layer-4 TCP/TLS passthrough load balancer.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 120, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: CliCommand,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed at run time, 2 usage, 3 invalid configuration, 4 warnings under \
--deny-warnings, 5 no daemon behind the socket, 6 refused or no such object";

/// Options of every command.
#[derive(Args, Debug)]
pub struct Globals {
    /// Status socket of the daemon.
    #[arg(long, global = true, env = "SLUICE_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// One JSON document instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// No colours.
    #[arg(long, global = true)]
    no_color: bool,
    /// Only errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// More messages; twice for all of them.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Which configuration.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// File, or folder of *.toml files; may be given several times [default: /etc/sluice/sluice.toml].
    #[arg(short, long = "config", value_name = "PATH")]
    config: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the daemon in the foreground.
    #[command(after_help = "Examples:\n  sluice run -c /etc/sluice/sluice.toml\n  \
        sluice run --listen 127.0.0.1:8443 --to 10.0.0.11:443 --to 10.0.0.12:443")]
    Run(run::RunArgs),
    /// Validate a configuration and report every problem.
    #[command(after_help = "Examples:\n  sluice check -c config/sluice.toml\n  sluice check --dump --deny-warnings")]
    Check(check::CheckArgs),
    /// Say where a connection would go, and why.
    #[command(after_help = "Examples:\n  sluice route --listener https --sni shop.example.com\n  \
        sluice route --listener https --sni shop.example.com -c config/sluice.toml")]
    Route(RouteArgs),
    /// Show what the daemon is doing.
    #[command(after_help = "Examples:\n  sluice status\n  sluice status --json")]
    Status,
    /// Show backends: state, since when, why, load, times, certificates, and what operators said.
    #[command(after_help = show::BACKENDS_EXAMPLES)]
    Backends(show::BackendsArgs),
    /// Show open sessions, the oldest first.
    #[command(after_help = show::SESSIONS_EXAMPLES)]
    Sessions(show::SessionsArgs),
    /// Show the last changes of backends and pools, with reason and evidence, the oldest first.
    #[command(after_help = events::EXAMPLES)]
    Events(events::EventsArgs),
    /// Show the last refused first bytes: why, and in which segments and records they came.
    #[command(after_help = "Examples:\n  sluice refused\n  sluice refused https --json")]
    Refused {
        /// Only of this listener.
        listener: Option<String>,
    },
    /// Show the busiest server names.
    #[command(after_help = "Examples:\n  sluice names\n  sluice names --limit 5 --json")]
    Names {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Decode a captured ClientHello and say what sluice makes of it.
    #[command(
        after_help = "The capture is what a client sends first, as raw bytes: TLS records, with whatever comes before \
        them (a PROXY header, PostgreSQL's requests).\n\nExamples:\n  sluice hello tests/data/hello/curl-h2.bin\n  \
        xxd -r -p hello.hex | sluice hello --json\n  \
        sluice hello hello.bin --listener https -c config/sluice.toml"
    )]
    Hello(hello::HelloArgs),
    /// Watch listeners, pools and backends live over the whole screen, and change backends.
    #[command(after_help = "Keys: ? shows them. Nothing changes without a question and y.\n\n\
        Examples:\n  sluice top\n  sluice top --interval 5s --no-color")]
    Top(top::TopArgs),
    /// Take no new connections to a backend; its sessions run on.
    #[command(after_help = "With --wait, exits with 0 when no session is left and with 1 when the time is over.\n\n\
        Examples:\n  sluice drain shop/10.0.0.11:443 --for 30m\n  \
        sluice drain shop/10.0.0.11:443 --kill-after 5m --rate 20/s --wait 10m")]
    Drain(change::DrainArgs),
    /// Take no new connections to a backend, for whatever reason an operator has; its checks go on.
    #[command(after_help = "Example:\n  sluice disable shop/10.0.0.11:443 --for 1h")]
    Disable(change::OrderArgs),
    /// Undo drain and disable.
    #[command(after_help = "Example:\n  sluice enable shop/10.0.0.11:443")]
    Enable(change::OrderArgs),
    /// Give a backend another weight than the configuration says.
    #[command(after_help = "Example:\n  sluice weight shop/10.0.0.11:443 10 --for 15m")]
    Weight(change::WeightArgs),
    /// Take back whatever was said of a backend: the configuration counts.
    #[command(after_help = "Example:\n  sluice reset shop/10.0.0.11:443")]
    Reset {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Change the members of a pool.
    #[command(
        subcommand,
        after_help = "Examples:\n  sluice backend add shop 10.0.0.13:443 --weight 50\n  \
        sluice backend remove shop/10.0.0.13:443"
    )]
    Backend(change::MemberCommand),
    /// End sessions.
    #[command(after_help = "Examples:\n  sluice kill 00f3a1b2c3d4e5f6\n  \
        sluice kill --backend shop/10.0.0.11:443 --rate 50/s")]
    Kill(change::KillArgs),
    /// Run a backend's health check now and show each phase with its time; it does not count, and is cut off after 20 s.
    #[command(after_help = "Exit codes: 0 the backend is well, 1 it is not, 6 no such backend or no check.\n\n\
        Example:\n  sluice probe shop/10.0.0.11:443")]
    Probe {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Read the configuration anew.
    #[command(after_help = "Exit codes with --wait: 0 it is in force, 1 nothing was changed.\n\n\
        Example:\n  sluice config diff && sluice reload --wait")]
    Reload {
        /// Wait for the outcome and report it.
        #[arg(long)]
        wait: bool,
    },
    /// Replace the running binary by the one now on disk; sessions go on.
    #[command(after_help = "Example:\n  sluice check && sluice upgrade")]
    Upgrade,
    /// Stop the daemon; sessions run for shutdown-grace.
    #[command(after_help = "Examples:\n  sluice stop\n  sluice stop --grace 5m")]
    Stop {
        /// Let sessions run for this time instead.
        #[arg(long, value_name = "TIME", value_parser = figures::duration)]
        grace: Option<Duration>,
    },
    /// Say in one line how it goes, as a monitoring plugin.
    #[command(after_help = health::EXAMPLES)]
    Health {
        /// Only of this pool.
        #[arg(long)]
        pool: Option<String>,
    },
    /// Look at limits, kernel features and settings: what is missing and what it costs.
    #[command(after_help = "Example:\n  sluice doctor -c /etc/sluice/sluice.toml")]
    Doctor {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Work with configurations.
    #[command(subcommand, after_help = "Examples:\n  sluice config diff -c new.toml\n  sluice config schema")]
    Config(ConfigCommand),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  sluice completions bash > /etc/bash_completion.d/sluice")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command.
    #[command(after_help = "Example:\n  sluice man /usr/local/share/man/man1")]
    Man {
        /// The folder; it is made.
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what a reload would change, and what that means for open sessions.
    #[command(after_help = diff::EXAMPLES)]
    Diff {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print the JSON schema of the configuration.
    #[command(after_help = "Example:\n  sluice config schema > sluice.schema.json")]
    Schema,
}

#[derive(Args, Debug)]
struct RouteArgs {
    /// Name of the listener.
    #[arg(long)]
    listener: String,
    /// Server name.
    #[arg(long)]
    sni: Option<String>,
    /// Offered application protocols, separated by commas.
    #[arg(long, value_delimiter = ',')]
    alpn: Vec<String>,
    /// Highest offered version of TLS.
    #[arg(long, default_value = "1.3", value_parser = ["1.0", "1.1", "1.2", "1.3"])]
    tls: String,
    /// Not a TLS client, but one of this protocol.
    #[arg(long, value_name = "PROTOCOL", value_parser = FirstBytes::ROUTABLE.map(FirstBytes::name))]
    first_bytes: Option<String>,
    /// Address of the client.
    #[arg(long, default_value = "127.0.0.1")]
    from: IpAddr,
    /// Ask this configuration instead of the daemon.
    #[command(flatten)]
    config: ConfigArgs,
}

/// An address to listen on or to connect to.
type Address = SocketAddr;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let globals = &cli.globals;
    let exit = match cli.command {
        CliCommand::Run(args) => run::run(globals, args),
        CliCommand::Check(args) => check::check(globals, &args),
        CliCommand::Route(args) => route::route(globals, &args),
        CliCommand::Status => show::status(globals),
        CliCommand::Backends(args) => show::backends(globals, args),
        CliCommand::Sessions(args) => show::sessions(globals, args),
        CliCommand::Events(args) => events::events(globals, args),
        CliCommand::Refused { listener } => show::refused(globals, listener),
        CliCommand::Names { limit } => show::names(globals, limit),
        CliCommand::Hello(args) => hello::hello(globals, &args),
        CliCommand::Top(args) => top::top(globals, &args),
        CliCommand::Drain(args) => change::drain(globals, args),
        CliCommand::Disable(args) => change::order(globals, "disable", args),
        CliCommand::Enable(args) => change::order(globals, "enable", args),
        CliCommand::Weight(args) => change::weight(globals, args),
        CliCommand::Reset { backend } => change::reset(globals, backend),
        CliCommand::Backend(command) => change::member(globals, command),
        CliCommand::Kill(args) => change::kill(globals, args),
        CliCommand::Probe { backend } => show::probe(globals, backend),
        CliCommand::Reload { wait } => lifecycle::reload(globals, wait),
        CliCommand::Upgrade => lifecycle::upgrade(globals),
        CliCommand::Stop { grace } => lifecycle::stop(globals, grace),
        // Its exit codes are those of its kind.
        CliCommand::Health { pool } => return health::health(globals, pool),
        CliCommand::Doctor { config } => doctor::doctor(globals, &config),
        CliCommand::Config(ConfigCommand::Diff { config }) => diff::diff(globals, &config),
        CliCommand::Config(ConfigCommand::Schema) => check::schema(),
        CliCommand::Completions { shell } => manuals::completions(shell),
        CliCommand::Man { directory } => manuals::man(&directory),
    };
    exit.into()
}

impl ConfigArgs {
    /// The paths, or the default one.
    fn paths(&self) -> Vec<PathBuf> {
        if self.config.is_empty() { vec![PathBuf::from(DEFAULT_CONFIG)] } else { self.config.clone() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
