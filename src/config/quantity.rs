//! Reads durations, sizes and shares of a [`Section`], each within its key's limits.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::keys::{Key, Kind};
use super::problem::{Code, Problems};
use super::section::{At, Section};
use super::value::{format_duration, format_size, parse_duration, parse_size};

impl Section<'_> {
    /// A number from 0 to 1.
    pub fn share(&self, name: &str, problems: &mut Problems) -> Option<At<f64>> {
        self.read(name, problems, |section, key, raw, problems| {
            section.number_within(key, raw, (0.0, 1.0), "a number", problems)
        })
    }

    /// A number within the key's limits; `None` inside for `"off"`.
    pub fn factor(&self, name: &str, problems: &mut Problems) -> Option<At<Option<f64>>> {
        self.read(name, problems, |section, key, raw, problems| {
            let Kind::FactorOrOff(low, high) = key.kind else { return None };
            if raw.get_ref().as_str() == Some("off") {
                return Some(None);
            }
            section.number_within(key, raw, (low, high), "a number or \"off\"", problems).map(Some)
        })
    }

    fn number_within(
        &self,
        key: &Key,
        raw: &Spanned<DeValue<'_>>,
        (low, high): (f64, f64),
        want: &str,
        problems: &mut Problems,
    ) -> Option<f64> {
        let (number, text) = match raw.get_ref() {
            DeValue::Float(number) => (number.as_str().parse::<f64>().ok(), number.to_string()),
            DeValue::Integer(number) => (number.to_string().parse().ok(), number.to_string()),
            other => {
                self.wrong_type(key.name, want, other, self.place_of(raw), problems);
                return None;
            }
        };
        let inside = number.filter(|number| (low..=high).contains(number));
        if inside.is_none() {
            let message = format!("`{}` is {text}, outside {low} to {high}", key.name);
            problems.add(Code::OutOfRange, self.place_of(raw), message);
        }
        inside
    }

    /// A duration within the key's limits; `None` inside for `"off"`.
    pub fn duration(&self, name: &str, problems: &mut Problems) -> Option<At<Option<Duration>>> {
        self.read(name, problems, |section, key, raw, problems| {
            let place = section.place_of(raw);
            let (low, high, may_be_off) = match key.kind {
                Kind::Duration(low, high) => (low, high, false),
                Kind::DurationOrOff(low, high) => (low, high, true),
                _ => return None,
            };
            let text = section.string(key.name, raw, problems)?;
            if may_be_off && text == "off" {
                return Some(None);
            }
            let Some(duration) = parse_duration(text) else {
                let message = format!("`{text}` is not a duration for `{}`", key.name);
                let off = match (may_be_off, text) {
                    (true, _) => ", or \"off\"",
                    (false, "off") => "; it cannot be off",
                    (false, _) => "",
                };
                let hint = format!("a whole number and one of ms, s, m, h, d, such as \"250ms\" or \"5s\"{off}");
                problems.add(Code::BadDuration, place, message).hint(hint);
                return None;
            };
            let millis = duration.as_millis();
            if millis < u128::from(low) || millis > u128::from(high) {
                let show = |millis| format_duration(Duration::from_millis(millis));
                let message = format!("`{}` is {text}, outside {} to {}", key.name, show(low), show(high));
                problems.add(Code::OutOfRange, place, message);
                return None;
            }
            Some(Some(duration))
        })
    }

    /// A size in bytes within the key's limits.
    pub fn size(&self, name: &str, problems: &mut Problems) -> Option<At<u64>> {
        self.read(name, problems, |section, key, raw, problems| {
            let Kind::Size(low, high) = key.kind else { return None };
            let place = section.place_of(raw);
            let (bytes, text) = match raw.get_ref() {
                DeValue::String(text) => (parse_size(text), text.to_string()),
                DeValue::Integer(number) => (number.to_string().parse().ok(), number.to_string()),
                other => {
                    section.wrong_type(key.name, "a size", other, place, problems);
                    return None;
                }
            };
            let Some(bytes) = bytes else {
                let message = format!("`{text}` is not a size for `{}`", key.name);
                let hint = "a whole number of bytes, or one with KiB, MiB or GiB, such as \"64KiB\"";
                problems.add(Code::BadSize, place, message).hint(hint);
                return None;
            };
            if bytes < low || bytes > high {
                let show = format_size;
                let message = format!("`{}` is {text}, outside {} to {}", key.name, show(low), show(high));
                problems.add(Code::OutOfRange, place, message);
                return None;
            }
            Some(bytes)
        })
    }
}
