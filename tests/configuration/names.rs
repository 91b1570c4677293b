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
        "",
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
