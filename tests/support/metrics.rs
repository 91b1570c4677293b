//! What a scrape holds, read by families; the real `promtool`, and how a scraper asks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use super::servers::{answer, finish, program};
use super::{Daemon, connect};

/// A family: its type, the labels of its samples, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    pub labels: BTreeSet<String>,
    pub samples: usize,
}

/// Reads Prometheus' text format strictly: every sample belongs to the family before it.
#[track_caller]
pub fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let (family, kind) = head.split_once(' ').unwrap();
            family.clone_into(&mut name);
            let fresh = Family { kind: kind.to_owned(), ..Family::default() };
            assert!(families.insert(name.clone(), fresh).is_none(), "{name} twice");
        } else if !line.starts_with("# ") {
            let family = families.get_mut(&name).unwrap_or_else(|| panic!("no family before {line}"));
            let (sample, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
            let (sample, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            let suffix = sample.strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{line} in {name}"));
            let allowed: &[&str] = if family.kind == "histogram" { &["_sum", "_count", "_bucket"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line} in {name}");
            family.samples += 1;
            family.labels.extend(label_names(labels).into_iter().filter(|label| label != "le"));
        }
    }
    families
}

/// Names of labels in `a="…",b="…"}`; values may hold anything, escaped.
fn label_names(labels: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = labels.trim_end_matches('}');
    while let Some((name, after)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = after.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        rest = &after[end.expect("a value ends") + 1..];
    }
    names
}

/// One request over TCP: head and body.
#[track_caller]
pub fn request(at: SocketAddr, head: &str) -> (String, String) {
    let mut stream = connect(at);
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

/// All metrics as text.
#[track_caller]
pub fn scrape(daemon: &Daemon) -> String {
    let (status, text) = daemon.get("/metrics").expect("metrics");
    assert_eq!(status, 200);
    text
}

/// `promtool check metrics` on a text; it must find nothing to say.
#[track_caller]
pub fn lint(text: &str, dir: &Path) {
    let file = dir.join("scrape");
    std::fs::write(&file, text).unwrap();
    let mut promtool = program("/usr/bin/promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::from(std::fs::File::open(file).unwrap()));
    let output = finish(&mut promtool);
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
}

/// `promtool` with arguments; it must be content.
#[track_caller]
pub fn promtool(arguments: &[&str]) -> String {
    let output = finish(program("/usr/bin/promtool").args(arguments));
    answer(&output).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", said(&output)))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).trim().to_owned()
}
