//! Asks the daemon, on a thread of its own: everything at the interval, changes at once. A daemon that goes away is
//! looked for again at the interval; a change is never repeated, because nobody knows whether it was carried out.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::change::Change;
use super::model::{Answers, Look, Notice};
use crate::api::{BackendsParams, Event, EventsParams, SessionsParams, SortBy};
use crate::cli::connection::{Connection, Trouble};

/// Longest silence of the daemon within an exchange.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Sessions that are asked for.
const SESSIONS: usize = 200;
/// Events of the pool among which the backend's last one is looked for.
const EVENTS: usize = 100;

/// What the operator wants.
#[derive(Debug)]
pub enum Wish {
    /// Look at this backend from now on, with its sessions in this order.
    Look(Option<(String, SortBy)>),
    /// Change something.
    Change(Change),
}

/// What there is to tell.
#[derive(Debug)]
pub enum News {
    /// Answers of a poll, or why there are none.
    Polled(Box<Result<Answers, String>>),
    /// How a change went.
    Changed(Notice),
}

/// The line to the daemon.
#[derive(Debug)]
pub struct Feed {
    /// Path of the socket.
    pub socket: PathBuf,
    /// How often to ask.
    pub interval: Duration,
    /// As long as it holds.
    pub connection: Option<Connection>,
}

impl Feed {
    /// Runs until nobody wishes or listens any more.
    pub fn run<T: From<News>>(mut self, wishes: &Receiver<Wish>, news: &Sender<T>) {
        let mut looks_at = None;
        loop {
            let begun = Instant::now();
            let is_reused = self.connection.is_some();
            let answers = match self.poll(looks_at.as_ref()) {
                // The daemon lets go of idle ones when it has too many.
                Err(Trouble::Lost(_)) if is_reused => self.poll(looks_at.as_ref()),
                answers => answers,
            };
            let answers = answers.map_err(|trouble| trouble.to_string());
            if news.send(News::Polled(Box::new(answers)).into()).is_err() {
                return;
            }
            match wishes.recv_timeout(self.interval.saturating_sub(begun.elapsed())) {
                Ok(Wish::Look(path)) => looks_at = path,
                Ok(Wish::Change(change)) => {
                    let notice = self.change(&change);
                    if news.send(News::Changed(notice).into()).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does something over the connection, which is opened first if need be, and let go when it is of no use any more.
    fn over<T>(&mut self, exchange: impl FnOnce(&mut Connection) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.socket, LIMIT)?,
        };
        let outcome = exchange(&mut connection);
        if !matches!(outcome, Err(Trouble::Lost(_))) {
            self.connection = Some(connection);
        }
        outcome
    }

    fn poll(&mut self, looks_at: Option<&(String, SortBy)>) -> Result<Answers, Trouble> {
        self.over(|connection| {
            let status = connection.ask("status", &Value::Null)?;
            let backends = connection.ask("backends", &BackendsParams::default())?;
            let look = match looks_at.map(|(path, order)| look(connection, path, *order)) {
                // It was removed meanwhile; the screen says so.
                None | Some(Err(Trouble::Refused(_))) => None,
                Some(look) => Some(look?),
            };
            Ok(Answers { status, backends, look })
        })
    }

    fn change(&mut self, change: &Change) -> Notice {
        let (method, params) = change.request();
        match self.over(|connection| connection.ask::<Value>(method, &params)) {
            Ok(answer) => match change.outcome(answer) {
                Ok(done) => Notice::Done(done),
                Err(error) => Notice::Failed(format!("the answer to `{method}` is not one: {error}")),
            },
            Err(Trouble::Refused(refusal)) => Notice::Failed(format!("refused: {}", Trouble::Refused(refusal))),
            Err(Trouble::NoDaemon(why)) => Notice::Failed(why),
            Err(Trouble::Lost(why)) => Notice::Failed(format!("{why}; whether it was carried out is not known")),
        }
    }
}

/// What is asked for one backend only.
fn look(connection: &mut Connection, path: &str, order: SortBy) -> Result<Look, Trouble> {
    let wanted = SessionsParams {
        backend: Some(path.to_owned()),
        sort: order,
        limit: Some(SESSIONS),
        ..SessionsParams::default()
    };
    let sessions = connection.ask("sessions", &wanted)?;
    let (pool, backend) = path.split_once('/').unwrap_or((path, ""));
    let wanted = EventsParams { pool: Some(pool.to_owned()), limit: Some(EVENTS), ..EventsParams::default() };
    let events: Vec<Event> = connection.ask("events", &wanted)?;
    let event = events.into_iter().rev().find(|event| event.backend.as_deref() == Some(backend));
    Ok(Look { path: path.to_owned(), sessions, event })
}
