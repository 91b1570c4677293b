//! sluice: a layer-4 TCP/TLS passthrough load balancer.
//!
//! One connection's way, the spine of the house:
//!
//! ```text
//! accept -> inspect -> route -> balance -> connect -> forward -> record
//! ```
//!
//! - [`decide`]: pure decisions; bytes and values in, values out.
//! - [`api`]: what the status socket says: the shapes of requests and answers.
//! - [`config`]: TOML in, a checked configuration or every problem at once out.
//! - [`state`]: what both planes share: snapshot, live state, counters.
//! - [`proxy`]: the data plane; `proxy/session.rs` shows the whole way on one screen.
//! - [`control`]: the control plane: probes, reload, status socket, metrics, signals.
//! - [`daemon`]: the composition root; only it sees both planes.
//! - [`cli`]: the commands.
//! - [`sys`]: the only room that knows system calls.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod decide;
pub mod proxy;
pub mod state;
pub mod sys;
