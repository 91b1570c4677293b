//! What an operator reads when a configuration is wrong: the exact text of problems, from the real program. Here keys,
//! files and syntax; the rest is in the folder `configuration`. Shipped files and exit codes are in
//! `configuration_files.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "configuration/quantities.rs"]
mod quantities;
#[path = "configuration/routes.rs"]
mod routes;
mod support;
#[path = "configuration/tables.rs"]
mod tables;
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
        include_str!("configuration/quantities.rs"),
        include_str!("configuration/routes.rs"),
        include_str!("configuration/tables.rs"),
        include_str!("configuration/values.rs"),
    ];
    for code in Code::ALL {
        let head = format!("[{}]: ", code.name());
        assert!(cases.iter().any(|case| case.contains(&head)), "no case reports {code:?}");
    }
}

#[test]
fn broken_toml_is_all_that_is_reported() {
    check(
        r#"[[listener]]
name = "https
bnd = []
"#,
        r#"
error[E001]: invalid basic string, expected `"`
 --> a.toml:2:14
  |
2 | name = "https
  |              ^
"#,
    );
    check(
        "[global
workers = 0
",
        "
error[E001]: unclosed table, expected `]`
 --> a.toml:1:8
  |
1 | [global
  |        ^
",
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    check(
        r#"[pools.shop]
[log]
colour = true
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "shop"
idle_timeout = "1h"
[[listener.route]]
snl = ["a.test"]
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:443"]
conect-tries = 2
health = { check = "tcp", "größe" = 1 }
[[pool.shop.backend]]
address = "10.0.0.12:443"
wieght = 5
"#,
        r#"
error[E002]: unknown key `pools` in the file
 --> a.toml:1:2
  |
1 | [pools.shop]
  |  ^^^^^
  |
  = help: did you mean `pool`?

error[E002]: unknown key `colour` in [log]
 --> a.toml:3:1
  |
3 | colour = true
  | ^^^^^^

error[E002]: unknown key `idle_timeout` in listener `https`
 --> a.toml:8:1
  |
8 | idle_timeout = "1h"
  | ^^^^^^^^^^^^
  |
  = help: did you mean `idle-timeout`?

error[E002]: unknown key `snl` in route of listener `https`
  --> a.toml:10:1
   |
10 | snl = ["a.test"]
   | ^^^
   |
   = help: did you mean `sni`?

error[E002]: unknown key `conect-tries` in [pool.shop]
  --> a.toml:14:1
   |
14 | conect-tries = 2
   | ^^^^^^^^^^^^
   |
   = help: did you mean `connect-tries`?

error[E002]: unknown key `größe` in [pool.shop.health]
  --> a.toml:15:27
   |
15 | health = { check = "tcp", "größe" = 1 }
   |                           ^^^^^^^

error[E002]: unknown key `wieght` in backend of [pool.shop]
  --> a.toml:18:1
   |
18 | wieght = 5
   | ^^^^^^
   |
   = help: did you mean `weight`?
"#,
    );
}

#[test]
fn missing_keys_are_named_with_an_example() {
    check(
        r#"[[listener]]
[[listener]]
name = "https"
bind = []
[[listener.route]]
pool = "shop"
[[listener]]
name = "smtps"
bind = ["127.0.0.1:465"]
[pool.shop]
health.check = "tcp"
[[pool.shop.backend]]
name = "shop-1"
"#,
        r#"
error[E010]: [[listener]] has no `name`
 --> a.toml:1:1
  |
1 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: records and metrics need it, such as name = "https"

error[E010]: [[listener]] has no `bind`
 --> a.toml:1:1
  |
1 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: such as bind = ["0.0.0.0:443", "[::]:443"]

error[E010]: [[listener]] has neither `pool` nor routes: it could only reject
 --> a.toml:1:1
  |
1 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: add pool = "NAME", or a [[listener.route]]

error[E010]: `bind` of listener `https` is empty
 --> a.toml:4:1
  |
4 | bind = []
  | ^^^^

error[E010]: listener `smtps` has neither `pool` nor routes: it could only reject
 --> a.toml:7:1
  |
7 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: add pool = "NAME", or a [[listener.route]]

error[E010]: backend of [pool.shop] has no `address`
  --> a.toml:12:1
   |
12 | [[pool.shop.backend]]
   | ^^^^^^^^^^^^^^^^^^^^^
   |
   = help: such as address = "10.0.0.13:443"
"#,
    );
    check(
        "# nothing here
",
        "
error[E010]: no [[listener]]: nothing to do
 --> a.toml:1:1
  |
1 | # nothing here
  | ^
  |
  = help: a listener needs name, bind and pool; config/minimal.toml is an example
",
    );
}

#[test]
fn a_folder_is_its_toml_files_in_byte_order() {
    let files = [
        ("d/20.toml", "[global]\nb = 1\n"),
        ("d/B.toml", "{LISTENER}"),
        ("d/10.toml", "a = 1\n"),
        ("d/a.toml", "{POOL}c = 1\n"),
        ("d/10.toml.orig", "not even TOML"),
        ("d/README", "not even TOML"),
    ];
    check_files(
        &files,
        &["-c", "d"],
        "
error[E002]: unknown key `a` in the file
 --> d/10.toml:1:1
  |
1 | a = 1
  | ^

error[E002]: unknown key `b` in [global]
 --> d/20.toml:2:1
  |
2 | b = 1
  | ^

error[E002]: unknown key `c` in [pool.shop]
 --> d/a.toml:4:1
  |
4 | c = 1
  | ^
",
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("folder/x.toml")).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::write(dir.path().join("latin1.toml"), b"# \xfc\n").unwrap();
    for (path, expected) in [
        ("none.toml", "cannot read configuration none.toml: No such file or directory (os error 2)"),
        ("empty", "cannot read configuration empty: no *.toml in this folder"),
        ("folder", "cannot read configuration folder/x.toml: Is a directory (os error 21)"),
        ("latin1.toml", "cannot read configuration latin1.toml: "),
    ] {
        let output = run_in(dir.path(), &["-c", path]);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(stderr.starts_with(expected), "{stderr}");
        assert!(path == "latin1.toml" || stderr.trim_end() == expected, "{stderr}");
        assert_eq!(output.status.code(), Some(3), "{stderr}");
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
state-file = "/var/lib/sluice/state.json"
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
        "21 E003", "23 E015", "24 E005", "25 E009",
    ];
    assert_eq!(found, expected, "{report:#}");
}

#[test]
fn odd_files_are_reported_and_never_crash() {
    let deep = format!("x = {}{}", "[".repeat(5000), "]".repeat(5000));
    let dotted = format!("x{} = 1", ".a".repeat(5000));
    let long = format!("[log]\nformat = \"{}\"", "ü".repeat(100_000));
    let many = "[[listener]]\nbind = []\nfoo = 1\n".repeat(500);
    let dir = TempDir::new();
    for config in [
        "",
        "\n",
        "\u{feff}",
        "[[listener]]",
        "pool = 3",
        "[[pool]]\nshop = 1",
        "pool.shop = []",
        "[pool.\"\"]",
        "listener = \"x\"",
        "listener = [[], {}, 1]",
        "listener.name = 1",
        "global = []",
        "[[log]]\n[[log]]",
        "[global]\n\0workers = 1",
        "[log]\rformat = 1",
        "[log]\r\nformat = 1\r\n",
        "\t[log]\n\tformat\t=\t1",
        "log = { format = \"\"\"\nü\n\"\"\" }",
        "[log]\ntarget = \"",
        "[log]\nformat = \"\\u0000\\u001b[31m\u{202e}\"",
        "[log]\n\"\" = 1",
        "[\"👩‍👩‍👧\"]",
        "[global]\nworkers = 1e999",
        "[global]\nworkers = nan",
        "[global]\nshutdown-grace = \"99999999999999999999d\"",
        "[[listener]]\nmax-hello = 99999999999999999999",
        &deep,
        &dotted,
        &long,
        &many,
    ] {
        fs::write(dir.path().join("a.toml"), config).unwrap();
        let output = run_in(dir.path(), &["-c", "a.toml"]);
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let start: String = config.chars().take(60).collect();
        assert_eq!(output.status.code(), Some(3), "{start}: {stderr}");
        assert!(stderr.contains("error[E") && !stderr.contains("panicked"), "{start}: {stderr}");
        assert!(!stderr.contains(['\0', '\u{1b}', '\u{202e}']), "{start}: control characters reach the terminal");
    }
    // All of them, not the first hundred.
    let output = run_in(dir.path(), &["-c", "a.toml", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["errors"], 500 * 4);
}
