//! Watches for a server's first answer to a ClientHello, and tells the control plane what it says of the server. The
//! bytes go their way all the same; sessions without a hello are not judged.

use std::io;
use std::time::Duration;

use super::direction::{Lost, Step};
use crate::decide::balance::{KeyFacts, KeyPart, Seed, hash_key};
use crate::decide::health::Sign;
use crate::decide::hello::{FirstAnswer, alert_name};
use crate::proxy::session::Session;

/// What is known of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It is waited for.
    Awaited,
    /// It was judged, or there is nothing to judge.
    #[default]
    Settled,
}

/// How a turn of both directions went.
pub struct TurnSeen {
    /// What the server's first bytes are, if they came.
    pub first: Option<FirstAnswer>,
    /// The steps of both directions.
    pub up: Step,
    /// The same.
    pub down: Step,
    /// Whether the client had finished.
    pub client_fin: bool,
    /// Whether the backend has finished.
    pub backend_fin: bool,
}

impl Answer {
    /// Begins to wait, where there was a hello.
    pub fn begin(session: &Session) -> Self {
        if session.facts.borrow().hello.is_some() { Self::Awaited } else { Self::Settled }
    }

    /// When silence becomes a failure; `u64::MAX`: never.
    pub fn deadline_ms(self, session: &Session) -> u64 {
        if self == Self::Settled {
            return u64::MAX;
        }
        let facts = session.facts.borrow();
        let limit = facts.pool.as_ref().and_then(|pool| pool.first_byte_ms);
        let (Some(limit), Some(sent)) = (limit, facts.sent_time) else { return u64::MAX };
        session.started_ms + Duration::from(sent).as_millis() as u64 + limit
    }

    /// Looks at what a turn brought.
    pub fn look(&mut self, session: &Session, seen: &TurnSeen, now: u64) {
        if *self == Self::Settled {
            return;
        }
        let lost_backend = matches!(seen.down, Step::Broken(Lost::Source(kind)) if kind != io::ErrorKind::TimedOut)
            || matches!(seen.up, Step::Broken(Lost::Sink(_)));
        let answer = match seen.first {
            Some(answer) => answer,
            // Whatever the server does then, the client left first.
            None if seen.client_fin => {
                *self = Self::Settled;
                return;
            }
            None if lost_backend => FirstAnswer::Reset,
            None if seen.backend_fin => FirstAnswer::Closed,
            None if now >= self.deadline_ms(session) => FirstAnswer::Silence,
            None => return,
        };
        *self = Self::Settled;
        report(session, answer);
    }
}

fn report(session: &Session, answer: FirstAnswer) {
    let facts = session.facts.borrow();
    let Some(seat) = &facts.seat else { return };
    let brief = seat.backend();
    brief.shard().first_answers[answer.index()].add(1);
    let live = &brief.backend.live;
    let what = match answer {
        // What does not speak TLS is there all the same; whether that is well is for its checks to say.
        FirstAnswer::ServerHello | FirstAnswer::Other => return live.well(),
        FirstAnswer::Alert(Some(alert)) => format!("alert {} ({alert})", alert_name(alert)),
        FirstAnswer::Alert(None) => "an alert".to_owned(),
        FirstAnswer::Closed => "end of the connection".to_owned(),
        FirstAnswer::Reset => "reset".to_owned(),
        FirstAnswer::Silence => "silence".to_owned(),
    };
    let took = facts.sent_time.map(|sent| session.started.elapsed().saturating_sub(sent.into()));
    let took = took.unwrap_or_default().as_micros() as f64 / 1000.0;
    // No alert is beyond doubt: servers written in Go say internal_error to a client whose server name they do not know.
    let sign = match answer {
        FirstAnswer::Silence => Sign::Silence,
        _ => Sign::Refused { client: network_of(session) },
    };
    live.report(sign, &format!("{what} instead of a ServerHello after {took} ms (session {:016x})", session.id));
}

/// Stands for the network of a client, the same for all its addresses.
fn network_of(session: &Session) -> u64 {
    let facts = KeyFacts { source: session.client().ip(), sni: None, alpn: &[], destination: None };
    hash_key(Seed::default(), &[KeyPart::SourcePrefix], &facts).unwrap_or_default()
}
