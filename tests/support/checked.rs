//! A daemon whose pools have one backend and one check each, to ask for checks one by one with `sluice probe`.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::Daemon;

/// A daemon with one pool for each check.
pub struct Checked {
    pub daemon: Daemon,
}

/// The configuration: pool `p0`, `p1`, ... with a backend `b` at an address, each checked as the text says. Checks by
/// themselves are made at start only, so that those that are asked for stand alone.
pub fn config(checks: &[(SocketAddr, &str)]) -> String {
    let mut body = "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{ip}:1\"]\npool = \"p0\"\n".to_owned();
    for (at, (address, check)) in checks.iter().enumerate() {
        let timeout = if check.contains("timeout") { "" } else { "timeout = \"2s\"\n" };
        write!(
            body,
            "[pool.p{at}]\n[[pool.p{at}.backend]]\naddress = \"{address}\"\nname = \"b\"\n[pool.p{at}.health]\n\
             interval = \"24h\"\ndown-interval = \"24h\"\n{timeout}{check}\n"
        )
        .unwrap();
    }
    body
}

impl Checked {
    /// Starts it on an address that the test chose.
    #[track_caller]
    pub fn start(address: Ipv4Addr, checks: &[(SocketAddr, &str)]) -> Self {
        Self { daemon: Daemon::start_on(address, &config(checks), "", |command| command) }
    }

    /// Checks the backend of pool number `at` now.
    #[track_caller]
    pub fn probe(&self, at: usize) -> Value {
        let answer = self.daemon.ask("probe", &json!({ "backend": format!("p{at}/b") }));
        assert!(answer["error"].is_null(), "{answer:#}");
        answer["result"].clone()
    }

    /// Checks the backend of pool number `at` now, and holds the verdict to what is expected of it.
    #[track_caller]
    pub fn expect(&self, at: usize, result: &str, reason: &str, detail: &str) -> Value {
        let answer = self.probe(at);
        assert_eq!((&answer["result"], &answer["reason"]), (&result.into(), &reason.into()), "{at}: {answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains(detail), "{at}: no {detail:?} in {answer:#}");
        answer
    }
}

/// Names of the phases of a check.
pub fn phases(answer: &Value) -> Vec<&str> {
    answer["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect()
}
