//! Figures as people read and write them: times, rates, sizes, users.

use std::time::Duration;

use jiff::Timestamp;
use nix::unistd::{Uid, User};

use super::table::{Cell, Tone};
use crate::config::parse_duration;

/// A certificate that lives no longer wants a look.
pub const CERTIFICATE_WARNING: Duration = Duration::from_hours(14 * 24);

/// Reads a duration of the command line, written as in the configuration.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and one of ms, s, m, h, d, such as 30s".to_owned())
}

/// Reads a rate, `N/s`.
pub fn per_second(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>().ok();
    number.filter(|rate| rate.is_finite() && *rate > 0.0).ok_or_else(|| "write a rate such as 10/s".to_owned())
}

/// For the daemon.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration in its two largest units.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// How long ago.
pub fn ago(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

/// A moment to the second.
pub fn second(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// A moment that is past: how long ago for people.
pub fn age(at: Timestamp, now: Timestamp) -> Cell {
    Cell::two(second(at), span(ago(at, now)))
}

/// A moment to come, where there is one: in how long for people.
pub fn countdown(at: Option<Timestamp>, now: Timestamp) -> Cell {
    at.map_or_else(Cell::none, |at| Cell::two(second(at), span(ago(now, at))))
}

/// When a certificate ends.
pub fn certificate(expires: Option<Timestamp>, now: Timestamp) -> Cell {
    let Some(expires) = expires else { return Cell::none() };
    let left = ago(now, expires);
    let shown = if left.is_zero() { "expired".to_owned() } else { span(left) };
    Cell::two(second(expires), shown).tone(certificate_tone(expires, now))
}

/// How much a certificate's end matters.
pub fn certificate_tone(expires: Timestamp, now: Timestamp) -> Tone {
    match ago(now, expires) {
        Duration::ZERO => Tone::Bad,
        left if left < CERTIFICATE_WARNING => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// Milliseconds.
pub fn milliseconds(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.1}ms"),
        10.0..1000.0 => format!("{value:.0}ms"),
        _ => format!("{:.1}s", value / 1000.0),
    }
}

/// A number of things.
pub fn short(value: f64) -> String {
    scaled(value, 1000.0, ["", "k", "M", "G", "T"])
}

/// Bytes.
pub fn bytes(value: f64) -> String {
    scaled(value, 1024.0, ["B", "K", "M", "G", "T"])
}

fn scaled(mut value: f64, step: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if value < 10.0 && value.fract() > 0.0 {
        format!("{value:.1}{}", units[unit])
    } else {
        format!("{value:.0}{}", units[unit])
    }
}

/// The name of a user, or the number where there is none.
pub fn user(uid: u32) -> String {
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let spans = [(0, "0s"), (250, "250ms"), (59_999, "59s"), (192_000, "3m12s"), (7_500_000, "2h05m")];
        for (millis, want) in spans {
            assert_eq!(span(Duration::from_millis(millis)), want);
        }
        assert_eq!(span(Duration::from_hours(100)), "4d04h");
        for (value, want) in [(0.0, "0"), (0.25, "0.2"), (12.4, "12"), (1234.0, "1.2k"), (5e7, "50M")] {
            assert_eq!(short(value), want);
        }
        for (value, want) in [(512.0, "512B"), (1536.0, "1.5K"), (1e12, "931G")] {
            assert_eq!(bytes(value), want);
        }
        for (value, want) in [(0.04, "0.0ms"), (9.96, "10.0ms"), (12.3, "12ms"), (1500.0, "1.5s")] {
            assert_eq!(milliseconds(value), want);
        }
    }

    #[test]
    fn rates_and_durations_are_read_as_the_configuration_writes_them() {
        assert_eq!(per_second("10/s"), Ok(10.0));
        assert_eq!(per_second("0.5"), Ok(0.5));
        for wrong in ["", "0/s", "-1/s", "ten/s", "inf", "NaN", "10/m"] {
            assert!(per_second(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert!(duration("30").is_err());
    }

    #[test]
    fn nobody_is_a_user_and_a_made_up_number_is_none() {
        assert_eq!(user(0), "root");
        assert_eq!(user(4_000_000_001), "uid 4000000001");
    }
}
