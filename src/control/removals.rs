//! What becomes of sessions whose backend or route is gone from the configuration (`removed-sessions`): they end at once,
//! later, or by themselves. What is to end later still does after an upgrade.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::Handle;
use crate::config::{Config, RemovedSessions};
use crate::decide::close::CloseReason;
use crate::decide::health::Health;
use crate::state::{Backend, Heirs, Identity, Matching, Rules, identity, removed_rules};
use crate::sys::clock::coarse_ms;

/// What is to end later.
#[derive(Debug)]
pub struct Removal {
    backends: Vec<Arc<Backend>>,
    rules: Rules,
    /// On the coarse clock, which is one for all processes.
    due_ms: u64,
}

/// The same for another process.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemovalCopy {
    /// Backends that are gone.
    pub backends: Vec<Identity>,
    rules: Rules,
    due_ms: u64,
}

impl RemovalCopy {
    /// Copies it.
    pub fn of(removal: &Removal) -> Self {
        let backends = removal.backends.iter().map(|backend| identity(backend)).collect();
        Self { backends, rules: removal.rules.clone(), due_ms: removal.due_ms }
    }

    /// Has it end here what it would have ended there.
    pub fn resume(self, control: &Handle, heirs: &Heirs) {
        // One that is in force again has its sessions here under the same name.
        let is_gone = |backend: &Arc<Backend>| !control.snapshot().backends().any(|(_, own)| Arc::ptr_eq(own, backend));
        let backends = self.backends.into_iter().map(|identity| heirs.backend(identity)).filter(is_gone).collect();
        end_later(control, Removal { backends, rules: self.rules, due_ms: self.due_ms });
    }
}

/// Ends the sessions of backends that are not in force any more, as `removed-sessions` says.
pub fn end_removed(control: &Handle, removed: &[Arc<Backend>], config: &Config) {
    match (config.global.removed_sessions, config.global.shutdown_grace) {
        (RemovedSessions::Close, _) => end_those_of(control, removed),
        (RemovedSessions::Drain, Some(grace)) if !removed.is_empty() => {
            end_later(control, Removal { backends: removed.to_vec(), rules: Rules::default(), due_ms: due(grace) });
        }
        (RemovedSessions::Drain | RemovedSessions::Keep, _) => {}
    }
}

/// Ends the sessions that rules have routed which are not in force any more, as `removed-sessions` says.
pub fn end_unrouted(control: &Handle, removed: Rules, config: &Config) {
    let (wait, at_once) = match (config.global.removed_sessions, config.global.shutdown_grace) {
        // Who is in its hello now is still routed as it was.
        (RemovedSessions::Close, _) => (config.listeners.iter().map(|l| l.hello_timeout).max(), true),
        (RemovedSessions::Drain, grace) => (grace, false),
        (RemovedSessions::Keep, _) => (None, false),
    };
    let Some(wait) = wait.filter(|_| !removed.is_empty()) else { return };
    if at_once {
        end_routed_by(control, removed.clone());
    }
    end_later(control, Removal { backends: Vec::new(), rules: removed, due_ms: due(wait) });
}

fn due(wait: Duration) -> u64 {
    coarse_ms().saturating_add(wait.as_millis() as u64)
}

fn end_later(control: &Handle, removal: Removal) {
    let removal = Rc::new(removal);
    control.removals.borrow_mut().push(Rc::clone(&removal));
    let control = Handle::clone(control);
    spawn_local(async move {
        sleep(Duration::from_millis(removal.due_ms.saturating_sub(coarse_ms()))).await;
        control.removals.borrow_mut().retain(|other| !Rc::ptr_eq(other, &removal));
        end_those_of(&control, &removal.backends);
        // A rule may be back by then.
        end_routed_by(&control, removed_rules(removal.rules.clone(), &control.snapshot().rules()));
    });
}

fn end_those_of(control: &Handle, removed: &[Arc<Backend>]) {
    for backend in removed {
        // Sessions that are still in their set-up know it, and must not go there any more.
        backend.change(|vitals| vitals.health = Health::Down);
        let matching = Matching::Backend(Arc::clone(backend));
        control.plane.borrow().end_sessions(&matching, CloseReason::Drained, usize::MAX);
    }
}

fn end_routed_by(control: &Handle, removed: Rules) {
    if !removed.is_empty() {
        let matching = Matching::Routes(Arc::new(removed));
        control.plane.borrow().end_sessions(&matching, CloseReason::Drained, usize::MAX);
    }
}
