//! Problems of health checks that speak other protocols than TLS and HTTP: names, passwords, steps and programs.

use std::fs;

use serde_json::Value;

use super::{LISTENER, check, check_files, run_in};
use crate::support::TempDir;

/// How many problems of a configuration have this in their messages; it has no other errors.
#[track_caller]
fn problems_with(config: &str, text: &str) -> usize {
    let dir = TempDir::new();
    fs::write(dir.path().join("a.toml"), config).unwrap();
    let report: Value = serde_json::from_slice(&run_in(dir.path(), &["-c", "a.toml", "--json"]).stdout).expect("JSON");
    let messages: Vec<&str> =
        report["problems"].as_array().unwrap().iter().filter_map(|problem| problem["message"].as_str()).collect();
    assert_eq!(report["errors"], 1, "{messages:?}");
    messages.iter().filter(|message| message.contains(text)).count()
}

#[test]
fn names_and_passwords_are_looked_at() {
    check_files(
        &[
            (
                "a.toml",
                r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "redis"
user = "a b"
sni = "shop.test"
name = "x"
[[listener]]
name = "other"
bind = ["127.0.0.1:444"]
pool = "other"
[pool.other]
backends = ["10.0.0.11:443"]
[pool.other.health]
check = "redis"
password-file = "empty"
tls = "yes"
"#,
            ),
            ("empty", "\n"),
        ],
        &["-c", "a.toml"],
        r#"
error[E010]: `user` of [pool.shop.health] needs `password-file`
  --> a.toml:10:1
   |
10 | user = "a b"
   | ^^^^

error[E021]: `user` of [pool.shop.health] is not a name that can be sent
  --> a.toml:10:8
   |
10 | user = "a b"
   |        ^^^^^
   |
   = help: 1 to 255 bytes without spaces and control characters

warning[W004]: `sni` of [pool.shop.health] has no effect: tls is "off"
  --> a.toml:11:1
   |
11 | sni = "shop.test"
   | ^^^

warning[W004]: `name` of [pool.shop.health] has no effect: check is "redis"
  --> a.toml:12:1
   |
12 | name = "x"
   | ^^^^
   |
   = help: it is a key of `smtp`

error[E020]: `password-file` of [pool.other.health] has no password of 1 to 1024 bytes
  --> a.toml:21:1
   |
21 | password-file = "empty"
   | ^^^^^^^^^^^^^

error[E004]: `yes` is not a value of `tls`
  --> a.toml:22:7
   |
22 | tls = "yes"
   |       ^^^^^
   |
   = help: one of `off`, `require`
"#,
    );
}

#[test]
fn steps_are_looked_at_one_by_one() {
    check(
        r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "expect"
steps = [
    { send = "a", expect = "b" },
    { send-hex = "0g" },
    { expect = "" },
    { expects = "a" },
    "send",
]
"#,
        r#"
error[E021]: a step has one of its keys, not 2
  --> a.toml:11:5
   |
11 |     { send = "a", expect = "b" },
   |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: send, send-hex, expect or expect-hex

error[E021]: `send-hex` is not bytes in hexadecimal
  --> a.toml:12:18
   |
12 |     { send-hex = "0g" },
   |                  ^^^^
   |
   = help: two digits for each byte, such as "00 ff"

error[E021]: `expect` has 0 bytes, outside 1 to 1024
  --> a.toml:13:16
   |
13 |     { expect = "" },
   |                ^^

error[E002]: unknown key `expects` in steps of [pool.shop.health]
  --> a.toml:14:7
   |
14 |     { expects = "a" },
   |       ^^^^^^^
   |
   = help: did you mean `expect`?

error[E003]: `steps` in [pool.shop.health] takes tables, not a string
  --> a.toml:15:5
   |
15 |     "send",
   |     ^^^^^^
   |
   = help: write [[pool.shop.health.steps]]
"#,
    );
    for (steps, want) in [("steps = []", "has 0 steps"), ("", "has no `steps`")] {
        let config = format!(
            "{LISTENER}[pool.shop]\nbackends = [\"10.0.0.11:443\"]\n[pool.shop.health]\ncheck = \"expect\"\n{steps}\n"
        );
        assert_eq!(problems_with(&config, want), 1, "{steps}");
    }
}

#[test]
fn programs_are_looked_for() {
    for (command, want) in [
        ("command = [\"true\"]", "cannot run true: the path does not begin with a slash"),
        ("command = [\"/no/such/program\", \"x\"]", "cannot run /no/such/program: No such file or directory"),
        ("command = [\"/etc/passwd\"]", "cannot run /etc/passwd: it is not a program"),
        ("command = [\"/bin/sh\", \"a\\u0000b\"]", "an argument in `command` of [pool.shop.health] has a NUL"),
        ("command = []", "names no program"),
        ("", "has no `command`"),
    ] {
        let config = format!(
            "{LISTENER}[pool.shop]\nbackends = [\"10.0.0.11:443\"]\n[pool.shop.health]\ncheck = \"exec\"\n{command}\n"
        );
        assert_eq!(problems_with(&config, want), 1, "{command}");
    }
}
