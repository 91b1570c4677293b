//! The dialect of HAProxy on the status socket.

#[path = "../support/mod.rs"]
mod support;

mod api;
mod limits;
mod tools;
