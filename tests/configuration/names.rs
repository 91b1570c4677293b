//! Problems of backends that are named; nobody is asked for a name by `check`.

use super::{TempDir, check, run_in};

#[test]
fn names_of_backends_are_hosts_with_ports_or_services() {
    check(
        r#"{LISTENER}
[pool.shop]
health.check = "tcp"
backends = ["shop.example.com", "shop.example.com:0", "shop..example.com:443", "_https._tcp.example.com:443"]
[[pool.shop.backend]]
address = "srv:https.example.com"
[[pool.shop.backend]]
address = "srv:_https._tcp.example.com:443"
[[pool.shop.backend]]
address = "srv:_https._tcp.example.com"
weight = 10
backup = true
"#,
        r#"
error[E007]: `shop.example.com` is not an address with a port for `backends`
 --> a.toml:8:13
  |
8 | backends = ["shop.example.com", "shop.example.com:0", "shop..example.com:443", "_https._tcp.example.com:443"]
  |             ^^^^^^^^^^^^^^^^^^
  |
  = help: such as "10.0.0.11:443", "[2001:db8::1]:443" or "shop.example.com:443"

error[E007]: `shop.example.com:0` in `backends` names nothing: the port is not 1 to 65535
 --> a.toml:8:33
  |
8 | backends = ["shop.example.com", "shop.example.com:0", "shop..example.com:443", "_https._tcp.example.com:443"]
  |                                 ^^^^^^^^^^^^^^^^^^^^
  |
  = help: such as "shop.example.com:443"

error[E007]: `shop..example.com:443` in `backends` names nothing: the name has an empty label
 --> a.toml:8:55
  |
8 | backends = ["shop.example.com", "shop.example.com:0", "shop..example.com:443", "_https._tcp.example.com:443"]
  |                                                       ^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: such as "shop.example.com:443"

error[E007]: `_https._tcp.example.com:443` in `backends` is no host: a service needs `srv:` before it and no port
 --> a.toml:8:80
  |
8 | backends = ["shop.example.com", "shop.example.com:0", "shop..example.com:443", "_https._tcp.example.com:443"]
  |                                                                                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write "srv:_https._tcp.example.com"

error[E007]: `srv:https.example.com` in `address` names nothing: a service begins with two labels like `_https._tcp`
  --> a.toml:10:11
   |
10 | address = "srv:https.example.com"
   |           ^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: such as "srv:_https._tcp.shop.example.com"

error[E007]: `srv:_https._tcp.example.com:443` in `address` names nothing: the records of a service have ports of their own
  --> a.toml:12:11
   |
12 | address = "srv:_https._tcp.example.com:443"
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   |
   = help: write "srv:_https._tcp.example.com"

error[E017]: `weight` of backend of [pool.shop] beside `srv:_https._tcp.example.com`: its records have weights
  --> a.toml:15:1
   |
15 | weight = 10
   | ^^^^^^
   |
   = help: remove it

error[E017]: `backup` of backend of [pool.shop] beside `srv:_https._tcp.example.com`: its records have priorities
  --> a.toml:16:1
   |
16 | backup = true
   | ^^^^^^
   |
   = help: remove it
"#,
    );
}

#[test]
fn good_names_pass_the_check_offline_and_are_dumped_as_they_were_meant() {
    let long = format!("{}.example.com:443", "a".repeat(60));
    let config = format!(
        "[[listener]]\nname = \"https\"\nbind = [\"127.0.0.1:443\"]\npool = \"shop\"\n\
         [pool.shop]\nhealth.check = \"tcp\"\nbackends = [\"Bücher.example:443\", \"{long}\"]\n\
         [[pool.shop.backend]]\naddress = \"srv:_https._tcp.example.com\"\nname = \"s\"\n"
    );
    let dir = TempDir::new();
    std::fs::write(dir.path().join("a.toml"), config).unwrap();
    let dump = run_in(dir.path(), &["-c", "a.toml", "--dump", "--deny-warnings"]);
    let dump = String::from_utf8(dump.stdout).unwrap();
    for line in ["\"xn--bcher-kva.example:443\"", long.as_str(), "\"srv:_https._tcp.example.com\""] {
        assert!(dump.contains(line), "{line} in\n{dump}");
    }
    std::fs::write(dir.path().join("b.toml"), &dump).unwrap();
    let again = run_in(dir.path(), &["-c", "b.toml", "--dump", "--deny-warnings"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), dump, "{}", String::from_utf8_lossy(&again.stderr));
}
