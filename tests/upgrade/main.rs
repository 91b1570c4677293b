//! Live upgrade: nothing is lost, cut or counted anew, whatever is open; and whenever it fails the running process goes on.
//! Random sessions during a hundred upgrades are in `tests/bytes.rs`.

mod activated;
mod bulk;
mod carried;
mod failing;
mod program;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod unfinished;
mod waiting;
