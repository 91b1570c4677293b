//! Problems between tables: names defined twice, pools that do not exist, are empty or are not used.

use super::{POOL, check, check_files};

#[test]
fn names_defined_twice_in_one_file_show_both_places_even_without_a_bind() {
    check(
        r#"{LISTENER}
[[listener]]
name = "https"
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:443", "10.0.0.12:443", "10.0.0.11:443"]
health.check = "tcp"
[[pool.shop.backend]]
address = "10.0.0.12:443"
[[pool.shop.backend]]
address = "10.0.0.12:443"
name = "shop-3"
"#,
        r#"
error[E010]: listener `https` has no `bind`
 --> a.toml:6:1
  |
6 | [[listener]]
  | ^^^^^^^^^^^^
  |
  = help: such as bind = ["0.0.0.0:443", "[::]:443"]

error[E011]: listener `https` is defined twice
 --> a.toml:7:8
  |
2 | name = "https"
  |        ------- first here
...
7 | name = "https"
  |        ^^^^^^^

error[E011]: backend `10.0.0.11:443` stands twice in [pool.shop]
  --> a.toml:10:47
   |
10 | backends = ["10.0.0.11:443", "10.0.0.12:443", "10.0.0.11:443"]
   |             --------------- first here        ^^^^^^^^^^^^^^^

error[E011]: backend `10.0.0.12:443` stands twice in [pool.shop]
  --> a.toml:13:11
   |
10 | backends = ["10.0.0.11:443", "10.0.0.12:443", "10.0.0.11:443"]
   |                              --------------- first here
...
13 | address = "10.0.0.12:443"
   |           ^^^^^^^^^^^^^^^
"#,
    );
}

#[test]
fn unknown_pools_are_reported_with_the_nearest_one() {
    check(
        r#"[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "shpo"
[[listener.route]]
sni = ["db.test"]
pool = "database"
[[listener.route]]
sni = ["shop.test"]
pool = "shop"
{POOL}
"#,
        r#"
error[E012]: pool `shpo` of listener `https` does not exist
 --> a.toml:4:8
  |
4 | pool = "shpo"
  |        ^^^^^^
  |
  = help: did you mean `shop`?

error[E012]: pool `database` of route of listener `https` does not exist
 --> a.toml:7:8
  |
7 | pool = "database"
  |        ^^^^^^^^^^
  |
  = help: add [pool.database] with backends
"#,
    );
}

#[test]
fn pools_without_backends_are_refused() {
    check(
        r#"{LISTENER}
[[listener.route]]
sni = ["other.test"]
pool = "other"
[pool.shop]
health.check = "tcp"
[pool.other]
backends = []
health.check = "tcp"
"#,
        r#"
error[E014]: [pool.shop] has no backends
 --> a.toml:9:7
  |
9 | [pool.shop]
  |       ^^^^
  |
  = help: add backends = ["ADDRESS:PORT"]

error[E014]: [pool.other] has no backends
  --> a.toml:11:7
   |
11 | [pool.other]
   |       ^^^^^
   |
   = help: add backends = ["ADDRESS:PORT"]
"#,
    );
}

#[test]
fn pools_without_check_or_use_are_warned_of() {
    check(
        r#"{LISTENER}
[[listener.route]]
sni = ["off.test"]
pool = "off"
[pool.off]
backends = ["10.0.0.13:443"]
health.check = "off"
[pool.shop]
backends = ["10.0.0.11:443"]
[pool.spare]
backends = ["10.0.0.12:443"]
health.check = "tcp"
"#,
        r#"
warning[W002]: [pool.off] has no health check: live traffic alone decides
  --> a.toml:11:1
   |
11 | health.check = "off"
   | ^^^^^^
   |
   = help: set check = "tcp"

warning[W002]: [pool.shop] has no health check: live traffic alone decides
  --> a.toml:12:7
   |
12 | [pool.shop]
   |       ^^^^
   |
   = help: add [pool.shop.health] with check = "tcp"

warning[W003]: nothing uses pool `spare`
  --> a.toml:14:7
   |
14 | [pool.spare]
   |       ^^^^^
"#,
    );
}

#[test]
fn names_defined_twice_in_two_files_show_both_places() {
    let second = "{LISTENER}[pool.shop]\nbackends = []\n[log]\n";
    check_files(
        &[("a.toml", "[log]\n{LISTENER}{POOL}"), ("b.toml", second)],
        &["-c", "a.toml", "-c", "b.toml"],
        r#"
error[E011]: listener `https` is defined twice
 --> b.toml:2:8
  |
2 | name = "https"
  |        ^^^^^^^
  |
 ::: a.toml:3:8
  |
3 | name = "https"
  |        ------- first here

error[E013]: 127.0.0.1:443 is taken by 127.0.0.1:443 already
 --> b.toml:3:9
  |
3 | bind = ["127.0.0.1:443"]
  |         ^^^^^^^^^^^^^^^
  |
 ::: a.toml:4:9
  |
4 | bind = ["127.0.0.1:443"]
  |         --------------- first here

error[E011]: pool `shop` is defined twice
 --> b.toml:5:7
  |
5 | [pool.shop]
  |       ^^^^
  |
 ::: a.toml:6:7
  |
6 | [pool.shop]
  |       ---- first here

error[E011]: [log] is defined twice
 --> b.toml:7:1
  |
7 | [log]
  | ^^^^^
  |
 ::: a.toml:1:1
  |
1 | [log]
  | ----- first here
"#,
    );
}

#[test]
fn pools_too_large_for_their_method_are_refused() {
    let backends: Vec<String> = (0..7000).map(|n| format!("\"10.0.{}.{}:443\"", n / 256, n % 256)).collect();
    let pool = POOL.replace("\"10.0.0.11:443\"", &backends.join(",\n"));
    check(
        &format!("{{LISTENER}}{pool}balance = \"consistent-hash\"\n"),
        "
error[E019]: [pool.shop]: 7000 backends are too many for consistent hashing: the largest table, 655373 slots, keeps shares within 1 % up to 6553
 --> a.toml:5:7
  |
5 | [pool.shop]
  |       ^^^^
",
    );
}
