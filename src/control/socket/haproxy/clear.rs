//! `clear counters [all]`. The most so far is forgotten; `all` makes this dialect count from here. Metrics and the other
//! dialects count on: a counter of theirs never goes back.

use super::super::super::Handle;
use super::Answer;
use super::rows::{Row, Whose};

/// Clears.
pub fn counters(control: &Handle, arguments: &[String]) -> Answer {
    let snapshot = control.snapshot();
    let all = arguments.first().is_some_and(|word| word == "all");
    control.shared.trend.forget_most();
    for whose in Whose::all(&snapshot) {
        let trend = whose.trend(&snapshot);
        trend.forget_most();
        if all {
            trend.set_cleared(Row::whole(control, &snapshot, whose).counts());
        }
    }
    Answer::done()
}
