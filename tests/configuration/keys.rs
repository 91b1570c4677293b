//! Problems of keys: unknown, misspelt, missing, empty.

use std::fs;

use serde_json::Value;

use super::{LISTENER, check, run_in};
use crate::support::TempDir;

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
fn keys_that_are_not_built_are_never_suggested() {
    let config = r#"{LISTENER}
rate-per-sourc = 1
transparen = 1
reus = 1
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "tcp"
"#;
    let dir = TempDir::new();
    fs::write(dir.path().join("a.toml"), config.replace("{LISTENER}", LISTENER)).unwrap();
    let report: Value = serde_json::from_slice(&run_in(dir.path(), &["-c", "a.toml", "--json"]).stdout).expect("JSON");
    let problems = report["problems"].as_array().unwrap();
    let unknown = |one: &Value| one["code"] == "E002" && one["hint"].is_null();
    assert!(problems.len() == 3 && problems.iter().all(unknown), "{report:#}");
}

#[test]
fn a_misspelt_key_is_not_reported_as_missing_too() {
    check(
        r#"[[listener]]
nam = "https"
bnd = ["127.0.0.1:443"]
pool = "shop"
{POOL}
[[pool.shop.backend]]
adress = "10.0.0.12:443"
"#,
        r#"
error[E002]: unknown key `nam` in [[listener]]
 --> a.toml:2:1
  |
2 | nam = "https"
  | ^^^
  |
  = help: did you mean `name`?

error[E002]: unknown key `bnd` in [[listener]]
 --> a.toml:3:1
  |
3 | bnd = ["127.0.0.1:443"]
  | ^^^
  |
  = help: did you mean `bind`?

error[E002]: unknown key `adress` in backend of [pool.shop]
  --> a.toml:10:1
   |
10 | adress = "10.0.0.12:443"
   | ^^^^^^
   |
   = help: did you mean `address`?
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
  |
  = help: such as bind = ["0.0.0.0:443"]

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
}

#[test]
fn a_file_without_listeners_is_refused() {
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
    check(
        "listener = []
{POOL}",
        "
error[E010]: no [[listener]]: nothing to do
 --> a.toml:1:1
  |
1 | listener = []
  | ^
  |
  = help: a listener needs name, bind and pool; config/minimal.toml is an example
",
    );
}

#[test]
fn empty_paths_are_refused() {
    check(
        r#"[global]
status-socket = ""
[log]
target = ""
{LISTENER}
{POOL}
"#,
        r#"
error[E010]: `status-socket` in [global] is empty
 --> a.toml:2:17
  |
2 | status-socket = ""
  |                 ^^

error[E010]: `target` in [log] is empty
 --> a.toml:4:10
  |
4 | target = ""
  |          ^^
"#,
    );
}
