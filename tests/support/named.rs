//! A daemon whose pool is a name of a DNS server's, and what is asked of it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::hello::client_hello;
use super::servers::knot::Knot;
use super::{Daemon, eventually, exchange};

pub const POOL: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "shop"
[pool.shop]
balance = "round-robin"
backends = ["web.shop.test:1001"]
"#;

pub fn hello() -> Vec<u8> {
    client_hello(Some("any.test"), &[])
}

#[track_caller]
pub fn start(knot: &Knot, body: &str) -> Daemon {
    Daemon::start_with(body, &global(knot), |command| command)
}

/// With one worker, so that who takes turns does so exactly.
#[track_caller]
pub fn start_alone(knot: &Knot, body: &str) -> Daemon {
    Daemon::start_with(body, &format!("workers = 1\n{}", global(knot)), |command| command)
}

pub fn global(knot: &Knot) -> String {
    format!("resolvers = [\"{}\"]\n", knot.address)
}

/// What the status says of a name.
#[track_caller]
pub fn name(daemon: &Daemon, wanted: &str) -> Value {
    let status = daemon.json("/v1/status");
    let found = status["names"].as_array().unwrap().iter().find(|name| name["name"] == wanted).cloned();
    found.unwrap_or_else(|| panic!("no name {wanted} in {status:#}"))
}

/// Members of the pool with their weights.
pub fn members(daemon: &Daemon) -> BTreeMap<String, u64> {
    let list = daemon.json("/v1/backends");
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| (row["backend"].as_str().unwrap().to_owned(), row["weight"].as_u64().unwrap())).collect()
}

#[track_caller]
pub fn wait_for_members(daemon: &Daemon, wanted: &[&str]) {
    let mut wanted: Vec<&str> = wanted.to_vec();
    wanted.sort_unstable();
    let mut last = Vec::new();
    eventually(&format!("members {wanted:?}"), || {
        last = members(daemon).into_keys().collect();
        (last == wanted).then_some(())
    });
}

/// Who answers, asked so often that with taking turns everybody had one.
#[track_caller]
pub fn answers(daemon: &Daemon) -> BTreeMap<String, u32> {
    let mut count = BTreeMap::new();
    for _ in 0..12 {
        let answer = exchange(daemon.at(443), &hello()).expect("an answer");
        *count.entry(String::from_utf8(answer).unwrap()).or_default() += 1;
    }
    count
}
