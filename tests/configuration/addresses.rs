//! Problems of addresses and prefixes: those that are none, are not built, can never match or are taken.

use super::check;

#[test]
fn addresses_need_a_port_where_one_belongs() {
    check(
        r#"[global]
metrics = "9117"
[[listener]]
name = "https"
bind = ["127.0.0.1", "0.0.0.0:99999", "::1:443"]
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:0", "10.0.0.256:443"]
[pool.shop.health]
check = "tcp"
address = "10.0.0.11:443"
"#,
        r#"
error[E007]: `9117` is not an address with a port for `metrics`
 --> a.toml:2:11
  |
2 | metrics = "9117"
  |           ^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E007]: `127.0.0.1` is not an address with a port for `bind`
 --> a.toml:5:9
  |
5 | bind = ["127.0.0.1", "0.0.0.0:99999", "::1:443"]
  |         ^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E007]: `0.0.0.0:99999` is not an address with a port for `bind`
 --> a.toml:5:22
  |
5 | bind = ["127.0.0.1", "0.0.0.0:99999", "::1:443"]
  |                      ^^^^^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E007]: `::1:443` is not an address with a port for `bind`
 --> a.toml:5:39
  |
5 | bind = ["127.0.0.1", "0.0.0.0:99999", "::1:443"]
  |                                       ^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E009]: backend 10.0.0.11:0 has port 0
 --> a.toml:8:13
  |
8 | backends = ["10.0.0.11:0", "10.0.0.256:443"]
  |             ^^^^^^^^^^^^^

error[E007]: `10.0.0.256:443` is not an address with a port for `backends`
 --> a.toml:8:28
  |
8 | backends = ["10.0.0.11:0", "10.0.0.256:443"]
  |                            ^^^^^^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443", "[2001:db8::1]:443" or "shop.example.com:443"

error[E007]: `10.0.0.11:443` is not an address for `address`
  --> a.toml:11:11
   |
11 | address = "10.0.0.11:443"
   |           ^^^^^^^^^^^^^^^
   |
   = help: such as "10.0.0.11" or "2001:db8::1"
"#,
    );
}

#[test]
fn prefixes_have_a_length() {
    check(
        r#"{LISTENER}
allow = ["10.0.0.0/33", "10.0.0.1", "2001:db8::1"]
deny = ["office"]
[[listener.route]]
from = ["10.0.0.0/8", "fe80::/200"]
pool = "shop"
{POOL}
"#,
        r#"
error[E008]: `10.0.0.0/33` is not a prefix for `allow`
 --> a.toml:6:10
  |
6 | allow = ["10.0.0.0/33", "10.0.0.1", "2001:db8::1"]
  |          ^^^^^^^^^^^^^
  |
  = help: address/length, such as "10.0.0.0/8" or "2001:db8::/32"

error[E008]: `10.0.0.1` is not a prefix for `allow`
 --> a.toml:6:25
  |
6 | allow = ["10.0.0.0/33", "10.0.0.1", "2001:db8::1"]
  |                         ^^^^^^^^^^
  |
  = help: a single address is "10.0.0.1/32"

error[E008]: `2001:db8::1` is not a prefix for `allow`
 --> a.toml:6:37
  |
6 | allow = ["10.0.0.0/33", "10.0.0.1", "2001:db8::1"]
  |                                     ^^^^^^^^^^^^^
  |
  = help: a single address is "2001:db8::1/128"

error[E008]: `office` is not a prefix for `deny`
 --> a.toml:7:9
  |
7 | deny = ["office"]
  |         ^^^^^^^^
  |
  = help: address/length, such as "10.0.0.0/8" or "2001:db8::/32"

error[E008]: `fe80::/200` is not a prefix for `from`
 --> a.toml:9:23
  |
9 | from = ["10.0.0.0/8", "fe80::/200"]
  |                       ^^^^^^^^^^^^
  |
  = help: address/length, such as "10.0.0.0/8" or "2001:db8::/32"
"#,
    );
}

#[test]
fn binds_that_overlap_are_refused() {
    check(
        r#"[[listener]]
name = "https"
bind = ["0.0.0.0:443", "[::]:443", "127.0.0.1:8443", "[::1]:8443", "127.0.0.1:0", "127.0.0.1:0"]
pool = "shop"
[[listener]]
name = "again"
bind = ["127.0.0.1:8443", "127.0.0.2:8443", "10.0.0.1:443", "[::1]:443"]
pool = "shop"
{POOL}
"#,
        r#"
error[E013]: 127.0.0.1:8443 is taken by 127.0.0.1:8443 already
 --> a.toml:7:9
  |
3 | bind = ["0.0.0.0:443", "[::]:443", "127.0.0.1:8443", "[::1]:8443", "127.0.0.1:0", "127.0.0.1:0"]
  |                                    ---------------- first here
...
7 | bind = ["127.0.0.1:8443", "127.0.0.2:8443", "10.0.0.1:443", "[::1]:443"]
  |         ^^^^^^^^^^^^^^^^

error[E013]: 10.0.0.1:443 is taken by 0.0.0.0:443 already
 --> a.toml:7:45
  |
3 | bind = ["0.0.0.0:443", "[::]:443", "127.0.0.1:8443", "[::1]:8443", "127.0.0.1:0", "127.0.0.1:0"]
  |         ------------- first here
...
7 | bind = ["127.0.0.1:8443", "127.0.0.2:8443", "10.0.0.1:443", "[::1]:443"]
  |                                             ^^^^^^^^^^^^^^

error[E013]: [::1]:443 is taken by [::]:443 already
 --> a.toml:7:61
  |
3 | bind = ["0.0.0.0:443", "[::]:443", "127.0.0.1:8443", "[::1]:8443", "127.0.0.1:0", "127.0.0.1:0"]
  |                        ---------- first here
...
7 | bind = ["127.0.0.1:8443", "127.0.0.2:8443", "10.0.0.1:443", "[::1]:443"]
  |                                                             ^^^^^^^^^^^
"#,
    );
}

#[test]
fn names_are_for_backends_only() {
    check(
        r#"[global]
metrics = "localhost:9"
resolvers = ["127.0.0.1", "127.0.0.1:0"]
[[listener]]
name = "https"
bind = ["localhost:443"]
pool = "shop"
[pool.shop]
backends = ["localhost:443"]
health.check = "tcp"
"#,
        r#"
error[E007]: `localhost:9` is not an address with a port for `metrics`
 --> a.toml:2:11
  |
2 | metrics = "localhost:9"
  |           ^^^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E007]: `127.0.0.1` is not an address with a port for `resolvers`
 --> a.toml:3:14
  |
3 | resolvers = ["127.0.0.1", "127.0.0.1:0"]
  |              ^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"

error[E009]: resolver 127.0.0.1:0 has port 0
 --> a.toml:3:27
  |
3 | resolvers = ["127.0.0.1", "127.0.0.1:0"]
  |                           ^^^^^^^^^^^^^

error[E007]: `localhost:443` is not an address with a port for `bind`
 --> a.toml:6:9
  |
6 | bind = ["localhost:443"]
  |         ^^^^^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443" or "[2001:db8::1]:443"
"#,
    );
}

#[test]
fn ipv4_inside_ipv6_never_matches_and_is_refused() {
    check(
        r#"[[listener]]
name = "https"
bind = ["[::ffff:127.0.0.1]:443"]
pool = "shop"
allow = ["::ffff:10.0.0.0/104"]
{POOL}
"#,
        r#"
error[E007]: cannot listen on [::ffff:127.0.0.1]:443: IPv6 sockets take no IPv4
 --> a.toml:3:9
  |
3 | bind = ["[::ffff:127.0.0.1]:443"]
  |         ^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write "127.0.0.1:443"

error[E008]: `::ffff:10.0.0.0/104` in `allow` can never match: such clients count as IPv4
 --> a.toml:5:10
  |
5 | allow = ["::ffff:10.0.0.0/104"]
  |          ^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write "10.0.0.0/8"
"#,
    );
}

#[test]
fn metrics_and_listeners_need_addresses_of_their_own() {
    check(
        r#"[global]
metrics = "127.0.0.1:443"
{LISTENER}
{POOL}
"#,
        r#"
error[E013]: 127.0.0.1:443 is taken by `metrics` in [global] already
 --> a.toml:5:9
  |
5 | bind = ["127.0.0.1:443"]
  |         ^^^^^^^^^^^^^^^
"#,
    );
}
