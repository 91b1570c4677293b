//! What is on the screen: the last answers, the samples behind sparklines, order, filter, selection, and what is being
//! asked of the operator. Pure: time comes in with each answer, nothing is drawn and nothing is sent.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::change::Change;
use super::facts;
use crate::api::{BackendReport, Event, SessionReport, SortBy, StatusReport};

/// Samples that are kept of each backend.
const SAMPLES: usize = 60;
/// Looks at the workers over which their load is averaged: the daemon notes it once a second only.
const LOADS: usize = 6;
/// Silence beyond the interval after which an answer counts as missing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers of one poll.
#[derive(Debug)]
pub struct Answers {
    /// The process.
    pub status: StatusReport,
    /// All backends.
    pub backends: Vec<BackendReport>,
    /// Of the backend that is looked at.
    pub look: Option<Look>,
}

/// What is asked for one backend only.
#[derive(Debug)]
pub struct Look {
    /// `POOL/BACKEND`.
    pub path: String,
    /// Its sessions, the first ones of the order.
    pub sessions: Vec<SessionReport>,
    /// Its last change, where it is among the last ones of its pool.
    pub event: Option<Event>,
}

/// Lists and texts that have the arrow keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pane {
    /// Of the overview.
    Listeners,
    /// Of the overview.
    Pools,
    /// Of the overview.
    Backends,
    /// All about one backend.
    Facts,
    /// Those of one backend.
    Sessions,
    /// The keys.
    Help,
}

/// What fills the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// Listeners, pools, backends.
    Overview,
    /// One backend, as `POOL/BACKEND`.
    Backend(String),
    /// The keys.
    Help,
}

/// What keys do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Go about.
    Browse,
    /// Write the filter.
    Filter,
    /// Answer whether this is meant.
    Confirm(Change),
}

/// Orders of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As `POOL/BACKEND`.
    Name,
    /// The worst first.
    State,
    /// New connections a second, the most first.
    Rate,
    /// Open connections, the most first.
    Sessions,
    /// 99th percentile of the time to the first byte, or else to the connection; the slowest first.
    P99,
}

/// A backend and its last samples.
#[derive(Debug)]
pub struct Row {
    /// `POOL/BACKEND`.
    pub path: String,
    /// What was said of it last.
    pub report: BackendReport,
    /// New connections a second.
    pub rates: VecDeque<f64>,
}

/// A sentence for the operator.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// On its way.
    Sent(String),
    /// Done.
    Done(String),
    /// Not done.
    Failed(String),
}

/// Which line is meant: it stays so when the list changes around it.
#[derive(Debug, Default)]
struct Cursor {
    at: usize,
    key: Option<String>,
}

/// All of it.
#[derive(Debug)]
pub struct Model {
    /// How often the daemon is asked.
    pub interval: Duration,
    /// Time of the last news or tick.
    pub now: Timestamp,
    /// Time of the last answer.
    pub answered: Timestamp,
    /// Why there was none since.
    pub trouble: Option<String>,
    /// The process.
    pub status: Option<StatusReport>,
    /// The backend that is looked at, once that was answered.
    pub look: Option<Look>,
    /// Order of sessions.
    pub session_order: SortBy,
    /// Order of backends.
    pub order: Order,
    /// Text that backends must have to be listed.
    pub filter: String,
    /// What keys do.
    pub mode: Mode,
    /// The last word to the operator.
    pub notice: Option<Notice>,
    rows: Vec<Row>,
    /// Those that pass the filter, in order.
    shown: Vec<usize>,
    loads: VecDeque<(Timestamp, Vec<f64>)>,
    screens: Vec<Screen>,
    panes: HashMap<Pane, Cursor>,
    focus: Pane,
}

impl Model {
    /// Before the first answer.
    pub fn new(interval: Duration, now: Timestamp) -> Self {
        Self {
            interval,
            now,
            answered: now,
            trouble: None,
            status: None,
            look: None,
            session_order: SortBy::Age,
            order: Order::Name,
            filter: String::new(),
            mode: Mode::Browse,
            notice: None,
            rows: Vec::new(),
            shown: Vec::new(),
            loads: VecDeque::new(),
            screens: Vec::new(),
            panes: HashMap::new(),
            focus: Pane::Backends,
        }
    }

    /// Takes the answers of a poll.
    pub fn take(&mut self, answers: Answers, now: Timestamp) {
        (self.now, self.answered, self.trouble) = (now, now, None);
        let restarted = self.status.as_ref().is_none_or(|known| known.pid != answers.status.pid);
        if restarted {
            self.loads.clear();
        }
        let cpu: Vec<f64> = answers.status.workers.iter().map(|worker| worker.cpu_seconds).collect();
        self.loads.push_back((now, cpu));
        self.loads.drain(..self.loads.len().saturating_sub(LOADS));
        let known = self.rows.drain(..).filter(|_| !restarted);
        let mut known: HashMap<String, VecDeque<f64>> = known.map(|row| (row.path, row.rates)).collect();
        self.rows = answers
            .backends
            .into_iter()
            .map(|report| {
                let path = format!("{}/{}", report.pool, report.backend);
                let mut rates = known.remove(&path).unwrap_or_default();
                rates.push_back(report.rates.connections);
                rates.drain(..rates.len().saturating_sub(SAMPLES));
                Row { path, report, rates }
            })
            .collect();
        self.status = Some(answers.status);
        // An answer may still be about a backend that was left meanwhile.
        self.look = answers.look.filter(|look| self.looks_at() == Some(&look.path));
        self.arrange();
    }

    /// Takes note that there was no answer, and why.
    pub fn miss(&mut self, why: String, now: Timestamp) {
        (self.now, self.trouble) = (now, Some(why));
    }

    /// Since when there has been no answer that should be there, and why.
    pub fn silence(&self) -> Option<(Timestamp, &str)> {
        let overdue = self.now.duration_since(self.answered).unsigned_abs() > self.interval + PATIENCE;
        match &self.trouble {
            Some(why) => Some((self.answered, why)),
            None => overdue.then_some((self.answered, "waiting for one")),
        }
    }

    /// Load of each worker in percent of a processor.
    pub fn loads(&self) -> Vec<f64> {
        let (Some((begun, first)), Some((ended, last))) = (self.loads.front(), self.loads.back()) else {
            return Vec::new();
        };
        let seconds = ended.duration_since(*begun).as_secs_f64();
        let load =
            |(now, before): (&f64, &f64)| if seconds > 0.0 { (now - before).max(0.0) / seconds * 100.0 } else { 0.0 };
        last.iter().zip(first).map(load).collect()
    }

    /// Backends that are listed, in their order.
    pub fn listed(&self) -> impl Iterator<Item = &Row> + Clone {
        self.shown.iter().map(|place| &self.rows[*place])
    }

    /// A listed backend by its line.
    pub fn row(&self, line: usize) -> &Row {
        &self.rows[self.shown[line]]
    }

    /// How many backends there are, listed or not.
    pub fn backends(&self) -> usize {
        self.rows.len()
    }

    /// The most new connections a second that any backend of a pool had lately.
    pub fn most_rate(&self, pool: &str) -> f64 {
        let of_pool = self.rows.iter().filter(|row| row.report.pool == pool);
        of_pool.flat_map(|row| &row.rates).fold(0.0, |most, rate| most.max(*rate))
    }

    /// A backend by its path.
    pub fn backend(&self, path: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path)
    }

    /// What fills the screen.
    pub fn screen(&self) -> &Screen {
        self.screens.last().unwrap_or(&Screen::Overview)
    }

    /// The backend that is looked at, be it behind the help.
    pub fn looks_at(&self) -> Option<&String> {
        self.screens.iter().find_map(|screen| if let Screen::Backend(path) = screen { Some(path) } else { None })
    }

    /// Panes of this screen.
    pub fn panes(&self) -> &'static [Pane] {
        match self.screen() {
            Screen::Overview => &[Pane::Listeners, Pane::Pools, Pane::Backends],
            Screen::Backend(_) => &[Pane::Facts, Pane::Sessions],
            Screen::Help => &[Pane::Help],
        }
    }

    /// The pane that has the arrow keys.
    pub fn focus(&self) -> Pane {
        self.focus
    }

    /// The selected line of a pane, or the first that is seen of a text.
    pub fn selected(&self, pane: Pane) -> usize {
        self.panes.get(&pane).map_or(0, |cursor| cursor.at)
    }

    /// The backend that a change would be about.
    pub fn chosen(&self) -> Option<&Row> {
        match self.screen() {
            Screen::Backend(path) => self.backend(path),
            Screen::Overview if self.focus == Pane::Backends && !self.shown.is_empty() => {
                Some(self.row(self.selected(Pane::Backends)))
            }
            _ => None,
        }
    }

    /// The session that is selected.
    pub fn session(&self) -> Option<&SessionReport> {
        let look = self.look.as_ref().filter(|_| self.focus == Pane::Sessions)?;
        look.sessions.get(self.selected(Pane::Sessions))
    }

    /// Goes to a screen.
    pub fn enter(&mut self, screen: Screen) {
        self.screens.push(screen);
        self.focus = *self.panes().last().expect("every screen has a pane");
        self.panes.remove(&self.focus);
        if self.focus == Pane::Sessions {
            self.panes.remove(&Pane::Facts);
        }
    }

    /// Goes back one screen; says whether there was one.
    pub fn leave(&mut self) -> bool {
        let left = self.screens.pop().is_some();
        if left {
            self.focus = *self.panes().last().expect("every screen has a pane");
        }
        if self.looks_at().is_none() {
            self.look = None;
        }
        left
    }

    /// Gives the arrow keys to a pane of this screen.
    pub fn set_focus(&mut self, pane: Pane) {
        self.focus = pane;
    }

    /// Selects `to` of the pane that has the arrow keys, or the last line.
    pub fn select(&mut self, to: usize) {
        let keys = self.keys(self.focus);
        let at = to.min(keys.len().saturating_sub(1));
        let key = keys.into_iter().nth(at);
        self.panes.insert(self.focus, Cursor { at, key });
    }

    /// Puts lists in order again after a change of what they hold, of order or filter; what was selected stays so.
    pub fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let passes = |row: &Row| {
            let text = format!("{} {} {}", row.path, row.report.address, row.report.state).to_lowercase();
            text.contains(&wanted)
        };
        let mut shown: Vec<usize> = (0..self.rows.len()).filter(|place| passes(&self.rows[*place])).collect();
        let (rows, order) = (&self.rows, self.order);
        shown.sort_by(|a, b| {
            let (a, b) = (&rows[*a], &rows[*b]);
            let by_order = match order {
                Order::Name => std::cmp::Ordering::Equal,
                Order::State => severity(&b.report.state).cmp(&severity(&a.report.state)),
                Order::Rate => b.report.rates.connections.total_cmp(&a.report.rates.connections),
                Order::Sessions => b.report.active.cmp(&a.report.active),
                Order::P99 => slowness(&b.report).total_cmp(&slowness(&a.report)),
            };
            by_order.then_with(|| a.path.cmp(&b.path))
        });
        self.shown = shown;
        for pane in [Pane::Listeners, Pane::Pools, Pane::Backends, Pane::Facts, Pane::Sessions] {
            let keys = self.keys(pane);
            let Some(cursor) = self.panes.get_mut(&pane) else { continue };
            let found = cursor.key.as_ref().and_then(|key| keys.iter().position(|other| other == key));
            cursor.at = found.unwrap_or(cursor.at.min(keys.len().saturating_sub(1)));
            cursor.key = keys.into_iter().nth(cursor.at);
        }
    }

    /// What tells the lines of a pane apart.
    fn keys(&self, pane: Pane) -> Vec<String> {
        let status = self.status.as_ref();
        match pane {
            Pane::Listeners => {
                status.iter().flat_map(|status| &status.listeners).map(|one| one.listener.clone()).collect()
            }
            Pane::Pools => status.iter().flat_map(|status| &status.pools).map(|one| one.pool.clone()).collect(),
            Pane::Backends => self.listed().map(|row| row.path.clone()).collect(),
            Pane::Facts => facts::facts(self).into_iter().map(|(label, _)| label.to_owned()).collect(),
            Pane::Sessions => self.look.iter().flat_map(|look| &look.sessions).map(|one| one.session.clone()).collect(),
            Pane::Help => facts::HELP.iter().map(|(keys, _)| (*keys).to_owned()).collect(),
        }
    }
}

/// How bad a state is.
fn severity(state: &str) -> u32 {
    ["up", "unchecked", "disabled", "draining", "ejected", "down"]
        .iter()
        .position(|known| *known == state)
        .map_or(6, |place| place as u32)
}

fn slowness(report: &BackendReport) -> f64 {
    report.first_byte_ms.or(report.connect_ms).map_or(0.0, |times| times.p99)
}
