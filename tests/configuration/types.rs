//! Problems of types: values, tables and lists of tables where the key takes another.

use super::check;

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
error[E003]: `workers` in [global] takes a whole number or "auto", not a number
 --> a.toml:2:11
  |
2 | workers = 1.5
  |           ^^^

error[E003]: `status-socket` in [global] takes a string, not a whole number
 --> a.toml:3:17
  |
3 | status-socket = 3
  |                 ^

error[E003]: `max-connections` in [global] takes a whole number, not a string
 --> a.toml:4:19
  |
4 | max-connections = "1000"
  |                   ^^^^^^

error[E003]: `format` in [log] takes a string, not a date
 --> a.toml:6:10
  |
6 | format = 1979-05-27
  |          ^^^^^^^^^^

error[E003]: `allow` in listener `https` takes a list, not a string
  --> a.toml:12:9
   |
12 | allow = "10.0.0.0/8"
   |         ^^^^^^^^^^^^

error[E003]: `idle-timeout` in listener `https` takes a string, not a whole number
  --> a.toml:13:16
   |
13 | idle-timeout = 3600
   |                ^^^^

error[E003]: `max-hello` in listener `https` takes a size, not true or false
  --> a.toml:14:13
   |
14 | max-hello = false
   |             ^^^^^

error[E003]: `route` in listener `https` takes a list of tables, not a whole number
  --> a.toml:15:9
   |
15 | route = 3
   |         ^
   |
   = help: write [[listener.route]]

error[E003]: `backends` in [pool.shop] takes a string, not a whole number
  --> a.toml:17:30
   |
17 | backends = ["10.0.0.11:443", 443]
   |                              ^^^

error[E003]: `rise` in [pool.shop.health] takes a whole number, not a list
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
error[E003]: `global` in the file takes one table, not a string
 --> a.toml:1:10
  |
1 | global = "x"
  |          ^^^
  |
  = help: write it once, as [global]

error[E003]: `listener` in the file takes tables, not a whole number
 --> a.toml:2:13
  |
2 | listener = [3]
  |             ^
  |
  = help: write [[listener]]
"#,
    );
}

#[test]
fn tables_that_stand_once_are_no_lists() {
    // One report each: what such a table holds is not guessed at.
    check(
        r#"{LISTENER}
[[listener.route]]
sni = ["other.test"]
pool = "other"
[[global]]
workers = 0
[pool.shop]
backends = ["10.0.0.11:443"]
health = "tcp"
[pool.other]
backends = ["10.0.0.12:443"]
[[pool.other.health]]
check = "tcp"
[[pool.other.health]]
check = "tpc"
"#,
        r#"
error[E003]: `global` in the file takes one table, not a list
 --> a.toml:9:1
  |
9 | [[global]]
  | ^^^^^^^^^^
  |
  = help: write it once, as [global]

error[E003]: `health` in [pool.shop] takes one table, not a string
  --> a.toml:13:10
   |
13 | health = "tcp"
   |          ^^^^^
   |
   = help: write it once, as [pool.shop.health]

error[E003]: `health` in [pool.other] takes one table, not a list
  --> a.toml:16:1
   |
16 | [[pool.other.health]]
   | ^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write it once, as [pool.other.health]
"#,
    );
}

#[test]
fn lists_of_tables_are_no_single_tables() {
    check(
        r#"[listener]
name = "https"
bind = ["127.0.0.1:443"]
pool = "shop"
{POOL}
"#,
        "
error[E003]: `listener` in the file takes a list of tables, not a table
 --> a.toml:1:1
  |
1 | [listener]
  | ^^^^^^^^^^
  |
  = help: write [[listener]]
",
    );
    check(
        r#"{LISTENER}
[listener.route]
pool = "shop"
{POOL}
[pool.shop.backend]
address = "10.0.0.12:443"
"#,
        "
error[E003]: `route` in listener `https` takes a list of tables, not a table
 --> a.toml:6:1
  |
6 | [listener.route]
  | ^^^^^^^^^^^^^^^^
  |
  = help: write [[listener.route]]

error[E003]: `backend` in [pool.shop] takes a list of tables, not a table
  --> a.toml:12:1
   |
12 | [pool.shop.backend]
   | ^^^^^^^^^^^^^^^^^^^
   |
   = help: write [[pool.shop.backend]]
",
    );
}
