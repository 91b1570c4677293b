//! Problems of words, names and types.

use super::check;

#[test]
fn parts_of_later_versions_are_refused() {
    check(
        r#"[log]
format = "tcplog"
target = "journal"
[[listener]]
name = "postgres"
bind = ["127.0.0.1:5432"]
protocol = "postgres"
accept-proxy = ["10.0.0.0/8"]
pool = "shop"
[pool.shop]
backends = ["shop.example.com:443"]
[pool.shop.hash]
key = ["sni"]
[pool.shop.health]
check = "http"
[[pool.shop.backend]]
address = "srv:_https._tcp.shop.example.com"
"#,
        r#"
error[E015]: `format = "tcplog"` is not built yet
 --> a.toml:2:10
  |
2 | format = "tcplog"
  |          ^^^^^^^^
  |
  = help: this version has `text`, `json`

error[E015]: `target = "journal"` is not built yet
 --> a.toml:3:10
  |
3 | target = "journal"
  |          ^^^^^^^^^
  |
  = help: this version has "stderr", which systemd puts into the journal, and files

error[E015]: `protocol = "postgres"` is not built yet
 --> a.toml:7:12
  |
7 | protocol = "postgres"
  |            ^^^^^^^^^^
  |
  = help: this version has `tls`, `tcp`

error[E015]: `accept-proxy` in listener `postgres` is not built yet
 --> a.toml:8:1
  |
8 | accept-proxy = ["10.0.0.0/8"]
  | ^^^^^^^^^^^^
  |
  = help: this version refuses the key instead of ignoring it

error[E015]: host name `shop.example.com:443` in `backends` is not built yet
  --> a.toml:11:13
   |
11 | backends = ["shop.example.com:443"]
   |             ^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: this version takes addresses only

error[E015]: `hash` in [pool.shop] is not built yet
  --> a.toml:12:12
   |
12 | [pool.shop.hash]
   |            ^^^^
   |
   = help: this version refuses the key instead of ignoring it

error[E015]: `check = "http"` is not built yet
  --> a.toml:15:9
   |
15 | check = "http"
   |         ^^^^^^
   |
   = help: this version has `off`, `tcp`

error[E015]: host name `srv:_https._tcp.shop.example.com` in `address` is not built yet
  --> a.toml:17:11
   |
17 | address = "srv:_https._tcp.shop.example.com"
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: this version takes addresses only
"#,
    );
}

#[test]
fn wrong_types_say_what_the_key_takes_and_got() {
    check(
        r#"[global]
workers = 1.5
status-socket = 3
max-connections = "1000"
[log]
format = 1979-05-27
{LISTENER}
allow = "10.0.0.0/8"
idle-timeout = 3600
max-hello = false
route = 3
[pool.shop]
backends = ["10.0.0.11:443", 443]
health = { check = "tcp", rise = [1] }
[[pool.shop.backend]]
address = "10.0.0.12:443"
backup = "no"
"#,
        r#"
error[E003]: `workers` in [global] takes a whole number or "auto", not a float
 --> a.toml:2:11
  |
2 | workers = 1.5
  |           ^^^

error[E003]: `status-socket` in [global] takes a string, not an integer
 --> a.toml:3:17
  |
3 | status-socket = 3
  |                 ^

error[E003]: `max-connections` in [global] takes a whole number, not a string
 --> a.toml:4:19
  |
4 | max-connections = "1000"
  |                   ^^^^^^

error[E003]: `format` in [log] takes a string, not a datetime
 --> a.toml:6:10
  |
6 | format = 1979-05-27
  |          ^^^^^^^^^^

error[E003]: `allow` in listener `https` takes a list, not a string
  --> a.toml:12:9
   |
12 | allow = "10.0.0.0/8"
   |         ^^^^^^^^^^^^

error[E003]: `idle-timeout` in listener `https` takes a string, not an integer
  --> a.toml:13:16
   |
13 | idle-timeout = 3600
   |                ^^^^

error[E003]: `max-hello` in listener `https` takes a size, not a boolean
  --> a.toml:14:13
   |
14 | max-hello = false
   |             ^^^^^

error[E003]: `route` in listener `https` takes a table, not an integer
  --> a.toml:15:9
   |
15 | route = 3
   |         ^

error[E003]: `backends` in [pool.shop] takes a string, not an integer
  --> a.toml:17:30
   |
17 | backends = ["10.0.0.11:443", 443]
   |                              ^^^

error[E003]: `rise` in [pool.shop.health] takes a whole number, not an array
  --> a.toml:18:34
   |
18 | health = { check = "tcp", rise = [1] }
   |                                  ^^^

error[E003]: `backup` in backend of [pool.shop] takes true or false, not a string
  --> a.toml:21:10
   |
21 | backup = "no"
   |          ^^^^
"#,
    );
    check(
        r#"global = "x"
listener = [3]
"#,
        r#"
error[E003]: `global` in the file takes a table, not a string
 --> a.toml:1:10
  |
1 | global = "x"
  |          ^^^

error[E003]: `listener` in the file takes a table, not an integer
 --> a.toml:2:13
  |
2 | listener = [3]
  |             ^
"#,
    );
}

#[test]
fn unknown_words_list_the_known_ones() {
    check(
        r#"[log]
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
[pool.shop]
backends = ["10.0.0.11:443"]
balance = "leastconn"
on-down = "keeep"
health.check = "tpc"
"#,
        r#"
error[E004]: `jsn` is not a value of `format`
 --> a.toml:2:10
  |
2 | format = "jsn"
  |          ^^^^^
  |
  = help: did you mean `json`?

error[E004]: `all` is not a value of `sessions`
 --> a.toml:3:12
  |
3 | sessions = "all"
  |            ^^^^^
  |
  = help: one of `end`, `both`, `off`

error[E004]: `rst` is not a value of `reject`
 --> a.toml:7:10
  |
7 | reject = "rst"
  |          ^^^^^
  |
  = help: one of `alert`, `close`, `reset`

error[E004]: `TLSv1.2` is not a value of `tls-min`
  --> a.toml:10:11
   |
10 | tls-min = "TLSv1.2"
   |           ^^^^^^^^^
   |
   = help: one of `1.0`, `1.1`, `1.2`, `1.3`

error[E004]: `Close` is not a value of `reject`
  --> a.toml:11:10
   |
11 | reject = "Close"
   |          ^^^^^^^
   |
   = help: did you mean `close`?

error[E004]: `leastconn` is not a value of `balance`
  --> a.toml:14:11
   |
14 | balance = "leastconn"
   |           ^^^^^^^^^^^
   |
   = help: one of `least-connections`, `round-robin`, `random-two`, `consistent-hash`

error[E004]: `keeep` is not a value of `on-down`
  --> a.toml:15:11
   |
15 | on-down = "keeep"
   |           ^^^^^^^
   |
   = help: did you mean `keep`?

error[E004]: `tpc` is not a value of `check`
  --> a.toml:16:16
   |
16 | health.check = "tpc"
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
  |
  = help: add [pool.my shop] with backends

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
