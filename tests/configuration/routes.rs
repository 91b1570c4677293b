//! Problems of routes: server names, conditions, targets, and those that can never match.

use super::check;

#[test]
fn routes_that_can_never_match_are_warned_of() {
    check(
        r#"[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
[[listener.route]]
sni = ["**.test"]
pool = "shop"
[[listener.route]] # more specific: fine
sni = ["a.test", "*.test"]
pool = "shop"
[[listener.route]]
sni = ["A.test."]
alpn = ["h2"]
reject = "close"
[[listener.route]] # one name is still free: fine
sni = ["a.test", "b.test"]
tls-min = "1.2"
reject = "close"
[[listener.route]]
sni = ["b.test"]
tls-min = "1.3"
reject = "close"
[[listener.route]] # only some sources: fine
from = ["10.0.0.0/8"]
pool = "shop"
[[listener.route]]
pool = "shop"
[[listener.route]]
alpn = ["h2"]
pool = "shop"
{POOL}
"#,
        "
warning[W001]: route of listener `https` can never match: the one at a.toml:7 takes all of it
  --> a.toml:10:1
   |
10 | [[listener.route]]
   | ^^^^^^^^^^^^^^^^^^
   |
   = help: among equals the first whose conditions hold wins

warning[W001]: route of listener `https` can never match: the one at a.toml:14 takes all of it
  --> a.toml:18:1
   |
18 | [[listener.route]]
   | ^^^^^^^^^^^^^^^^^^
   |
   = help: among equals the first whose conditions hold wins

warning[W001]: route of listener `https` can never match: the one at a.toml:25 takes all of it
  --> a.toml:27:1
   |
27 | [[listener.route]]
   | ^^^^^^^^^^^^^^^^^^
   |
   = help: among equals the first whose conditions hold wins
",
    );
}

#[test]
fn what_follows_from_an_error_is_not_warned_of() {
    // Neither that the second route can never match, nor that nothing uses the pool.
    check(
        r#"[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
[[listener.route]]
from = ["office"]
pool = "shop"
[[listener.route]]
alpn = ["h2"]
pool = "shop"
[[listener.route]]
pool = "spaer"
{POOL}
[pool.spare]
backends = ["10.0.0.12:443"]
health.check = "tcp"
"#,
        r#"
error[E008]: `office` is not a prefix for `from`
 --> a.toml:5:9
  |
5 | from = ["office"]
  |         ^^^^^^^^
  |
  = help: address/length, such as "10.0.0.0/8" or "2001:db8::/32"

error[E012]: pool `spaer` of route of listener `https` does not exist
  --> a.toml:11:8
   |
11 | pool = "spaer"
   |        ^^^^^^^
   |
   = help: did you mean `spare`?
"#,
    );
}

#[test]
fn routes_need_one_target() {
    check(
        r#"{LISTENER}
[[listener.route]]
sni = ["a.test"]
pool = "shop"
reject = "close"
[[listener.route]]
sni = ["b.test"]
{POOL}
"#,
        r#"
error[E017]: route of listener `https` has both `pool` and `reject`
 --> a.toml:9:1
  |
9 | reject = "close"
  | ^^^^^^
  |
  = help: remove one of them

error[E010]: route of listener `https` has no `pool`
  --> a.toml:10:1
   |
10 | [[listener.route]]
   | ^^^^^^^^^^^^^^^^^^
   |
   = help: a route needs pool = "NAME" or reject = "alert"
"#,
    );
}

#[test]
fn protocol_tcp_has_nothing_to_inspect_and_sends_no_alert() {
    check(
        r#"[[listener]]
name = "postgres"
bind = ["127.0.0.1:5432"]
protocol = "tcp"
pool = "shop"
hello-timeout = "1s"
max-hello = 1024
reject = "alert"
[[listener.route]]
sni = ["a.test"]
alpn = ["h2"]
tls-min = "1.2"
reject = "alert"
{POOL}
"#,
        r#"
warning[W004]: `hello-timeout` of listener `postgres` has no effect: protocol tcp reads no hello
 --> a.toml:6:1
  |
6 | hello-timeout = "1s"
  | ^^^^^^^^^^^^^

warning[W004]: `max-hello` of listener `postgres` has no effect: protocol tcp reads no hello
 --> a.toml:7:1
  |
7 | max-hello = 1024
  | ^^^^^^^^^

error[E017]: `reject = "alert"` of listener `postgres` needs protocol tls or postgres
 --> a.toml:8:10
  |
8 | reject = "alert"
  |          ^^^^^^^
  |
  = help: use "reset" or "close"

error[E017]: `sni` in route of listener `postgres` needs protocol tls or postgres
  --> a.toml:10:1
   |
10 | sni = ["a.test"]
   | ^^^

error[E017]: `alpn` in route of listener `postgres` needs protocol tls or postgres
  --> a.toml:11:1
   |
11 | alpn = ["h2"]
   | ^^^^

error[E017]: `tls-min` in route of listener `postgres` needs protocol tls or postgres
  --> a.toml:12:1
   |
12 | tls-min = "1.2"
   | ^^^^^^^

error[E017]: `reject = "alert"` in route of listener `postgres` needs protocol tls or postgres
  --> a.toml:13:10
   |
13 | reject = "alert"
   |          ^^^^^^^
   |
   = help: use "reset" or "close"
"#,
    );
}

#[test]
fn server_names_are_host_names_with_a_leading_star_at_most() {
    check(
        r#"{LISTENER}
[[listener.route]]
sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
alpn = ["h2", ""]
pool = "shop"
[[listener.route]]
sni = []
alpn = []
from = []
pool = "shop"
{POOL}
"#,
        r#"
error[E016]: `*` is not a server name pattern: a star may only stand as a leading `*.` or `**.`
 --> a.toml:7:21
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                     ^^^

error[E016]: `a.*.test` is not a server name pattern: a star may only stand as a leading `*.` or `**.`
 --> a.toml:7:26
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                          ^^^^^^^^^^

error[E016]: `10.0.0.1` is not a server name pattern: a server name is never an address
 --> a.toml:7:38
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                                      ^^^^^^^^^^

error[E016]: `a b.test` is not a server name pattern: has a control character or a space
 --> a.toml:7:50
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                                                  ^^^^^^^^^^

error[E016]: `a..test` is not a server name pattern: has an empty label
 --> a.toml:7:62
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                                                              ^^^^^^^^^

error[E016]: `shop.test:443` is not a server name pattern: has a character that no host name has
 --> a.toml:7:73
  |
7 | sni = ["shop.test", "*", "a.*.test", "10.0.0.1", "a b.test", "a..test", "shop.test:443"]
  |                                                                         ^^^^^^^^^^^^^^^

error[E009]: a protocol in `alpn` has 0 bytes, outside 1 to 255
 --> a.toml:8:15
  |
8 | alpn = ["h2", ""]
  |               ^^

error[E010]: `sni` in route of listener `https` is empty
  --> a.toml:11:1
   |
11 | sni = []
   | ^^^
   |
   = help: leave the key out for no condition

error[E010]: `alpn` in route of listener `https` is empty
  --> a.toml:12:1
   |
12 | alpn = []
   | ^^^^
   |
   = help: leave the key out for no condition

error[E010]: `from` in route of listener `https` is empty
  --> a.toml:13:1
   |
13 | from = []
   | ^^^^
   |
   = help: leave the key out for no condition
"#,
    );
}
