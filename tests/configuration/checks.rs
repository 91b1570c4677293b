//! Problems of health checks: settings that cannot be, files that are not what they should be, keys of other kinds.

use super::{check, check_files};

#[test]
fn files_of_a_check_are_read_with_the_configuration() {
    check_files(
        &[
            (
                "a.toml",
                r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "tls"
ca = "no-such.pem"
certificate = "empty.pem"
key = "empty.pem"
[[listener]]
name = "other"
bind = ["127.0.0.1:444"]
pool = "other"
[pool.other]
backends = ["10.0.0.11:443"]
[pool.other.health]
check = "https"
ca = "empty.pem"
certificate = "."
"#,
            ),
            ("empty.pem", "nothing\n"),
        ],
        &["-c", "a.toml"],
        r#"
error[E020]: cannot read `ca` of [pool.shop.health], no-such.pem: No such file or directory (os error 2)
  --> a.toml:10:6
   |
10 | ca = "no-such.pem"
   |      ^^^^^^^^^^^^^

error[E020]: `certificate` of [pool.shop.health] has no certificate in PEM: empty.pem
  --> a.toml:11:1
   |
11 | certificate = "empty.pem"
   | ^^^^^^^^^^^

error[E020]: `ca` of [pool.other.health] has no certificate of an authority in PEM: empty.pem
  --> a.toml:21:6
   |
21 | ca = "empty.pem"
   |      ^^^^^^^^^^^

error[E010]: `certificate` of [pool.other.health] needs `key`
  --> a.toml:22:1
   |
22 | certificate = "."
   | ^^^^^^^^^^^

error[E020]: cannot read `certificate` of [pool.other.health], .: not a file
  --> a.toml:22:15
   |
22 | certificate = "."
   |               ^^^
"#,
    );
}

#[test]
fn impossible_requests_are_told() {
    check(
        r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "https"
path = "healthz"
host = "a b"
status = ["200", "20", "600", "399-200", "abc"]
text = ""
sni = "*.example.com"
"#,
        r#"
error[E021]: `healthz` is not a path for `path`
  --> a.toml:10:8
   |
10 | path = "healthz"
   |        ^^^^^^^^^
   |
   = help: it begins with a slash and has neither spaces nor characters outside ASCII

error[E021]: `a b` is not a host for `host`
  --> a.toml:11:8
   |
11 | host = "a b"
   |        ^^^^^
   |
   = help: such as "shop.example.com"

error[E021]: `20` is not a status code for `status`
  --> a.toml:12:18
   |
12 | status = ["200", "20", "600", "399-200", "abc"]
   |                  ^^^^
   |
   = help: such as "200" or "200-399"

error[E021]: `600` is not a status code for `status`
  --> a.toml:12:24
   |
12 | status = ["200", "20", "600", "399-200", "abc"]
   |                        ^^^^^
   |
   = help: such as "200" or "200-399"

error[E021]: `399-200` is not a status code for `status`
  --> a.toml:12:31
   |
12 | status = ["200", "20", "600", "399-200", "abc"]
   |                               ^^^^^^^^^
   |
   = help: such as "200" or "200-399"

error[E021]: `abc` is not a status code for `status`
  --> a.toml:12:42
   |
12 | status = ["200", "20", "600", "399-200", "abc"]
   |                                          ^^^^^
   |
   = help: such as "200" or "200-399"

error[E021]: `text` of [pool.shop.health] is empty
  --> a.toml:13:8
   |
13 | text = ""
   |        ^^

error[E016]: `*.example.com` is not a server name: a check needs one name
  --> a.toml:14:7
   |
14 | sni = "*.example.com"
   |       ^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn impossible_settings_are_told() {
    check(
        r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "tls"
fast-interval = "3s"
verify = "nome"
alpn = [""]
[[listener]]
name = "other"
bind = ["127.0.0.1:444"]
pool = "other"
[pool.other]
backends = ["10.0.0.11:443"]
[pool.other.health]
check = "http"
status = []
"#,
        r#"
warning[W004]: `fast-interval` of [pool.shop.health] has no effect: it is above interval, which is 2s
  --> a.toml:10:17
   |
10 | fast-interval = "3s"
   |                 ^^^^

error[E004]: `nome` is not a value of `verify`
  --> a.toml:11:10
   |
11 | verify = "nome"
   |          ^^^^^^
   |
   = help: did you mean `none`?

error[E009]: a protocol of `alpn` has 0 bytes, outside 1 to 255
  --> a.toml:12:9
   |
12 | alpn = [""]
   |         ^^

error[E021]: `status` of [pool.other.health] is empty: no answer would do
  --> a.toml:21:10
   |
21 | status = []
   |          ^^
"#,
    );
}

#[test]
fn keys_without_effect_are_told() {
    check(
        r#"{LISTENER}
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.shop.health]
check = "tcp"
path = "/healthz"
sni = "shop.example.com"
[[listener]]
name = "other"
bind = ["127.0.0.1:444"]
pool = "other"
[pool.other]
backends = ["10.0.0.11:443"]
[pool.other.health]
check = "tls"
verify = "none"
ca = "system"
"#,
        r#"
warning[W004]: `path` of [pool.shop.health] has no effect: check is "tcp"
  --> a.toml:10:1
   |
10 | path = "/healthz"
   | ^^^^
   |
   = help: it is a key of `http`, `https`

warning[W004]: `sni` of [pool.shop.health] has no effect: check is "tcp"
  --> a.toml:11:1
   |
11 | sni = "shop.example.com"
   | ^^^
   |
   = help: it is a key of `tls-hello`, `tls`, `https`, `postgres`, `redis`, `smtp`, `ldap`, `expect`

warning[W004]: `ca` of [pool.other.health] has no effect: verify is "none"
  --> a.toml:21:1
   |
21 | ca = "system"
   | ^^
"#,
    );
}
