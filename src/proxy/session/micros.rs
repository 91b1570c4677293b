//! Times of a session in few bytes.

use std::num::NonZeroU32;
use std::time::Duration;

/// A time from 1 us up to 71 minutes in four bytes, or none in as many: an idle session keeps several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Micros(pub NonZeroU32);

impl From<Duration> for Micros {
    fn from(time: Duration) -> Self {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(micros).unwrap_or(NonZeroU32::MIN))
    }
}

impl From<Micros> for Duration {
    fn from(time: Micros) -> Self {
        Self::from_micros(time.0.get().into())
    }
}
