//! Reloads: what they change, what they leave, and what goes wrong.

#[path = "../support/mod.rs"]
mod support;

mod effect;
mod faults;
mod keys;
mod sockets;
mod workers;
