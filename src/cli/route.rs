//! `sluice route`: where a connection would go, from the daemon or from a configuration.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Value, json};

use super::check::load;
use super::client::ask;
use super::output::{Exit, data, json as print_json, message};
use super::{ConfigArgs, Globals, RouteArgs};
use crate::config::Sources;
use crate::decide::health::Health;
use crate::decide::hello::{FirstBytes, TlsVersion};
use crate::state::{Operators, Resolution, RouteQuery, Snapshot, Supplement, explain};

/// Runs `route`.
pub fn route(globals: &Globals, args: &RouteArgs) -> Exit {
    let mut query = RouteQuery::new(&args.listener);
    query.sni.clone_from(&args.sni);
    query.alpn.clone_from(&args.alpn);
    query.from = args.from;
    // Both are words that clap has checked.
    query.tls = TlsVersion::from_config(&args.tls).unwrap_or(query.tls);
    query.first_bytes = args.first_bytes.as_deref().and_then(FirstBytes::from_config);
    match explained(globals, &args.config, &query) {
        Ok(explanation) => {
            if globals.json {
                print_json(&explanation);
            } else {
                data(&words(&explanation));
            }
            if explanation["refused"].is_null() { Exit::Ok } else { Exit::Refused }
        }
        Err(exit) => exit,
    }
}

/// Asks the daemon, or a configuration where one is named.
pub fn explained(globals: &Globals, config: &ConfigArgs, query: &RouteQuery) -> Result<Value, Exit> {
    if !config.config.is_empty() {
        return offline(globals, config, query);
    }
    let params = json!({
        "listener": query.listener,
        "sni": query.sni,
        "alpn": query.alpn,
        "from": query.from,
        "tls": query.tls.to_string(),
        "first_bytes": query.first_bytes.map(FirstBytes::name),
        "hello_bytes": query.hello_bytes,
    });
    ask(globals, "route", &params)
}

fn offline(globals: &Globals, config: &ConfigArgs, query: &RouteQuery) -> Result<Value, Exit> {
    let sources = Sources::read(&config.paths()).map_err(|error| {
        message(&error.to_string());
        Exit::InvalidConfig
    })?;
    let config = load(globals, &sources)?;
    let supplement = Supplement { names: &Resolution::Offline, operators: &Operators::default() };
    let snapshot = Snapshot::build(Arc::new(config), None, &supplement, 1).map_err(|error| {
        message(&error.to_string());
        Exit::InvalidConfig
    })?;
    // A file says nothing of health: every backend counts as up.
    for (_, backend) in snapshot.backends() {
        backend.change(|vitals| vitals.health = Health::Unchecked);
    }
    explain(&snapshot, query, 0).map(|explanation| json!(explanation)).map_err(|why| {
        message(&why);
        Exit::Refused
    })
}

/// An explanation for people.
pub fn words(explanation: &Value) -> String {
    // Writing into a string cannot fail.
    let mut text = String::new();
    for (label, key) in [
        ("listener", "listener"),
        ("rule", "rule"),
        ("pool", "pool"),
        ("balance", "balance"),
        ("key", "key"),
        ("backend", "backend"),
        ("refused", "refused"),
        ("reason", "reason"),
    ] {
        if let Some(value) = explanation[key].as_str() {
            let _ = writeln!(text, "{label:<9} {value}");
        }
    }
    let order: Vec<&str> = explanation["order"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if order.len() > 1 {
        let _ = writeln!(text, "then      {}", order[1..].join(", "));
    }
    for other in explanation["others"].as_array().into_iter().flatten() {
        let field = |key: &str| other[key].as_str().unwrap_or_default();
        let _ = writeln!(text, "not       {}: {}", field("backend"), field("why"));
    }
    text
}
