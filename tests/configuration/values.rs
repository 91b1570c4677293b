//! Problems of words and names.

use super::check;

#[test]
fn parts_of_later_versions_are_refused() {
    check(
        r#"[log]
format = "tcplog"
target = "journal"
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
transparent = true
rate-per-source = "50/s"
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "tcp"
"#,
        r#"
error[E015]: `transparent` in listener `https` is not built yet
 --> a.toml:7:1
  |
7 | transparent = true
  | ^^^^^^^^^^^
  |
  = help: this version refuses the key instead of ignoring it

error[E015]: `rate-per-source` in listener `https` is not built yet
 --> a.toml:8:1
  |
8 | rate-per-source = "50/s"
  | ^^^^^^^^^^^^^^^
  |
  = help: this version refuses the key instead of ignoring it
"#,
    );
}

#[test]
fn unknown_words_list_the_known_ones() {
    check(
        r#"global = { workers = "four" }
[log]
format = "jsn"
sessions = "all"
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
reject = "rst"
pool = "shop"
[[listener.route]]
tls-min = "TLSv1.2"
reject = "Close"
[[listener.route]]
tls-min = "1.4"
reject = "close"
[pool.shop]
backends = ["10.0.0.11:443"]
balance = "leastconn"
on-down = "keeep"
health.check = "tpc"
"#,
        r#"
error[E004]: `four` is not a value of `workers`
 --> a.toml:1:22
  |
1 | global = { workers = "four" }
  |                      ^^^^^^
  |
  = help: `auto`, or a whole number

error[E004]: `jsn` is not a value of `format`
 --> a.toml:3:10
  |
3 | format = "jsn"
  |          ^^^^^
  |
  = help: did you mean `json`?

error[E004]: `all` is not a value of `sessions`
 --> a.toml:4:12
  |
4 | sessions = "all"
  |            ^^^^^
  |
  = help: one of `end`, `both`, `off`

error[E004]: `rst` is not a value of `reject`
 --> a.toml:8:10
  |
8 | reject = "rst"
  |          ^^^^^
  |
  = help: one of `alert`, `close`, `reset`

error[E004]: `TLSv1.2` is not a value of `tls-min`
  --> a.toml:11:11
   |
11 | tls-min = "TLSv1.2"
   |           ^^^^^^^^^
   |
   = help: one of `1.0`, `1.1`, `1.2`, `1.3`

error[E004]: `Close` is not a value of `reject`
  --> a.toml:12:10
   |
12 | reject = "Close"
   |          ^^^^^^^
   |
   = help: did you mean `close`?

error[E004]: `1.4` is not a value of `tls-min`
  --> a.toml:14:11
   |
14 | tls-min = "1.4"
   |           ^^^^^
   |
   = help: one of `1.0`, `1.1`, `1.2`, `1.3`

error[E004]: `leastconn` is not a value of `balance`
  --> a.toml:18:11
   |
18 | balance = "leastconn"
   |           ^^^^^^^^^^^
   |
   = help: one of `least-connections`, `round-robin`, `random-two`, `consistent-hash`

error[E004]: `keeep` is not a value of `on-down`
  --> a.toml:19:11
   |
19 | on-down = "keeep"
   |           ^^^^^^^
   |
   = help: did you mean `keep`?

error[E004]: `tpc` is not a value of `check`
  --> a.toml:20:16
   |
20 | health.check = "tpc"
   |                ^^^^^
   |
   = help: did you mean `tcp`?
"#,
    );
}

#[test]
fn names_have_few_characters() {
    check(
        r#"{LISTENER}
[[listener]]
name = "front/https"
bind = ["127.0.0.1:8443"]
pool = "my shop"
[[listener.route]]
from = ["10.0.0.0/8"]
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:443"]
health.check = "tcp"
[[pool.shop.backend]]
address = "10.0.0.12:443"
name = "shop 2"
"#,
        r#"
error[E018]: `front/https` is not a name
 --> a.toml:7:8
  |
7 | name = "front/https"
  |        ^^^^^^^^^^^^^
  |
  = help: letters, digits and - _ . : [ ], at most 64 of them

error[E012]: pool `my shop` of listener `front/https` does not exist
 --> a.toml:9:8
  |
9 | pool = "my shop"
  |        ^^^^^^^^^

error[E018]: `shop 2` is not a name
  --> a.toml:18:8
   |
18 | name = "shop 2"
   |        ^^^^^^^^
   |
   = help: letters, digits and - _ . : [ ], at most 64 of them
"#,
    );
}

#[test]
fn carets_stand_under_wide_and_odd_characters() {
    check(
        r#"log = { target = "/日本/ü", format = "jßon" } # 日本
global = {	workers	=	0 }
{LISTENER}
{POOL}
"#,
        r#"
error[E004]: `jßon` is not a value of `format`
 --> a.toml:1:36
  |
1 | log = { target = "/日本/ü", format = "jßon" } # 日本
  |                                      ^^^^^^
  |
  = help: did you mean `json`?

error[E009]: `workers` is 0, outside 1 to 1024
 --> a.toml:2:22
  |
2 | global = {    workers    =    0 }
  |                               ^
"#,
    );
}
