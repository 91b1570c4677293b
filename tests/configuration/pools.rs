//! Problems of how a pool chooses and whom it spares: limits, queues, hashing, slow start, panic, ejection.

use super::check;

#[test]
fn values_of_pools_and_backends_are_held_to_their_limits() {
    check(
        r#"{LISTENER}
[pool.shop]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
slow-start = "500ms"
panic-threshold = 1.5
queue-timeout = "11m"
on-down = "kill"
max-connections = 0
first-byte-timeout = 5
[[pool.shop.backend]]
address = "10.0.0.12:443"
max-connections = "500"
backup = "yes"
weight = 1001
"#,
        r#"
error[E009]: `slow-start` is 500ms, outside 1s to 1d
  --> a.toml:10:14
   |
10 | slow-start = "500ms"
   |              ^^^^^^^

error[E009]: `panic-threshold` is 1.5, outside 0 to 1
  --> a.toml:11:19
   |
11 | panic-threshold = 1.5
   |                   ^^^

error[E009]: `queue-timeout` is 11m, outside 1ms to 10m
  --> a.toml:12:17
   |
12 | queue-timeout = "11m"
   |                 ^^^^^

error[E004]: `kill` is not a value of `on-down`
  --> a.toml:13:11
   |
13 | on-down = "kill"
   |           ^^^^^^
   |
   = help: one of `keep`, `close`

error[E009]: `max-connections` is 0, outside 1 to 10000000
  --> a.toml:14:19
   |
14 | max-connections = 0
   |                   ^

error[E003]: `first-byte-timeout` in [pool.shop] takes a string, not a whole number
  --> a.toml:15:22
   |
15 | first-byte-timeout = 5
   |                      ^

error[E003]: `max-connections` in backend of [pool.shop] takes a whole number, not a string
  --> a.toml:18:19
   |
18 | max-connections = "500"
   |                   ^^^^^

error[E003]: `backup` in backend of [pool.shop] takes true or false, not a string
  --> a.toml:19:10
   |
19 | backup = "yes"
   |          ^^^^^

error[E009]: `weight` is 1001, outside 0 to 1000
  --> a.toml:20:10
   |
20 | weight = 1001
   |          ^^^^
"#,
    );
}

#[test]
fn values_of_hashing_and_ejection_are_held_to_their_limits() {
    check(
        r#"{LISTENER}
[pool.shop]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
[pool.shop.hash]
key = ["sni", "cookie"]
table = "rendezvous"
bounded-load = 0.9
seed = 1
[pool.shop.passive]
failures = 1001
eject = "off"
max-ejected = -0.1
"#,
        r#"
error[E004]: `cookie` is not a value of `key`
  --> a.toml:11:15
   |
11 | key = ["sni", "cookie"]
   |               ^^^^^^^^
   |
   = help: one of `source`, `source-prefix`, `sni`, `alpn`, `destination`

error[E004]: `rendezvous` is not a value of `table`
  --> a.toml:12:9
   |
12 | table = "rendezvous"
   |         ^^^^^^^^^^^^
   |
   = help: one of `maglev`, `ring`

error[E009]: `bounded-load` is 0.9, outside 1 to 1000
  --> a.toml:13:16
   |
13 | bounded-load = 0.9
   |                ^^^

error[E003]: `seed` in [pool.shop.hash] takes a string, not a whole number
  --> a.toml:14:8
   |
14 | seed = 1
   |        ^

error[E009]: `failures` is 1001, outside 0 to 1000
  --> a.toml:16:12
   |
16 | failures = 1001
   |            ^^^^

error[E005]: `off` is not a duration for `eject`
  --> a.toml:17:9
   |
17 | eject = "off"
   |         ^^^^^
   |
   = help: a whole number and one of ms, s, m, h, d, such as "250ms" or "5s"; it cannot be off

error[E009]: `max-ejected` is -0.1, outside 0 to 1
  --> a.toml:18:15
   |
18 | max-ejected = -0.1
   |               ^^^^
"#,
    );
}

#[test]
fn keys_of_hashing_are_held_to_their_kinds() {
    check(
        r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
health.check = "tcp"
[pool.other]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
panic-threshold = "off"
[pool.other.hash]
key = []
bounded-load = "none"
[pool.third]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
[pool.third.hash]
key = "sni"
[pool.fourth]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
hash = "maglev"
[pool.fifth]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
hash.key = ["sni", "source", "sni"]
"#,
        r#"
error[E003]: `panic-threshold` in [pool.other] takes a number, not a string
  --> a.toml:13:19
   |
13 | panic-threshold = "off"
   |                   ^^^^^

error[E010]: `key` of [pool.other.hash] is empty
  --> a.toml:15:1
   |
15 | key = []
   | ^^^
   |
   = help: such as key = ["source"]

error[E003]: `bounded-load` in [pool.other.hash] takes a number or "off", not a string
  --> a.toml:16:16
   |
16 | bounded-load = "none"
   |                ^^^^^^

error[E003]: `key` in [pool.third.hash] takes a list, not a string
  --> a.toml:22:7
   |
22 | key = "sni"
   |       ^^^^^

error[E003]: `hash` in [pool.fourth] takes one table, not a string
  --> a.toml:27:8
   |
27 | hash = "maglev"
   |        ^^^^^^^^
   |
   = help: write it once, as [pool.fourth.hash]

error[E011]: `sni` stands twice in `key` of [pool.fifth.hash]
  --> a.toml:32:6
   |
32 | hash.key = ["sni", "source", "sni"]
   |      ^^^
"#,
    );
}

#[test]
fn what_has_no_effect_is_told() {
    check(
        r#"{LISTENER}
[pool.shop]
balance = "consistent-hash"
backends = ["10.0.0.11:443"]
health.check = "tcp"
slow-start = "10s"
queue-timeout = "1s"
passive = { failures = 0, eject = "10s", max-ejected = 0.2 }
[[listener]]
name = "other"
bind = ["127.0.0.1:444"]
pool = "other"
[pool.other]
backends = ["10.0.0.11:443"]
health.check = "tcp"
queue-timeout = "1s"
max-connections = 5
slow-start = "10s"
[pool.other.hash]
key = ["sni"]
[[listener]]
name = "third"
bind = ["127.0.0.1:445"]
pool = "third"
[pool.third]
balance = "round-robin"
health.check = "tcp"
queue-timeout = "off"
slow-start = "off"
[[pool.third.backend]]
address = "10.0.0.11:443"
weight = 0
max-connections = 5
[[pool.third.backend]]
address = "10.0.0.12:443"
weight = 0
[[listener]]
name = "fourth"
bind = ["127.0.0.1:446"]
pool = "fourth"
[pool.fourth]
balance = "consistent-hash"
health.check = "tcp"
backends = ["10.0.0.11:443"]
[pool.fourth.hash]
key = ["destination"]
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["127.0.0.1:447"]
pool = "fifth"
[pool.fifth]
balance = "consistent-hash"
health.check = "tcp"
backends = ["10.0.0.11:443", "10.0.0.12:443"]
hash.key = ["sni", "alpn"]
panic-threshold = 0.5
"#,
        r#"
warning[W004]: `slow-start` of [pool.shop] has no effect with consistent-hash: its keys would move
  --> a.toml:10:1
   |
10 | slow-start = "10s"
   | ^^^^^^^^^^

warning[W004]: `queue-timeout` of [pool.shop] has no effect: neither the pool nor a backend has max-connections
  --> a.toml:11:1
   |
11 | queue-timeout = "1s"
   | ^^^^^^^^^^^^^

warning[W004]: `eject` of [pool.shop.passive] has no effect: failures is 0
  --> a.toml:12:27
   |
12 | passive = { failures = 0, eject = "10s", max-ejected = 0.2 }
   |                           ^^^^^

warning[W004]: `max-ejected` of [pool.shop.passive] has no effect: failures is 0
  --> a.toml:12:42
   |
12 | passive = { failures = 0, eject = "10s", max-ejected = 0.2 }
   |                                          ^^^^^^^^^^^

warning[W004]: `hash` of [pool.other] has no effect: balance is least-connections
  --> a.toml:23:13
   |
23 | [pool.other.hash]
   |             ^^^^
"#,
    );
}
