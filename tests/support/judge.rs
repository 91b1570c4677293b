//! Judges the records of random sessions as they come: each against its plan and what its client saw. What has been judged
//! is forgotten, so that memory does not grow with the number of sessions.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use serde_json::Value;

use super::plan::{Kind, Plan, Relay};
use super::pump::Outcome;

/// Wrong records that are kept to be shown.
const SHOWN: usize = 20;

/// The half of a session that came first: its record, or what its client saw.
enum Half {
    Client(Box<Plan>, Outcome),
    Record(Box<Value>),
}

/// What was judged.
#[derive(Default, Debug)]
pub struct Verdict {
    pub judged: u64,
    pub wrong_count: u64,
    pub wrong: Vec<String>,
    pub ends: BTreeMap<(Kind, String), u64>,
    /// Bytes of orderly sessions up and down, as planned and as recorded.
    pub planned: (u64, u64),
    pub recorded: (u64, u64),
    /// Bytes of all sessions, by setting and direction, and by the path that their records name.
    pub moved: BTreeMap<(Relay, Direction), BTreeMap<String, u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Up,
    Down,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// As in metrics and names of fields.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Verdict {
    /// Bytes of a direction whose records name this path.
    pub fn bytes(&self, relay: Relay, direction: Direction, path: &str) -> u64 {
        self.moved.get(&(relay, direction)).and_then(|paths| paths.get(path)).copied().unwrap_or(0)
    }

    /// Bytes of all sessions.
    pub fn total(&self) -> u64 {
        self.moved.values().flat_map(BTreeMap::values).sum()
    }
}

#[derive(Default)]
pub struct Judge {
    /// By the client's address, which it has for itself until the session is judged.
    halves: Mutex<HashMap<Ipv4Addr, Half>>,
    verdict: Mutex<Verdict>,
}

impl Judge {
    /// The client from this address is done.
    pub fn client(&self, source: Ipv4Addr, plan: Plan, outcome: Outcome) {
        let mut halves = self.halves.lock().unwrap();
        match halves.remove(&source) {
            Some(Half::Record(record)) => {
                drop(halves);
                self.judge(&plan, outcome, &record);
            }
            Some(Half::Client(..)) => panic!("{source} is used again before its record came"),
            None => drop(halves.insert(source, Half::Client(Box::new(plan), outcome))),
        }
    }

    /// A line of the log; those that are no records are passed over.
    pub fn line(&self, line: &str) {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return self.wrong(format!("no JSON: {line}")) };
        if record.get("session").is_none() {
            return;
        }
        let client: SocketAddr = record["client"].as_str().unwrap().parse().unwrap();
        let SocketAddr::V4(client) = client else { panic!("{client}") };
        let mut halves = self.halves.lock().unwrap();
        match halves.remove(client.ip()) {
            Some(Half::Client(plan, outcome)) => {
                drop(halves);
                self.judge(&plan, outcome, &record);
            }
            Some(Half::Record(other)) => self.wrong(format!("a second record: {other} {record}")),
            None => drop(halves.insert(*client.ip(), Half::Record(Box::new(record)))),
        }
    }

    /// Sessions judged so far.
    pub fn count(&self) -> u64 {
        self.verdict.lock().unwrap().judged
    }

    /// The verdict, and what came without its other half: nobody's records, second ones, clients without a record.
    pub fn close(&self) -> Verdict {
        let halves = std::mem::take(&mut *self.halves.lock().unwrap());
        let mut verdict = std::mem::take(&mut *self.verdict.lock().unwrap());
        verdict.wrong_count += halves.len() as u64;
        verdict.wrong.extend(halves.iter().take(SHOWN).map(|(source, half)| match half {
            Half::Client(plan, outcome) => {
                format!(
                    "no record of {source}: {:?} session {}, tls: {}, {outcome:?}",
                    plan.kind, plan.number, plan.tls
                )
            }
            Half::Record(record) => format!("nobody's record, or a second one: {record}"),
        }));
        verdict
    }

    fn judge(&self, plan: &Plan, outcome: Outcome, record: &Value) {
        let end = record["end"].as_str().unwrap_or("none");
        let (up, down) = (number(record, "bytes_up"), number(record, "bytes_down"));
        let bytes_fit = if plan.is_orderly() {
            (up, down) == (plan.up(), plan.down())
        } else {
            up <= outcome.sent && down >= outcome.received && down <= plan.down()
        };
        // Without a whole hello there is no pool.
        let relay_fits = record["pool"].as_str().map_or(plan.early, |pool| pool == plan.relay.name());
        // The time of the first byte is known whenever there was one.
        let timed = record["first_byte_ms"].is_number() == (down > 0);
        if !plan.ends().contains(&end) || !bytes_fit || !relay_fits || !timed {
            let (kind, Outcome { sent, received, .. }) = (plan.kind, outcome);
            self.wrong(format!("{kind:?} sent {sent}, got {received}, first byte timed: {timed}: {record}"));
        }
        let mut verdict = self.verdict.lock().unwrap();
        let Verdict { judged, ends, planned, recorded, moved, .. } = &mut *verdict;
        *judged += 1;
        *ends.entry((plan.kind, end.to_owned())).or_default() += 1;
        if plan.is_orderly() {
            *planned = (planned.0 + plan.up(), planned.1 + plan.down());
            *recorded = (recorded.0 + up, recorded.1 + down);
        }
        for (direction, field, bytes) in [(Direction::Up, "path_up", up), (Direction::Down, "path_down", down)] {
            if let Some(path) = record[field].as_str() {
                let paths = moved.entry((plan.relay, direction)).or_default();
                *paths.entry(path.to_owned()).or_default() += bytes;
            }
        }
    }

    fn wrong(&self, what: String) {
        let mut verdict = self.verdict.lock().unwrap();
        verdict.wrong_count += 1;
        if verdict.wrong.len() < SHOWN {
            verdict.wrong.push(what);
        }
    }
}

fn number(record: &Value, field: &str) -> u64 {
    record[field].as_u64().unwrap()
}
