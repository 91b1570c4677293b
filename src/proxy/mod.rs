//! The data plane: one connection's way from accept to record, on one worker thread from birth to death.
//! `session.rs` shows the whole way on one screen; each stage has a file. Nothing here waits for the control plane.

mod accept;
mod client;
mod command;
mod connect;
mod consent;
mod doors;
pub mod faults;
mod first_write;
mod forward;
mod hand_over;
mod hold;
mod inspect;
mod listing;
mod pick;
mod place;
mod postgres;
mod proxy_header;
mod queue;
mod ready;
mod record;
mod record_line;
mod refusal_log;
mod refuse;
mod session;
mod sessions;
mod view;
mod wheel;
mod worker;

pub use command::{Command, Generation, Listening, Sockets};
pub use place::Place;
pub use record_line::{Load, RecordLine};
pub use session::Via;
pub use worker::{WorkerHandle, spawn};
