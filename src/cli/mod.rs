//! The command line: types for clap, one file per command that needs code. Data goes to stdout, messages to stderr.

mod check;
mod client;
mod connection;
mod doctor;
mod hello;
mod hello_words;
mod output;
mod probe;
mod route;
mod run;
mod show;
mod top;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

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
    Status,
    /// Show backends: state, since when, why, load.
    Backends {
        /// Only this pool.
        pool: Option<String>,
    },
    /// Show open sessions, the oldest first.
    Sessions {
        /// Only of this backend, as POOL/BACKEND.
        #[arg(long)]
        backend: Option<String>,
        /// Only with this server name.
        #[arg(long)]
        sni: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        limit: u64,
    },
    /// Show the last changes of backends and pools, with reason and evidence, the oldest first.
    #[command(after_help = "Examples:\n  sluice events\n  sluice events --pool shop --limit 10 --json")]
    Events {
        /// Only of this pool.
        #[arg(long)]
        pool: Option<String>,
        /// Only the last so many.
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// Show the last refused first bytes: why, and in which segments and records they came.
    #[command(after_help = "Examples:\n  sluice refused\n  sluice refused https --json")]
    Refused {
        /// Only of this listener.
        listener: Option<String>,
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
    Drain {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Take no new connections to a backend.
    Disable {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Undo drain and disable.
    Enable {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Run a backend's health check now and show each phase with its time; it does not count, and is cut off after 20 s.
    #[command(after_help = "Exit codes: 0 the backend is well, 1 it is not, 6 no such backend or no check.\n\n\
        Example:\n  sluice probe shop/10.0.0.11:443")]
    Probe {
        /// POOL/BACKEND.
        backend: String,
    },
    /// Read the configuration anew.
    Reload {
        /// Wait for the outcome and report it.
        #[arg(long)]
        wait: bool,
    },
    /// Stop the daemon; sessions run for shutdown-grace.
    Stop,
    /// Look at limits, kernel features and settings: what is missing and what it costs.
    Doctor {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Work with configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the JSON schema of the configuration.
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
        CliCommand::Backends { pool } => show::backends(globals, pool.as_deref()),
        CliCommand::Sessions { backend, sni, limit } => show::sessions(globals, backend, sni, limit),
        CliCommand::Events { pool, limit } => show::events(globals, pool.as_deref(), limit),
        CliCommand::Refused { listener } => show::refused(globals, listener.as_deref()),
        CliCommand::Hello(args) => hello::hello(globals, &args),
        CliCommand::Top(args) => top::top(globals, &args),
        CliCommand::Drain { backend } => show::change(globals, "drain", &backend),
        CliCommand::Disable { backend } => show::change(globals, "disable", &backend),
        CliCommand::Enable { backend } => show::change(globals, "enable", &backend),
        CliCommand::Probe { backend } => probe::probe(globals, &backend),
        CliCommand::Reload { wait } => show::reload(globals, wait),
        CliCommand::Stop => show::stop(globals),
        CliCommand::Doctor { config } => doctor::doctor(globals, &config),
        CliCommand::Config(ConfigCommand::Schema) => check::schema(),
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
