//! What is in `contrib/`: rules that promtool takes and whose own tests pass, a dashboard that Grafana takes, and in both no
//! metric or label that sluice does not have.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::metrics::promtool;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn path(name: &str) -> String {
    root().join("contrib/prometheus").join(name).display().to_string()
}

#[test]
fn rules_are_valid_and_their_tests_pass() {
    let checked = promtool(&["check", "rules", &path("alerts.yaml"), &path("recording.yaml")]);
    assert_eq!(checked.matches("SUCCESS").count(), 2, "{checked}");
    let tested = promtool(&["test", "rules", &path("tests.yaml")]);
    assert!(tested.contains("SUCCESS"), "{tested}");
}

#[test]
fn every_alert_has_a_test_in_which_it_is_due_and_says_what_to_do() {
    let (alerts, tests) = (read("contrib/prometheus/alerts.yaml"), read("contrib/prometheus/tests.yaml"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in &names {
        let due = tests
            .split("alertname: ")
            .skip(1)
            .any(|test| test.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with("exp_alerts:\n")));
        assert!(due, "{name} is never due in tests.yaml");
    }
    for word in ["severity:", "summary:", "description:"] {
        assert_eq!(alerts.lines().filter(|line| line.trim().starts_with(word)).count(), names.len(), "{word}");
    }
}

/// Samples that docs/metrics.md says there are, with their labels. tests/metrics.rs holds that to a scrape.
fn samples() -> BTreeMap<String, BTreeSet<String>> {
    let mut samples = BTreeMap::new();
    for line in read("docs/metrics.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        let mut labels: BTreeSet<String> = labels.split(", ").map(|label| label.trim_matches('`').to_owned()).collect();
        labels.extend(["job", "instance"].map(str::to_owned));
        if kind == "histogram" {
            samples.insert(format!("{name}_sum"), labels.clone());
            samples.insert(format!("{name}_count"), labels.clone());
            labels.insert("le".to_owned());
            samples.insert(format!("{name}_bucket"), labels);
        } else {
            samples.insert(name.to_owned(), labels);
        }
    }
    assert!(samples.len() > 60, "the tables are read");
    samples
}

/// Metrics in a query, and the labels that it picks them by.
fn used(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find("sluice_") {
        let first = rest[..start].rfind(|c| !is_name(c)).map_or(0, |end| end + 1);
        let after = &rest[start..];
        let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
        let name = rest[first..start + end].to_owned();
        rest = &after[end..];
        let picked = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).map_or("", |(inner, _)| inner);
        // Values hold no commas outside of quotes that matter here: each label is followed by its operator.
        let labels = picked.split(',').filter_map(|pick| pick.split(['=', '!']).next().map(str::trim));
        found.push((name, labels.filter(|label| !label.is_empty()).map(str::to_owned).collect()));
    }
    found
}

#[track_caller]
fn knows(samples: &BTreeMap<String, BTreeSet<String>>, recorded: &[String], query: &str) {
    for (name, labels) in used(query) {
        if name.contains(':') {
            assert!(recorded.contains(&name), "no rule records {name}: {query}");
            continue;
        }
        let known = samples.get(&name).unwrap_or_else(|| panic!("there is no {name}: {query}"));
        for label in labels {
            assert!(known.contains(&label), "{name} has no label {label}: {query}");
        }
    }
}

#[test]
fn rules_use_only_what_there_is() {
    let samples = samples();
    let (recording, alerts) = (read("contrib/prometheus/recording.yaml"), read("contrib/prometheus/alerts.yaml"));
    let recorded: Vec<String> =
        recording.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect();
    let mut queries = 0;
    for rules in [&recording, &alerts] {
        for rule in rules.split("\n      - ").skip(1) {
            let (_, query) = rule.split_once("expr: ").expect("a query");
            let query = query.split("\n        for:").next().unwrap().split("\n        labels:").next().unwrap();
            knows(&samples, &recorded, query);
            queries += 1;
        }
    }
    assert!(queries >= 20, "{queries}");
}

#[test]
fn dashboard_is_one_and_asks_only_for_what_there_is() {
    let samples = samples();
    let dashboard: Value = serde_json::from_str(&read("contrib/grafana/sluice.json")).unwrap();
    // Grafana 9 writes version 36 and 37; later ones read them.
    assert_eq!(
        (&dashboard["schemaVersion"], &dashboard["uid"], &dashboard["title"]),
        (&37.into(), &"sluice".into(), &"sluice".into())
    );
    assert!(dashboard.get("id").is_none() && dashboard.get("__inputs").is_none(), "it is provisioned as it is");
    let variables: BTreeSet<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    for variable in dashboard["templating"]["list"].as_array().unwrap().iter().skip(1) {
        knows(&samples, &[], variable["definition"].as_str().unwrap());
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places, mut queries) = (BTreeSet::new(), Vec::new(), 0);
    for panel in panels {
        let number = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (x, y, w, h) = (number("x"), number("y"), number("w"), number("h"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{}", panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has an id of its own", panel["title"]);
        let overlaps = |other: &(u64, u64, u64, u64)| {
            x < other.0 + other.2 && other.0 < x + w && y < other.1 + other.3 && other.1 < y + h
        };
        assert!(!places.iter().any(overlaps), "{} lies on another", panel["title"]);
        places.push((x, y, w, h));
        if panel["type"] == "row" {
            continue;
        }
        assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()), "{}", panel["type"]);
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let query = target["expr"].as_str().unwrap();
            knows(&samples, &[], query);
            let own = query
                .split('$')
                .skip(1)
                .map(|after| after.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap());
            for name in own {
                assert!(name == "__rate_interval" || variables.contains(name), "${name} in {query}");
            }
            queries += 1;
        }
    }
    assert!(queries >= 25, "{queries} queries");
    knows(&samples, &[], dashboard["annotations"]["list"][0]["expr"].as_str().unwrap());
}

#[test]
fn queries_of_the_dashboard_are_valid() {
    let dashboard: Value = serde_json::from_str(&read("contrib/grafana/sluice.json")).unwrap();
    let targets = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    // As rules, which promtool parses; variables as Grafana would fill them in.
    let rules =
        targets.enumerate().fold(String::from("groups:\n- name: dashboard\n  rules:\n"), |rules, (number, target)| {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
            rules + &format!("  - record: query:{number}\n    expr: {}\n", serde_json::to_string(&query).unwrap())
        });
    let dir = support::TempDir::new();
    let file = dir.path().join("rules.yaml");
    fs::write(&file, rules.replace("query:", "query_number:r")).unwrap();
    let checked = promtool(&["check", "rules", &file.display().to_string()]);
    assert!(checked.contains("SUCCESS"), "{checked}");
}
