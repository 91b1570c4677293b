//! The only room that knows system calls: sockets, pipes, limits, clocks, privileges. Knows nothing of sluice.

pub mod channel;
pub mod clock;
pub mod descriptors;
pub mod limits;
pub mod pipe;
pub mod privileges;
pub mod socket;
