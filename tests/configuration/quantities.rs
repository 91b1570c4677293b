//! Problems of what is counted or measured: durations, sizes, numbers.

use super::check;

#[test]
fn durations_need_a_unit_and_have_limits() {
    check(
        r#"[global]
shutdown-grace = "30"
ready-delay = "2h"
{LISTENER}
idle-timeout = "1 hour"
hello-timeout = "5ms"
half-close-timeout = "1.5m"
[pool.shop]
backends = ["10.0.0.11:443"]
connect-timeout = "-1s"
health = { check = "tcp", interval = "2sec", timeout = "700000000d" }
"#,
        r#"
error[E005]: `30` is not a duration for `shutdown-grace`
 --> a.toml:2:18
  |
2 | shutdown-grace = "30"
  |                  ^^^^
  |
  = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s", or "off"

error[E009]: `ready-delay` is 2h, outside 0s to 1h
 --> a.toml:3:15
  |
3 | ready-delay = "2h"
  |               ^^^^

error[E005]: `1 hour` is not a duration for `idle-timeout`
 --> a.toml:9:16
  |
9 | idle-timeout = "1 hour"
  |                ^^^^^^^^
  |
  = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s", or "off"

error[E009]: `hello-timeout` is 5ms, outside 10ms to 10m
  --> a.toml:10:17
   |
10 | hello-timeout = "5ms"
   |                 ^^^^^

error[E005]: `1.5m` is not a duration for `half-close-timeout`
  --> a.toml:11:22
   |
11 | half-close-timeout = "1.5m"
   |                      ^^^^^^
   |
   = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s", or "off"

error[E005]: `-1s` is not a duration for `connect-timeout`
  --> a.toml:14:19
   |
14 | connect-timeout = "-1s"
   |                   ^^^^^
   |
   = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s"

error[E005]: `2sec` is not a duration for `interval`
  --> a.toml:15:38
   |
15 | health = { check = "tcp", interval = "2sec", timeout = "700000000d" }
   |                                      ^^^^^^
   |
   = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s"

error[E009]: `timeout` is 700000000d, outside 1ms to 10m
  --> a.toml:15:56
   |
15 | health = { check = "tcp", interval = "2sec", timeout = "700000000d" }
   |                                                        ^^^^^^^^^^^^
"#,
    );
}

#[test]
fn sizes_have_units_of_1024_and_limits() {
    check(
        r#"{LISTENER}
max-hello = "64KB"
[[listener]]
name = "b"
bind = ["127.0.0.1:444"]
pool = "shop"
max-hello = -1
[[listener]]
name = "c"
bind = ["127.0.0.1:445"]
pool = "shop"
max-hello = "1GiB"
{POOL}
"#,
        r#"
error[E006]: `64KB` is not a size for `max-hello`
 --> a.toml:6:13
  |
6 | max-hello = "64KB"
  |             ^^^^^^
  |
  = help: a whole number of bytes, or one with KiB, MiB or GiB, such as "64KiB"

error[E006]: `-1` is not a size for `max-hello`
  --> a.toml:11:13
   |
11 | max-hello = -1
   |             ^^
   |
   = help: a whole number of bytes, or one with KiB, MiB or GiB, such as "64KiB"

error[E009]: `max-hello` is 1GiB, outside 512B to 1MiB
  --> a.toml:16:13
   |
16 | max-hello = "1GiB"
   |             ^^^^^^
"#,
    );
}

#[test]
fn numbers_have_limits() {
    check(
        r#"[global]
workers = 0
max-connections = 99999999999999999999
{LISTENER}
max-connections = 0xfffffff
[pool.shop]
backends = ["10.0.0.11:443"]
connect-tries = 17
health = { check = "tcp", port = 65536, rise = -0 }
[[pool.shop.backend]]
address = "10.0.0.12:443"
weight = 1001
"#,
        r#"
error[E009]: `workers` is 0, outside 1 to 1024
 --> a.toml:2:11
  |
2 | workers = 0
  |           ^

error[E009]: `max-connections` is 99999999999999999999, outside 1 to 10000000
 --> a.toml:3:19
  |
3 | max-connections = 99999999999999999999
  |                   ^^^^^^^^^^^^^^^^^^^^

error[E009]: `max-connections` is 0xfffffff, outside 1 to 10000000
 --> a.toml:9:19
  |
9 | max-connections = 0xfffffff
  |                   ^^^^^^^^^

error[E009]: `connect-tries` is 17, outside 1 to 16
  --> a.toml:12:17
   |
12 | connect-tries = 17
   |                 ^^

error[E009]: `port` is 65536, outside 1 to 65535
  --> a.toml:13:34
   |
13 | health = { check = "tcp", port = 65536, rise = -0 }
   |                                  ^^^^^

error[E009]: `rise` is -0, outside 1 to 100
  --> a.toml:13:48
   |
13 | health = { check = "tcp", port = 65536, rise = -0 }
   |                                                ^^

error[E009]: `weight` is 1001, outside 0 to 1000
  --> a.toml:16:10
   |
16 | weight = 1001
   |          ^^^^
"#,
    );
}

#[test]
fn durations_that_cannot_be_off_say_so() {
    check(
        r#"{LISTENER}
hello-timeout = "off"
{POOL}
"#,
        r#"
error[E005]: `off` is not a duration for `hello-timeout`
 --> a.toml:6:17
  |
6 | hello-timeout = "off"
  |                 ^^^^^
  |
  = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s"; it cannot be off
"#,
    );
}
