//! Backends by name.

#[path = "../support/mod.rs"]
mod support;

mod busiest;
mod hostile;
mod in_force;
mod kept;
mod property;
