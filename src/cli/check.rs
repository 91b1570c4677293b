//! `sluice check`: every problem at once; and `sluice config schema`.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connection::Connection;
use super::output::{Exit, data, json as print_json, message, message_colour, message_styled, note};
use super::{ConfigArgs, Globals};
use crate::api::ConfigReport;
use crate::config::{self, Config, FixedChange, Severity, Sources};

/// Longest wait for a daemon that may run.
const ASK_LIMIT: Duration = Duration::from_secs(1);

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
    let fixed = config.as_ref().map(|config| fixed_keys(globals, config)).unwrap_or_default();
    if globals.json {
        print_json(&json!({
            "ok": config.is_some(),
            "errors": errors,
            "warnings": warnings,
            "problems": problems.to_json(&sources),
            "fixed": fixed,
        }));
    } else {
        if errors > 0 || (warnings > 0 && !globals.quiet) {
            message_styled(problems.render(&sources, message_colour(globals)).trim_end_matches('\n'));
            message("");
        }
        if let (Some(config), true) = (&config, args.dump) {
            data(&config::dump(config));
        }
        for FixedChange { key, running, file, effect } in fixed {
            note(globals, &format!("note: {key} is {running} in the running daemon, {file} here: {effect}"));
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

/// What a reload would leave as it is, if a daemon runs and may be asked.
fn fixed_keys(globals: &Globals, config: &Config) -> Vec<FixedChange> {
    let named = || -> Option<Vec<FixedChange>> {
        let mut connection = Connection::open(&globals.socket, ASK_LIMIT).ok()?;
        let report: ConfigReport = connection.ask("config", &json!({})).ok()?;
        Some(config::fixed_changes(&report.config.parse().ok()?, &report.fixed, config))
    };
    named().unwrap_or_default()
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
