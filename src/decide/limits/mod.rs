//! Limits on what sources and floods may cost: rates with bounded tables. Time is an argument, in milliseconds.

mod rate;

pub use rate::{Bucket, SourceRates};
