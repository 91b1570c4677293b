//! What an operator reads when a configuration is wrong: the exact text of problems, from the real program. Here
//! codes and the order of problems; the texts are in the folder `configuration`. Shipped files and exit codes are in
//! `configuration_files.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "configuration/addresses.rs"]
mod addresses;
#[path = "configuration/checks.rs"]
mod checks;
#[path = "configuration/keys.rs"]
mod keys;
#[path = "configuration/names.rs"]
mod names;
#[path = "configuration/pools.rs"]
mod pools;
#[path = "configuration/protocols.rs"]
mod protocols;
#[path = "configuration/quantities.rs"]
mod quantities;
#[path = "configuration/routes.rs"]
mod routes;
#[path = "configuration/sources.rs"]
mod sources;
mod support;
#[path = "configuration/tables.rs"]
mod tables;
#[path = "configuration/types.rs"]
mod types;
#[path = "configuration/values.rs"]
mod values;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use sluice::config::Code;
use support::{TempDir, sluice};

/// What `{LISTENER}` and `{POOL}` stand for: tables without problems, so that a case shows only what is wrong.
const LISTENER: &str = r#"[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "shop"
"#;
const POOL: &str = r#"[pool.shop]
backends = ["10.0.0.11:443"]
health.check = "tcp"
"#;

/// Checks one file and compares all that is reported.
#[track_caller]
fn check(config: &str, expected: &str) {
    check_files(&[("a.toml", config)], &["-c", "a.toml"], expected);
}

/// Writes files into a folder of their own, checks there with `arguments`, and compares all that is reported.
#[track_caller]
fn check_files(files: &[(&str, &str)], arguments: &[&str], expected: &str) {
    let dir = TempDir::new();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("{LISTENER}", LISTENER).replace("{POOL}", POOL)).unwrap();
    }
    let output = run_in(dir.path(), arguments);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    // The last line counts; `configuration_files.rs` holds it.
    let (report, _) = stderr.trim_end().rsplit_once('\n').unwrap_or_default();
    let (report, expected) = (report.trim(), expected.trim());
    assert!(report == expected, "reported:\n{report}\n\nexpected:\n{expected}\n");
    assert_eq!(output.status.code(), Some(if report.contains("error[") { 3 } else { 0 }), "{report}");
}

#[track_caller]
fn run_in(dir: &Path, arguments: &[&str]) -> Output {
    sluice().current_dir(dir).arg("check").args(arguments).output().expect("run sluice")
}

#[test]
fn every_code_has_a_case() {
    let cases = [
        include_str!("configuration.rs"),
        include_str!("configuration/addresses.rs"),
        include_str!("configuration/checks.rs"),
        include_str!("configuration/keys.rs"),
        include_str!("configuration/names.rs"),
        include_str!("configuration/pools.rs"),
        include_str!("configuration/protocols.rs"),
        include_str!("configuration/quantities.rs"),
        include_str!("configuration/routes.rs"),
        include_str!("configuration/sources.rs"),
        include_str!("configuration/tables.rs"),
        include_str!("configuration/types.rs"),
        include_str!("configuration/values.rs"),
    ];
    for code in Code::ALL {
        let head = format!("[{}]: ", code.name());
        assert!(cases.iter().any(|case| case.contains(&head)), "no case reports {code:?}");
    }
}

#[test]
fn problems_are_reported_in_the_order_of_the_file() {
    let dir = TempDir::new();
    let config = r#"[pool.spare]
backends = ["10.0.0.11"]
health.check = "tcp"
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "spore"
reject = "rst"
max-hello = "1KB"
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "spare"
deny = ["10.0.0.1"]
[[listener.route]]
sni = ["*"]
pool = "spare"
reject = "close"
[log]
formt = "text"
sessions = 3
[global]
state-file = ""
shutdown-grace = "soon"
workers = 0
"#;
    fs::write(dir.path().join("a.toml"), config).unwrap();
    let output = run_in(dir.path(), &["-c", "a.toml", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let problems = report["problems"].as_array().unwrap().iter();
    let found: Vec<String> = problems.map(|one| format!("{} {}", one["line"], one["code"].as_str().unwrap())).collect();
    let expected = [
        "2 E007", "7 E012", "8 E004", "9 E006", "11 E011", "12 E013", "14 E008", "16 E016", "18 E017", "20 E002",
        "21 E003", "23 E010", "24 E005", "25 E009",
    ];
    assert_eq!(found, expected, "{report:#}");
}
