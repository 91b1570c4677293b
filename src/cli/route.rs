//! `sluice route`: where a connection would go, from the daemon or from a configuration.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Value, json};

use super::check::load;
use super::client::ask;
use super::output::{Exit, data, message};
use super::{Globals, RouteArgs};
use crate::config::Sources;
use crate::decide::health::Health;
use crate::state::{RouteQuery, Snapshot, explain};

/// Runs `route`.
pub fn route(globals: &Globals, args: &RouteArgs) -> Exit {
    let explanation = if args.config.config.is_empty() {
        let params = json!({ "listener": args.listener, "sni": args.sni, "alpn": args.alpn, "from": args.from });
        ask(globals, "route", &params)
    } else {
        offline(globals, args)
    };
    match explanation {
        Ok(explanation) => {
            if globals.json {
                data(&format!("{explanation:#}\n"));
            } else {
                data(&words(&explanation));
            }
            if explanation["refused"].is_null() { Exit::Ok } else { Exit::Refused }
        }
        Err(exit) => exit,
    }
}

fn offline(globals: &Globals, args: &RouteArgs) -> Result<Value, Exit> {
    let sources = Sources::read(&args.config.paths()).map_err(|error| {
        message(&error.to_string());
        Exit::InvalidConfig
    })?;
    let config = load(globals, &sources)?;
    let snapshot = Snapshot::build(Arc::new(config), None, 1).map_err(|error| {
        message(&error.to_string());
        Exit::InvalidConfig
    })?;
    // A file says nothing of health: every backend counts as up.
    for (_, backend) in snapshot.backends() {
        backend.change(|vitals| vitals.health = Health::Unchecked);
    }
    let query =
        RouteQuery { listener: args.listener.clone(), sni: args.sni.clone(), alpn: args.alpn.clone(), from: args.from };
    explain(&snapshot, &query).map(|explanation| json!(explanation)).map_err(|why| {
        message(&why);
        Exit::Refused
    })
}

fn words(explanation: &Value) -> String {
    // Writing into a string cannot fail.
    let mut text = String::new();
    for (label, key) in [
        ("listener", "listener"),
        ("rule", "rule"),
        ("pool", "pool"),
        ("balance", "balance"),
        ("backend", "backend"),
        ("refused", "refused"),
        ("reason", "reason"),
    ] {
        if let Some(value) = explanation[key].as_str() {
            let _ = writeln!(text, "{label:<9} {value}");
        }
    }
    for other in explanation["others"].as_array().into_iter().flatten() {
        let field = |key: &str| other[key].as_str().unwrap_or_default();
        let _ = writeln!(text, "not       {}: {}", field("backend"), field("why"));
    }
    text
}
