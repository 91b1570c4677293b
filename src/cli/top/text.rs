//! Figures and words as narrow as a screen wants them. Pure; knows no colours and no places.

use jiff::Timestamp;

/// Steps of a bar, the lowest for nothing at all.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A count or a rate in at most five characters: `7`, `0.4`, `9999`, `12.3k`, `450M`.
pub fn figure(value: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut unit) = (value.max(0.0), 0);
    while value >= if unit == 0 { 9999.5 } else { 999.5 } && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let with_tenths = value < if unit == 0 { 9.95 } else { 99.95 };
    let text = format!("{value:.*}", usize::from(with_tenths));
    format!("{}{}", text.trim_end_matches(".0"), units[unit])
}

/// Milliseconds with their unit: `0.31ms`, `3.1ms`, `31ms`, `1.2s`.
pub fn millis(value: f64) -> String {
    match value {
        value if value < 0.995 => format!("{value:.2}ms"),
        value if value < 9.95 => format!("{value:.1}ms"),
        value if value < 999.5 => format!("{value:.0}ms"),
        value if value < 99_950.0 => format!("{:.1}s", value / 1000.0),
        value => span((value / 1000.0) as i64),
    }
}

/// Seconds in their two largest units: `45s`, `3m20s`, `2h5m`, `12d3h`.
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{smaller}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(minutes, "m", seconds % 60, "s"),
        3600..86_400 => two(hours, "h", minutes % 60, "m"),
        86_400..8_640_000 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// The time from one moment to a later one, as [`span`].
pub fn between(from: Timestamp, to: Timestamp) -> String {
    span(to.duration_since(from).as_secs())
}

/// Bars of the last `width` values, the newest at the right; `most` is the full height.
pub fn bars(values: impl DoubleEndedIterator<Item = f64>, most: f64, width: usize) -> String {
    let bar = |value: f64| {
        let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
        BARS[(share * (BARS.len() - 1) as f64).ceil() as usize]
    };
    let newest_first: Vec<char> = values.rev().take(width).map(bar).collect();
    let bars: String = newest_first.into_iter().rev().collect();
    format!("{bars:>width$}")
}

/// Cut to `width` characters with its middle left out: of names that are too long, both ends tell most.
pub fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    let head = kept / 3;
    let tail = length - (kept - head);
    text.chars().take(head).chain(['…']).chain(text.chars().skip(tail)).collect()
}

/// Lines of at most `width` characters, broken at spaces where there are some. What fits stays as it is.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    let mut room = width.max(1);
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for (place, piece) in letters.chunks(width.max(1)).enumerate() {
            let gap = usize::from(place == 0 && room < width);
            if piece.len() + gap > room {
                lines.push(String::new());
                room = width.max(1);
            } else if gap == 1 {
                lines.last_mut().expect("there is a first line").push(' ');
                room -= 1;
            }
            lines.last_mut().expect("there is a first line").extend(piece);
            room -= piece.len();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_true() {
        let figures = [
            (0.0, "0"),
            (0.44, "0.4"),
            (7.0, "7"),
            (3.98, "4"),
            (9.97, "10"),
            (12.4, "12"),
            (9999.0, "9999"),
            (12_345.0, "12.3k"),
            (99_960.0, "100k"),
            (5.12e6, "5.1M"),
            (450e6, "450M"),
            (2e19, "20000P"),
        ];
        for (value, text) in figures {
            assert_eq!(figure(value), text, "{value}");
        }
        for (value, text) in
            [(0.0, "0.00ms"), (0.314, "0.31ms"), (3.21, "3.2ms"), (999.0, "999ms"), (1234.0, "1.2s"), (3e5, "5m")]
        {
            assert_eq!(millis(value), text, "{value}");
        }
        let spans = [(-3, "0s"), (59, "59s"), (200, "3m20s"), (7200, "2h"), (7500, "2h5m"), (273_600, "3d4h")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text, "{seconds}");
        }
        assert_eq!(span(200 * 86_400 + 3600), "200d");
    }

    #[test]
    fn bars_show_the_newest_at_the_right_and_anything_above_nothing() {
        assert_eq!(bars([0.0, 1.0, 50.0, 100.0].into_iter(), 100.0, 6), "  ▁▂▅█");
        assert_eq!(bars([9.0, 0.0, 100.0].into_iter(), 100.0, 2), "▁█");
        assert_eq!(bars([0.0, 0.0].into_iter(), 0.0, 3), " ▁▁");
        assert_eq!(bars([1.0].into_iter(), 1.0, 0), "");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fit("shop/10.0.0.11:443", 18), "shop/10.0.0.11:443");
        assert_eq!(fit("shop/10.0.0.11:443", 10), "sho…11:443");
        assert_eq!(fit("abc", 1), "…");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn wrapped_lines_lose_no_word_and_none_is_too_long() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 5), [""]);
        let text = "connect to 10.0.0.7:443 timed out after 500 ms (try 2 of 3)";
        for width in 0..70 {
            let lines = wrap(text, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(1)), "{width}: {lines:?}");
            assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""), "{width}");
        }
    }
}
