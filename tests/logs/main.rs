//! Records and messages: what is written, where, and what happens when nobody takes it.

#[path = "../support/mod.rs"]
mod support;

mod journal;
mod records;
mod rotation;
mod slow;
mod tcplog;
