//! Pure decisions: bytes and values in, values out. No async, no input or output, no clock, no randomness,
//! no logging; time and random numbers are arguments. Everything here can be tested with a table.

pub mod balance;
pub mod busiest;
pub mod close;
pub mod health;
pub mod hello;
pub mod limits;
pub mod names;
pub mod prefix;
pub mod route;
