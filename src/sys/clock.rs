//! Clocks: a coarse monotonic one for deadlines, one vDSO read of a few nanoseconds, true to a few milliseconds; and the
//! processor time of a thread.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_MONOTONIC_COARSE` (`clock_gettime(2)`).
pub fn coarse_ms() -> u64 {
    // The call cannot fail for a clock that the kernel has had since 2.6.32.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |time| time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000)
}

/// Nanoseconds of `CLOCK_MONOTONIC` (`clock_gettime(2)`), which is one for all processes since the machine started.
pub fn monotonic_ns() -> u64 {
    // As above.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Processor time of the calling thread in microseconds (`clock_gettime(2)`, `CLOCK_THREAD_CPUTIME_ID`).
pub fn thread_cpu_micros() -> u64 {
    // As above.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}
