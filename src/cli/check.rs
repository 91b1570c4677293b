//! `sluice check`: every problem at once; and `sluice config schema`.

use clap::Args;
use serde_json::json;

use super::output::{Exit, data, json as print_json, message, message_colour, message_styled};
use super::{ConfigArgs, Globals};
use crate::config::{self, Config, Severity, Sources};

/// Arguments of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the effective configuration.
    #[arg(long)]
    dump: bool,
    /// Exit with 4 when there are warnings.
    #[arg(long)]
    deny_warnings: bool,
}

/// Runs `check`.
pub fn check(globals: &Globals, args: &CheckArgs) -> Exit {
    let sources = match Sources::read(&args.config.paths()) {
        Ok(sources) => sources,
        Err(error) => {
            message(&error.to_string());
            return Exit::InvalidConfig;
        }
    };
    let (config, problems) = config::check(&sources);
    let (errors, warnings) = (problems.count(Severity::Error), problems.count(Severity::Warning));
    if globals.json {
        let report = json!({ "ok": config.is_some(), "errors": errors, "warnings": warnings, "problems": problems.to_json(&sources) });
        print_json(&report);
    } else {
        if errors > 0 || (warnings > 0 && !globals.quiet) {
            message_styled(problems.render(&sources, message_colour(globals)).trim_end_matches('\n'));
            message("");
        }
        if let (Some(config), true) = (&config, args.dump) {
            data(&config::dump(config));
        }
        if !globals.quiet {
            message(&format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    match (config, warnings) {
        (None, _) => Exit::InvalidConfig,
        (Some(_), 1..) if args.deny_warnings => Exit::Warnings,
        _ => Exit::Ok,
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Reads a configuration for another command; problems are printed.
pub fn load(globals: &Globals, sources: &Sources) -> Result<Config, Exit> {
    let (config, problems) = config::check(sources);
    if problems.count(Severity::Error) > 0 || (problems.iter().next().is_some() && !globals.quiet) {
        message_styled(problems.render(sources, message_colour(globals)).trim_end_matches('\n'));
    }
    config.ok_or(Exit::InvalidConfig)
}

/// Runs `config schema`.
pub fn schema() -> Exit {
    print_json(&config::schema());
    Exit::Ok
}
