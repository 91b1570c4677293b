//! Keeps named backends up to date: one task for each name asks when it is time. Names that nobody wants any more are forgotten.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::Handle;
use super::lookup::Lookups;
use crate::config::Config;
use crate::decide::balance::Tier;
use crate::decide::names::{Branch, Found, HostReply, Known, LookupResult, Outcome, Reply, Target, branches};
use crate::state::{Resolution, Shared, targets};

/// Longest wait for the first answers before a configuration comes into force without them.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// The names of the configuration, each with its task.
pub struct Names {
    watched: HashMap<Target, Watched>,
    lookups: watch::Sender<Rc<Lookups>>,
    news: Rc<News>,
    begun: Instant,
    /// What another process knew of names, by their texts.
    inherited: HashMap<String, Known>,
}

struct Watched {
    name: Rc<Name>,
    task: AbortHandle,
}

/// What tasks tell.
struct News {
    /// A set has changed.
    changed: Rc<Notify>,
    /// A name was asked for the first time.
    asked: Notify,
}

/// One name.
struct Name {
    target: Target,
    known: RefCell<Known>,
    was_asked: Cell<bool>,
}

impl Names {
    /// No names yet; `changed` is rung when one leads elsewhere.
    pub fn new(changed: Rc<Notify>) -> Self {
        let (lookups, _) = watch::channel(Rc::new(Lookups::new(Vec::new())));
        Self {
            watched: HashMap::new(),
            lookups,
            news: Rc::new(News { changed, asked: Notify::new() }),
            begun: Instant::now(),
            inherited: HashMap::new(),
        }
    }

    /// What all names lead to now.
    pub fn resolution(&self) -> Resolution {
        let set = |watched: &Watched| Arc::clone(watched.name.known.borrow().set());
        Resolution::Sets(self.watched.iter().map(|(target, watched)| (target.clone(), set(watched))).collect())
    }

    /// What is known of all names, for another process.
    pub fn copy(&self) -> Vec<NameCopy> {
        self.watched.values().map(|watched| NameCopy::of(&watched.name.target, &watched.name.known.borrow())).collect()
    }

    /// Begins with what another process knew of the names that will be added.
    pub fn begin_with(&mut self, known: &[NameCopy]) {
        self.inherited = known.iter().map(|copy| (copy.target.clone(), copy.revive())).collect();
    }

    /// Asks for nothing any more.
    pub fn stop(&mut self) {
        self.watched.drain().for_each(|(_, watched)| watched.task.abort());
    }

    fn add(&mut self, shared: &Arc<Shared>, config: &Config) {
        let servers = &config.global.resolvers;
        self.lookups.send_if_modified(|lookups| {
            let changed = lookups.servers() != servers;
            if changed {
                *lookups = Rc::new(Lookups::new(servers.clone()));
            }
            changed
        });
        for target in targets(config) {
            if self.watched.contains_key(target) {
                continue;
            }
            shared.names.change(target, |_| {});
            let inherited = self.inherited.remove(&target.to_string());
            let was_asked = Cell::new(inherited.is_some());
            let known = RefCell::new(inherited.unwrap_or_default());
            let name = Rc::new(Name { target: target.clone(), known, was_asked });
            let watching = Watching {
                name: Rc::clone(&name),
                shared: Arc::clone(shared),
                news: Rc::clone(&self.news),
                begun: self.begun,
            };
            let task = spawn_local(watching.run(self.lookups.subscribe())).abort_handle();
            self.watched.insert(target.clone(), Watched { name, task });
        }
    }

    fn keep_only(&mut self, shared: &Shared, wanted: &HashSet<&Target>) {
        self.watched.retain(|target, watched| {
            let keep = wanted.contains(target);
            if !keep {
                watched.task.abort();
                shared.names.remove(target);
            }
            keep
        });
    }

    fn all_asked(&self) -> bool {
        self.watched.values().all(|watched| watched.name.was_asked.get())
    }
}

/// Asks for the names of `config` that are new, and waits for the first answers, for a while. Names that are known
/// keep what they have. Follow with [`keep_only`] once it is sure which configuration is in force.
pub async fn add(control: &Handle, config: &Config) -> Resolution {
    control.names.borrow_mut().add(&control.shared, config);
    let news = Rc::clone(&control.names.borrow().news);
    let answered = async {
        // Nothing else runs between the look and the wait.
        while !control.names.borrow().all_asked() {
            news.asked.notified().await;
        }
    };
    let _ = timeout(FIRST_ANSWERS, answered).await;
    control.names.borrow().resolution()
}

/// Forgets the names that `config` does not have.
pub fn keep_only(control: &Handle, config: &Config) {
    let mut names = control.names.borrow_mut();
    names.add(&control.shared, config);
    names.keep_only(&control.shared, &targets(config));
}

/// What is known of one name, for another process.
#[derive(Debug, Serialize, Deserialize)]
pub struct NameCopy {
    target: String,
    set: Vec<FoundCopy>,
    /// Host, whether of version 4, and addresses.
    heard: Vec<(Arc<str>, bool, Vec<IpAddr>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FoundCopy {
    /// What format 1 has in place of the tier.
    backup: bool,
    tier: Option<usize>,
    address: SocketAddr,
    weight: Option<u32>,
}

impl NameCopy {
    fn of(target: &Target, known: &Known) -> Self {
        let found = |found: &Found| FoundCopy {
            backup: found.tier.is_backup(),
            tier: Some(found.tier.position()),
            address: found.address,
            weight: found.weight,
        };
        let heard = known.heard().map(|(host, is_v4, addresses)| (Arc::clone(host), is_v4, addresses.to_vec()));
        Self { target: target.to_string(), set: known.set().iter().map(found).collect(), heard: heard.collect() }
    }

    fn revive(&self) -> Known {
        let found = |copy: &FoundCopy| Found {
            tier: copy.tier.map_or(if copy.backup { Tier::BACKUP } else { Tier::FIRST }, Tier::at),
            address: copy.address,
            weight: copy.weight,
        };
        Known::remembered(self.set.iter().map(found).collect(), self.heard.iter().cloned())
    }
}

/// The task of one name.
struct Watching {
    name: Rc<Name>,
    shared: Arc<Shared>,
    news: Rc<News>,
    begun: Instant,
}

impl Watching {
    async fn run(self, mut lookups: watch::Receiver<Rc<Lookups>>) {
        loop {
            let source = Rc::clone(&lookups.borrow_and_update());
            let before = Arc::clone(self.name.known.borrow().set());
            let outcome = self.ask(&source).await;
            let next = self.begun + Duration::from_millis(outcome.next_ms);
            self.report(&outcome, next);
            let after = Arc::clone(self.name.known.borrow().set());
            if !self.name.was_asked.replace(true) {
                self.news.asked.notify_waiters();
            }
            if before != after {
                let name = self.name.target.to_string();
                tracing::info!(name, addresses = after.len(), before = before.len(), "name changed");
                self.news.changed.notify_one();
            }
            tokio::select! {
                () = sleep_until(next) => {}
                changed = lookups.changed() => if changed.is_err() { return },
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    async fn ask(&self, source: &Rc<Lookups>) -> Outcome {
        match &self.name.target {
            Target::Host { name, port } => {
                let reply = source.host(name).await;
                let branch = Branch::of_host(Arc::clone(name), *port);
                self.name.known.borrow_mut().take(&[branch], vec![(Arc::clone(name), reply)], u32::MAX, self.now_ms())
            }
            Target::Service(name) => {
                let (services, ttl_s) = match source.service(name).await {
                    Reply::Records(services, ttl_s) => (services, ttl_s),
                    Reply::Nothing(why) => return self.fail(LookupResult::Empty, why.to_owned()),
                    Reply::Failed(why) => return self.fail(LookupResult::Failed, why),
                };
                let (branches, left_out) = branches(services);
                if branches.is_empty() {
                    return self.fail(LookupResult::Empty, "the service is not available here".to_owned());
                }
                let hosts: HashSet<Arc<str>> = branches.iter().map(|branch| Arc::clone(&branch.host)).collect();
                let replies = hosts_of(source, hosts).await;
                let mut outcome = self.name.known.borrow_mut().take(&branches, replies, ttl_s, self.now_ms());
                outcome.left_out += left_out;
                outcome
            }
        }
    }

    fn fail(&self, result: LookupResult, why: String) -> Outcome {
        self.name.known.borrow_mut().fail(result, why, self.now_ms())
    }

    fn report(&self, outcome: &Outcome, next: Instant) {
        let known = self.name.known.borrow();
        let now = jiff::Timestamp::now();
        let stale_since = known
            .stale_since_ms()
            .and_then(|since_ms| now.checked_sub(Duration::from_millis(self.now_ms().saturating_sub(since_ms))).ok());
        let name = self.name.target.to_string();
        self.shared.names.change(&self.name.target, |report| {
            if outcome.left_out > 0 && report.left_out == 0 {
                let used = known.set().len();
                tracing::warn!(name, used, left_out = outcome.left_out, "name has more addresses than are used");
            }
            match (report.stale_since, stale_since, &outcome.problem) {
                (None, Some(_), Some(error)) if known.set().is_empty() => {
                    tracing::warn!(name, error, "name cannot be resolved, no connection goes there until it can");
                }
                (None, Some(_), Some(error)) => {
                    let addresses = known.set().len();
                    tracing::warn!(name, error, addresses, "name cannot be resolved, its last good addresses stay");
                }
                (Some(since), None, _) => tracing::info!(name, %since, "name is resolved again"),
                _ => {}
            }
            report.addresses = known.set().iter().map(|found| found.address).collect();
            if outcome.result == LookupResult::Ok {
                report.resolved_at = Some(now);
            }
            report.next_at = now.checked_add(next - Instant::now()).ok();
            // Once said, it stays the same to the millisecond.
            report.stale_since = stale_since.map(|since| report.stale_since.unwrap_or(since));
            report.error.clone_from(&outcome.problem);
            report.left_out = outcome.left_out;
            *report.lookups.entry(outcome.result.name().to_owned()).or_default() += 1;
        });
    }
}

/// Asks for all hosts of a service, at once.
async fn hosts_of(source: &Rc<Lookups>, hosts: HashSet<Arc<str>>) -> Vec<(Arc<str>, HostReply)> {
    let mut asking = JoinSet::new();
    for host in hosts {
        let source = Rc::clone(source);
        asking.spawn_local(async move {
            let reply = source.host(&host).await;
            (host, reply)
        });
    }
    let mut replies = Vec::new();
    while let Some(reply) = asking.join_next().await {
        // A task neither panics nor is aborted before this one is.
        replies.extend(reply);
    }
    replies
}
