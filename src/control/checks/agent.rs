//! The check `agent`: asks HAProxy's kind of agent, which speaks for the backend. It alone knows what it speaks of, so an
//! agent that cannot be asked, or says nothing of health, leaves the backend as it is. What its words do is decided
//! elsewhere.

use std::cell::RefCell;

use tokio::time::timeout;

use super::evidence::harmless;
use super::{Failed, Finding, Passed, Talk};
use crate::config::Agent;
use crate::decide::health::agent::{AgentHealth, AgentWords};

/// What is said first.
pub struct Dialogue {
    send: Option<String>,
    /// Unknown words that were warned of, so that an agent that goes on saying them does not fill the log.
    warned: RefCell<Vec<String>>,
}

impl Dialogue {
    #[expect(clippy::unnecessary_wraps, reason = "every kind may fail to get ready")]
    pub fn new(settings: &Agent) -> Result<Self, String> {
        Ok(Self { send: settings.send.clone(), warned: RefCell::default() })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        // Ends with or before the deadline of the check, which would call the backend unwell.
        let asked = timeout(talk.left(), self.ask(talk)).await;
        let line = match asked {
            Ok(asked) => asked,
            Err(_) => Err(talk.timed_out()),
        };
        let line = line.map_err(|failed| Failed { finding: Finding::Nothing, ..failed })?;
        let words = AgentWords::parse(&line);
        self.warn(talk, &words.unknown);
        let verdict = verdict(talk, &words);
        talk.agent = Some(words);
        verdict
    }

    async fn ask(&self, talk: &mut Talk<'_>) -> Result<Vec<u8>, Failed> {
        let mut stream = talk.connect_bare().await?;
        talk.phase("agent");
        if let Some(text) = &self.send {
            talk.send(&mut stream, text.as_bytes()).await?;
        }
        let mut line = Vec::new();
        match talk.receive(&mut stream, &mut line, is_whole).await {
            // An agent may close instead of ending its line.
            Err(failed) if failed.reason == "closed" && !line.is_empty() => Ok(line),
            received => received.map(|()| line),
        }
    }

    fn warn(&self, talk: &Talk<'_>, unknown: &[String]) {
        let mut warned = self.warned.borrow_mut();
        if *warned != unknown {
            unknown.clone_into(&mut warned);
            if !unknown.is_empty() {
                let (pool, backend) = (&*talk.target.backend.pool, &*talk.target.backend.name);
                let words = harmless(&unknown.join(" "));
                tracing::warn!(pool, backend, words, "agent of backend says unknown words, which are ignored");
            }
        }
    }
}

fn is_whole(line: &[u8]) -> bool {
    line.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

fn verdict(talk: &Talk<'_>, words: &AgentWords) -> Result<Passed, Failed> {
    let agent = talk.target.address;
    let detail = format!("agent {agent} says {}", shown(words));
    match words.health {
        Some(AgentHealth::Up) => Ok(Passed::new("agent_up", detail)),
        Some(AgentHealth::Down) => Err(Failed::new("agent_down", detail)),
        Some(AgentHealth::Failed) => Err(Failed::new("agent_fail", detail)),
        Some(AgentHealth::Stopped) => Err(Failed::new("agent_stopped", detail)),
        None if words.is_empty() => Err(Failed::unknown("agent_silent", format!("agent {agent} says nothing"))),
        None => Err(Failed::unknown("agent_words", detail)),
    }
}

/// What was understood, and what was not.
fn shown(words: &AgentWords) -> String {
    let mut parts = Vec::new();
    parts.extend(words.health.map(|health| health.word().to_owned()));
    parts.extend(words.operation.map(|operation| operation.word().to_owned()));
    parts.extend(words.weight.map(|share| format!("{share}%")));
    parts.extend(words.max_connections.map(|most| format!("maxconn:{most}")));
    if !words.unknown.is_empty() {
        parts.push(format!("(unknown: {})", harmless(&words.unknown.join(" "))));
    }
    if !words.text.is_empty() {
        parts.push(format!("#{}", harmless(&words.text)));
    }
    parts.join(" ")
}
