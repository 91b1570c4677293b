//! The only room that knows system calls: sockets, pipes, limits, clocks. Knows nothing of sluice.

pub mod clock;
pub mod limits;
pub mod pipe;
pub mod socket;
