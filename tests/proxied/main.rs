//! The PROXY protocol, in and out.

#[path = "../support/mod.rs"]
mod support;

mod oracle;
mod outgoing;
mod protocol;
mod servers;
