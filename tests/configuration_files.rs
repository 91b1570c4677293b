//! The shipped configurations, the schema, the dump, the data form of problems and the exit codes, through the real
//! program. Texts of problems are held by `configuration.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;
use std::sync::LazyLock;
use std::{fs, str};

use serde_json::{Value, json};
use sluice::config::{Key, SECTIONS};
use support::{TempDir, sluice};

const SHIPPED: &str = include_str!("../config/sluice.toml");

/// A file without problems.
const GOOD: &str = r#"
[[listener]]
name = "https"
bind = ["127.0.0.1:443"]
pool = "shop"
[pool.shop]
backends = ["10.0.0.11:443"]
health.check = "tcp"
"#;

/// Keys that are tables of their own.
const TABLES: &[&str] = &["route", "backend", "hash", "health", "passive"];

/// Runs the program in the folder of the sources.
#[track_caller]
fn run(arguments: &[&str]) -> Output {
    sluice().current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().expect("run sluice")
}

/// Runs `check` with `arguments` on a file with this text.
#[track_caller]
fn check(text: &str, arguments: &[&str]) -> Output {
    let dir = TempDir::new();
    fs::write(dir.path().join("a.toml"), text).unwrap();
    sluice().current_dir(dir.path()).args(["check", "-c", "a.toml"]).args(arguments).output().expect("run sluice")
}

#[track_caller]
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// `config/sluice.toml` with all that is commented out in force: a file that uses every key.
fn every_key() -> String {
    let lines = SHIPPED.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if key_of(rest).is_some() => rest,
        _ => line,
    });
    // Files of checks are read together with the configuration.
    lines.collect::<Vec<_>>().join("\n").replace("/etc/sluice/", &format!("{}/", files().display()))
}

/// A folder with the files that `config/sluice.toml` names.
fn files() -> &'static Path {
    static FILES: LazyLock<TempDir> = LazyLock::new(|| {
        let dir = TempDir::new();
        let made = rcgen::generate_simple_self_signed(["sluice".to_owned()]).expect("a certificate");
        for (name, text) in [
            ("backends-ca.pem", made.cert.pem()),
            ("client.pem", made.cert.pem()),
            ("client.key", made.signing_key.serialize_pem()),
            ("redis.password", "secret\n".to_owned()),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    });
    FILES.path()
}

/// The key of a line `key = value`.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-').then_some(key)
}

fn is_built(key: &Key) -> bool {
    format!("{:?}", key.status) == "Built"
}

/// Lines `key = value # comment` with the heading that they stand under, pools as `NAME`.
fn written_keys() -> Vec<(String, &'static str, &'static str)> {
    let mut heading = String::new();
    let mut found = Vec::new();
    for line in SHIPPED.lines() {
        if line.starts_with('[') {
            let (table, _) = line.split_once(" #").unwrap_or((line, ""));
            table.trim_end().clone_into(&mut heading);
            for pool in ["shop", "postgres", "ssh", "mail", "smtp", "cache", "files", "old"] {
                heading = heading.replace(&format!("pool.{pool}"), "pool.NAME");
            }
        } else if let Some(key) = key_of(line.strip_prefix("# ").unwrap_or(line)) {
            found.push((heading.clone(), key, line));
        }
    }
    found
}

#[test]
fn shipped_files_have_neither_errors_nor_warnings() {
    let files: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config")).unwrap().collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        let path = file.unwrap().path();
        let output = run(&["check", "--deny-warnings", "-c", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}:\n{}", path.display(), text(&output.stderr));
    }
    let output = check(&every_key(), &["--deny-warnings"]);
    assert_eq!(output.status.code(), Some(0), "with every key:\n{}", text(&output.stderr));
}

#[test]
fn shipped_file_shows_every_key_with_its_default() {
    let written = written_keys();
    for (heading, key, _) in &written {
        let section = SECTIONS.iter().find(|section| section.heading == heading);
        let section = section.unwrap_or_else(|| panic!("`{heading}` is no table of the configuration"));
        assert!(section.keys.iter().any(|known| known.name == *key), "`{key}` is no key of {heading}");
    }
    for section in SECTIONS {
        let is_table = |key: &Key| TABLES.contains(&key.name) || section.heading == "[global]" && key.name == "relay";
        for key in section.keys.iter().filter(|key| is_built(key) && !is_table(key)) {
            let here = |(heading, name, _): &&(String, &str, &str)| heading == section.heading && *name == key.name;
            let lines: Vec<&str> = written.iter().filter(here).map(|(_, _, line)| *line).collect();
            let place = format!("`{}` in {} of config/sluice.toml", key.name, section.heading);
            assert!(!lines.is_empty(), "there is no {place}");
            let shown = [format!("{} = {}", key.name, key.default), format!("default {}", key.default)];
            let shows_default = lines.iter().any(|line| line.starts_with(&shown[0]) || line.contains(&shown[1]));
            assert!(key.default.is_empty() || shows_default, "{place} does not show the default {}", key.default);
        }
    }
}

/// Section 1 of the contract (design/interface.md): tables and keys, built or not.
const CONTRACT: &[(&str, &str)] = &[
    (
        "[global]",
        "workers status-socket metrics max-connections shutdown-grace ready-delay removed-sessions state-file resolvers relay",
    ),
    // `resolvers` is an addition: which servers are asked for named backends.
    // Named by the issue about moving bytes; the contract has the pool's key of this name.
    ("[global.relay]", "full-reads small-fills small-fill pipe-size turn"),
    // `sample` is an addition.
    ("[log]", "format sessions sample target"),
    (
        "[[listener]]",
        "name bind reuse protocol pool hello-timeout max-hello reject accept-proxy allow deny max-connections \
         max-connections-per-source rate-per-source transparent idle-timeout half-close-timeout user-timeout keepalive route",
    ),
    ("[[listener.route]]", "sni alpn from tls-min first-bytes pool reject"),
    (
        "[pool.NAME]",
        "balance backends connect-timeout connect-tries send-proxy source-address slow-start panic-threshold on-down \
         queue-timeout max-connections first-byte-timeout relay tcp-fast-open preconnect preconnect-idle user-timeout \
         keepalive hash backend health passive",
    ),
    ("[[pool.NAME.backend]]", "address name weight backup max-connections"),
    // The contract has no `seed`; the issue about balancing names it.
    ("[pool.NAME.hash]", "key table bounded-load seed"),
    // The contract names `sni`; the keys of the kinds of checks are named by the issue about health checks.
    (
        "[pool.NAME.health]",
        "check interval fast-interval down-interval timeout rise fall address port sni alpn ca verify certificate key \
         path host status text user database tls password-file name steps send command",
    ),
    ("[pool.NAME.passive]", "failures eject max-ejected"),
];

#[test]
fn keys_are_those_of_the_contract() {
    let headings: Vec<&str> = SECTIONS.iter().map(|section| section.heading).collect();
    assert_eq!(headings, CONTRACT.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
    for (section, (heading, names)) in SECTIONS.iter().zip(CONTRACT) {
        let mut known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        let mut promised: Vec<&str> = names.split_whitespace().collect();
        known.sort_unstable();
        promised.sort_unstable();
        assert_eq!(known, promised, "{heading}");
    }
}

#[test]
fn every_key_that_is_not_built_is_refused_once() {
    let mut config = String::new();
    let mut refused = 0;
    for section in SECTIONS {
        let table = match section.heading {
            "[[listener]]" => "[[listener]]\nname = \"https\"\nbind = [\"127.0.0.1:443\"]\npool = \"shop\"".to_owned(),
            "[[listener.route]]" => "[[listener.route]]\nfrom = [\"10.0.0.0/8\"]\nreject = \"close\"".to_owned(),
            "[pool.NAME]" => "[pool.shop]\nbalance = \"consistent-hash\"".to_owned(),
            "[[pool.NAME.backend]]" => "[[pool.shop.backend]]\naddress = \"10.0.0.11:443\"".to_owned(),
            "[pool.NAME.health]" => "[pool.shop.health]\ncheck = \"tcp\"".to_owned(),
            heading => heading.replace("NAME", "shop"),
        };
        writeln!(config, "{table}").unwrap();
        for key in section.keys.iter().filter(|key| !is_built(key)) {
            writeln!(config, "{} = \"x\"", key.name).unwrap();
            refused += 1;
        }
    }
    let report: Value = serde_json::from_slice(&check(&config, &["--json"]).stdout).expect("JSON");
    let codes: Vec<&str> =
        report["problems"].as_array().unwrap().iter().filter_map(|one| one["code"].as_str()).collect();
    assert_eq!(codes, vec!["E015"; refused], "{report:#}\n{config}");
}

#[test]
fn dump_passes_the_check_and_stays_as_it_is() {
    let (shipped, every_key) = (SHIPPED.to_owned(), every_key());
    let other_words = every_key
        .replace("workers = \"auto\"", "workers = 4")
        .replace("shutdown-grace = \"30s\"", "shutdown-grace = \"off\"")
        .replace("\"keep\"", "\"close\"")
        .replace("target = \"stderr\"", "target = \"/var/log/sluice \\\"quoted\\\".log\"")
        .replace("64KiB", "1000")
        .replace("deny = []", "deny = [\"10.1.2.3/16\", \"::/0\"]")
        .replace("idle-timeout = \"1h\"", "idle-timeout = \"90500ms\"")
        .replace("**.example.org", "**.bücher.example")
        .replace("least-connections", "consistent-hash");
    for config in [GOOD, &shipped, &every_key, &other_words] {
        let first = check(config, &["--dump", "--deny-warnings"]);
        assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
        let dump = text(&first.stdout);
        let second = check(dump, &["--dump", "--deny-warnings"]);
        assert_eq!(second.status.code(), Some(0), "{}\n{dump}", text(&second.stderr));
        assert_eq!(text(&second.stdout), dump);
    }
    // A default in the dump is the default of the table of keys, and what was written survives.
    let dump: toml::Table = text(&check(GOOD, &["--dump"]).stdout).parse().expect("TOML");
    assert_eq!(dump["listener"][0]["idle-timeout"].as_str(), Some("1h"));
    let dump: toml::Table = text(&check(&other_words, &["--dump"]).stdout).parse().expect("TOML");
    assert_eq!(dump["log"]["target"].as_str(), Some("/var/log/sluice \"quoted\".log"));
    assert_eq!(dump["listener"][0]["route"][2]["sni"][0].as_str(), Some("**.bücher.example"));
    assert_eq!(dump["listener"][0]["deny"].to_string(), r#"["10.1.0.0/16", "::/0"]"#);
}

#[test]
fn schema_in_docs_is_the_one_of_this_version() {
    let output = run(&["config", "schema"]);
    assert_eq!(output.status.code(), Some(0));
    let same = text(&output.stdout) == include_str!("../docs/config.schema.json");
    assert!(same, "docs/config.schema.json is old: cargo run -- config schema > docs/config.schema.json");

    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let tables = [
        ("[global]", "/properties/global"),
        ("[global.relay]", "/properties/global/properties/relay"),
        ("[log]", "/properties/log"),
        ("[[listener]]", "/properties/listener/items"),
        ("[[listener.route]]", "/properties/listener/items/properties/route/items"),
        ("[pool.NAME]", "/properties/pool/additionalProperties"),
        ("[[pool.NAME.backend]]", "/properties/pool/additionalProperties/properties/backend/items"),
        ("[pool.NAME.hash]", "/properties/pool/additionalProperties/properties/hash"),
        ("[pool.NAME.health]", "/properties/pool/additionalProperties/properties/health"),
        ("[pool.NAME.passive]", "/properties/pool/additionalProperties/properties/passive"),
    ];
    for (section, (heading, pointer)) in SECTIONS.iter().zip(tables) {
        let table = schema.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
        assert_eq!((section.heading, table["description"].as_str()), (heading, Some(heading)));
        assert_eq!(table["additionalProperties"], false, "{heading}");
        let mut built: Vec<&str> = section.keys.iter().filter(|key| is_built(key)).map(|key| key.name).collect();
        built.sort_unstable();
        let mut properties: Vec<&String> = table["properties"].as_object().unwrap().keys().collect();
        properties.sort_unstable();
        assert_eq!(properties, built, "{heading}");
    }
}

#[test]
fn exit_code_says_how_it_ended() {
    let warned = GOOD.replace("health.check = \"tcp\"\n", "");
    let wrong = format!("log.format = \"jsn\"\n{GOOD}");
    for (config, arguments, code, summary) in [
        (GOOD, &[][..], 0, "0 errors, 0 warnings"),
        (GOOD, &["--deny-warnings"], 0, "0 errors, 0 warnings"),
        (GOOD, &["--quiet"], 0, ""),
        (&warned, &[], 0, "0 errors, 1 warning"),
        (&warned, &["--deny-warnings"], 4, "0 errors, 1 warning"),
        (&warned, &["--deny-warnings", "--quiet"], 4, ""),
        (&wrong, &["--deny-warnings", "--dump"], 3, "1 error, 0 warnings"),
        (&wrong, &["--json"], 3, ""),
    ] {
        let output = check(config, arguments);
        let last = text(&output.stderr).lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert_eq!(last, summary, "{arguments:?}");
        // Data and messages do not mix: without --dump or --json there is nothing on stdout.
        let has_data = arguments.contains(&"--json") || arguments.contains(&"--dump") && code != 3;
        assert_eq!(!output.stdout.is_empty(), has_data, "{arguments:?}: {output:?}");
    }
    assert!(text(&check(&wrong, &["-q"]).stderr).contains("error[E004]"), "errors are shown under --quiet too");
}

#[test]
fn json_report_has_the_same_problems_as_data() {
    let report = |config: &str| serde_json::from_slice::<Value>(&check(config, &["--json"]).stdout).expect("JSON");
    assert_eq!(report(GOOD), json!({ "ok": true, "errors": 0, "warnings": 0, "problems": [], "fixed": [] }));

    // Columns count characters, not bytes.
    let config =
        "log = { target = \"/ü\", format = \"jsn\" }\n".to_owned() + &GOOD.replace("health.check = \"tcp\"", "");
    let report = report(&config);
    assert_eq!((&report["ok"], &report["errors"], &report["warnings"]), (&json!(false), &json!(1), &json!(1)));
    let expected = json!([
        {
            "severity": "error", "code": "E004", "file": "a.toml", "line": 1, "column": 33,
            "message": "`jsn` is not a value of `format`", "hint": "did you mean `json`?",
        },
        {
            "severity": "warning", "code": "W002", "file": "a.toml", "line": 7, "column": 7,
            "message": "[pool.shop] has no health check: live traffic alone decides",
            "hint": "add [pool.shop.health] with check = \"tcp\"",
        },
    ]);
    for (problem, expected) in report["problems"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(problem[field], *value, "{field} of {problem:#}");
        }
    }
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(2));
}

#[test]
fn quick_start_needs_both_ends_and_addresses() {
    for (arguments, expected) in [
        (&["--to", "127.0.0.1:2"][..], "--listen <ADDRESS>"),
        (&["--listen", "127.0.0.1:1"], "--to <ADDRESS>"),
        (&["--listen", "here", "--to", "127.0.0.1:2"], "invalid value 'here' for '--listen <ADDRESS>'"),
        (&["--listen", "127.0.0.1:1", "--to", "10.0.0.11"], "invalid value '10.0.0.11' for '--to <ADDRESS>'"),
        (&["-c", "a.toml", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2"], "cannot be used with"),
        (&["-c", "a.toml", "--to", "127.0.0.1:2"], "cannot be used with '--to <ADDRESS>'"),
        (&["--nonsense"], "unexpected argument '--nonsense'"),
    ] {
        let output = run(&[&["run"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {output:?}");
    }
    // The same check as for a file.
    let output = run(&["run", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1", "--to", "127.0.0.1:2"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("error[E013]: 127.0.0.1:1 is taken"), "{output:?}");
}
