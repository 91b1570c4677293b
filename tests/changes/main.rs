//! What operators change while the daemon runs.

#[path = "../support/mod.rs"]
mod support;

mod ending;
mod members;
mod words;
