//! The units that are shipped, judged by systemd's own tools.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::TempDir;

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// Standard output and error together; the program must end well.
#[track_caller]
fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

#[test]
fn service_is_exposed_no_more_than_promised() {
    let said = says("systemd-analyze", &["security", "--offline=yes", shipped("sluice.service").to_str().unwrap()]);
    let line = said.lines().find(|line| line.contains("Overall exposure level")).expect("a verdict");
    let level: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
    assert!(level <= 1.6, "{line}");
}

#[test]
fn units_are_valid() {
    // With a program where the real one would be.
    let dir = TempDir::new();
    let units: Vec<String> = ["sluice.service", "sluice.socket"]
        .iter()
        .map(|name| {
            let unit = fs::read_to_string(shipped(name)).unwrap().replace("/usr/bin/sluice", "/bin/true");
            let path = dir.path().join(name);
            fs::write(&path, unit).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let said = says("systemd-analyze", &["verify", &units[0], &units[1]]);
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("sluice")).collect();
    assert!(about_us.is_empty(), "{about_us:?}");
}

#[test]
fn fragments_make_the_user_and_its_folders() {
    let dir = TempDir::new();
    let root = format!("--root={}", dir.path().display());
    fs::create_dir_all(dir.path().join("etc")).unwrap();
    says("systemd-sysusers", &[&root, shipped("sluice.sysusers").to_str().unwrap()]);
    let users = fs::read_to_string(dir.path().join("etc/passwd")).unwrap();
    assert!(users.lines().any(|line| line.starts_with("sluice:") && line.contains("/var/lib/sluice")), "{users}");
    says("systemd-tmpfiles", &[&root, "--create", shipped("sluice.tmpfiles").to_str().unwrap()]);
    for folder in ["run/sluice", "var/lib/sluice", "var/log/sluice"] {
        assert!(dir.path().join(folder).is_dir(), "{folder}");
    }
}
