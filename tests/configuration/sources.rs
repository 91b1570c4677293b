//! Problems of files as a whole: what cannot be read, what is not TOML, what nobody would write.

use std::fs;
use std::time::Instant;

use serde_json::Value;

use super::{check, check_files, run_in};
use crate::support::{DEADLINE, TempDir};

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
    check(
        r#"{LISTENER}
{POOL}
[pool.shop]
balance = "round-robin"
"#,
        "
error[E001]: `shop` stands twice
  --> a.toml:10:7
   |
10 | [pool.shop]
   |       ^^^^
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
        ("d/.#a.toml", "not even TOML"),
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

#[test]
fn a_source_without_end_is_refused_at_once() {
    let begun = Instant::now();
    let dir = TempDir::new();
    let output = run_in(dir.path(), &["-c", "/dev/zero"]);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(stderr.trim_end(), "cannot read configuration /dev/zero: more than 16777216 bytes");
    assert_eq!(output.status.code(), Some(3));
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}
