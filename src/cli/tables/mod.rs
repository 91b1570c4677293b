//! What is shown of each answer: which columns, and which sentences below them. Nothing is asked here.

mod backends;
mod changes;
mod events;
mod history;
mod sessions;
mod status;

pub use backends::backends;
pub use changes::{added, changed, killed, removed};
pub use events::events;
pub use history::{LEGEND, history};
pub use sessions::{names, refused, sessions};
pub use status::status;
