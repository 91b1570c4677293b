//! What is shown of each answer: which columns, and which sentences below them. Nothing is asked here.

mod backends;
mod changes;
mod events;
mod history;
mod sessions;
mod status;

pub use backends::backends;
pub use changes::{added, changed, killed, removed};
pub use events::events;
pub use history::history;
pub use sessions::{names, refused, sessions};
pub use status::status;

use super::figures::milliseconds;
use crate::api::Event;

/// The phases of a check, in a line.
fn seen(event: &Event) -> String {
    let phases = event.evidence.iter().map(|phase| {
        let took = milliseconds(phase.took_ms);
        if phase.seen.is_empty() {
            format!("{} {took}", phase.phase)
        } else {
            format!("{} {took}: {}", phase.phase, phase.seen)
        }
    });
    phases.collect::<Vec<_>>().join("; ")
}
