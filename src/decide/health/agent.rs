//! What an agent says of a backend: one line in HAProxy's words (its configuration manual, "agent-check"), read into
//! values. It asks no agent and changes no backend. What a line does not mention stays as it is. Two liberties: `failed`
//! is taken for `fail`, and a description may follow its word without a blank.

/// Largest share that is taken, in percent; larger ones are this (HAProxy's own limit).
const MOST_WEIGHT: u32 = 25_600;
/// Words that nobody knows, as far as they are kept, and characters of each.
const MOST_UNKNOWN: usize = 4;
const MOST_WORD: usize = 32;
/// Characters of the description that are kept.
const MOST_TEXT: usize = 200;

/// One line, read. Of several words of one sort the last counts, as for HAProxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentWords {
    /// `75%`: share of the configured weight, in percent; 0 takes no new connections.
    pub weight: Option<u32>,
    /// `maxconn:30`: connections at once; 0: no limit.
    pub max_connections: Option<u32>,
    /// What an operator could have asked for.
    pub operation: Option<Operation>,
    /// Whether it is well.
    pub health: Option<AgentHealth>,
    /// What stood after `#`, for people; not made harmless.
    pub text: String,
    /// The first words that are none of these; not made harmless.
    pub unknown: Vec<String>,
}

/// What an operator could have asked for, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Takes connections.
    Ready,
    /// Takes no new ones.
    Drain,
    /// Takes none and is not checked.
    Maintenance,
}

/// Whether a backend is well, in the agent's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentHealth {
    /// It is.
    Up,
    /// It is not.
    Down,
    /// A check of the agent's own failed.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl Operation {
    /// HAProxy's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maint",
        }
    }
}

impl AgentHealth {
    /// HAProxy's word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Failed => "fail",
            Self::Stopped => "stopped",
        }
    }
}

impl AgentWords {
    /// Reads a line up to its first CR or LF, or to its end.
    pub fn parse(line: &[u8]) -> Self {
        let line = line.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let (words, text) = match line.iter().position(|byte| *byte == b'#') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let mut read = Self { text: shortened(text.trim_ascii(), MOST_TEXT), ..Self::default() };
        for word in words.split(|byte| matches!(byte, b' ' | b'\t' | b',')).filter(|word| !word.is_empty()) {
            if !read.take(&word.to_ascii_lowercase()) && read.unknown.len() < MOST_UNKNOWN {
                read.unknown.push(shortened(word, MOST_WORD));
            }
        }
        read
    }

    /// Whether the line said nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes one word, in lower case; false when it is unknown.
    fn take(&mut self, word: &[u8]) -> bool {
        match word {
            b"up" => self.health = Some(AgentHealth::Up),
            b"down" => self.health = Some(AgentHealth::Down),
            b"fail" | b"failed" => self.health = Some(AgentHealth::Failed),
            b"stopped" => self.health = Some(AgentHealth::Stopped),
            b"ready" => self.operation = Some(Operation::Ready),
            b"drain" => self.operation = Some(Operation::Drain),
            b"maint" => self.operation = Some(Operation::Maintenance),
            _ => return self.take_number(word),
        }
        true
    }

    fn take_number(&mut self, word: &[u8]) -> bool {
        if let Some(share) = word.strip_suffix(b"%").and_then(number) {
            self.weight = Some(share.min(MOST_WEIGHT));
        } else if let Some(most) = word.strip_prefix(b"maxconn:").and_then(number) {
            self.max_connections = Some(most);
        } else {
            return false;
        }
        true
    }
}

/// Digits only: no sign, no blank.
fn number(digits: &[u8]) -> Option<u32> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| all_digits)?.parse().ok()
}

fn shortened(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(bytes).chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::balance::next_random;

    fn words() -> AgentWords {
        AgentWords::default()
    }

    #[track_caller]
    fn check(line: &str, want: AgentWords) {
        assert_eq!(AgentWords::parse(line.as_bytes()), want, "{line:?}");
    }

    #[test]
    fn words_of_the_manual_are_read_in_any_order() {
        let (up, down) = (Some(AgentHealth::Up), Some(AgentHealth::Down));
        check("75%\n", AgentWords { weight: Some(75), ..words() });
        check("0%", AgentWords { weight: Some(0), ..words() });
        check("110%\r\n", AgentWords { weight: Some(110), ..words() });
        check("99999%", AgentWords { weight: Some(25_600), ..words() });
        check("maxconn:30\n", AgentWords { max_connections: Some(30), ..words() });
        check("ready\n", AgentWords { operation: Some(Operation::Ready), ..words() });
        check("DRAIN\n", AgentWords { operation: Some(Operation::Drain), ..words() });
        check("maint\n", AgentWords { operation: Some(Operation::Maintenance), ..words() });
        check("up\n", AgentWords { health: up, ..words() });
        check("down\n", AgentWords { health: down, ..words() });
        check("failed\n", AgentWords { health: Some(AgentHealth::Failed), ..words() });
        check("fail\n", AgentWords { health: Some(AgentHealth::Failed), ..words() });
        check("stopped\n", AgentWords { health: Some(AgentHealth::Stopped), ..words() });
        let all = AgentWords {
            weight: Some(50),
            max_connections: Some(7),
            operation: Some(Operation::Ready),
            health: up,
            ..words()
        };
        check("up ready\t50%,maxconn:7\n", all.clone());
        check(",, 50% up\t\tmaxconn:7 ready", all);
        check(
            "down#out of disk, 0% left\nup\n",
            AgentWords { health: down, text: "out of disk, 0% left".into(), ..words() },
        );
        check("down # disk #2", AgentWords { health: down, text: "disk #2".into(), ..words() });
    }

    #[test]
    fn the_last_word_of_a_sort_counts_and_only_the_first_line() {
        check("up down 10% 20%\n30%", AgentWords { health: Some(AgentHealth::Down), weight: Some(20), ..words() });
        check("drain\rready", AgentWords { operation: Some(Operation::Drain), ..words() });
    }

    #[test]
    fn what_is_not_mentioned_stays_open_and_unknown_words_are_kept_apart() {
        assert!(AgentWords::parse(b"").is_empty() && AgentWords::parse(b" \t,\r\n").is_empty());
        for word in
            ["75", "%", "-5%", "+5%", "7.5%", "75%%", "4294967296%", "maxconn:", "maxconn:x", "upp", "stop", "ready!"]
        {
            check(word, AgentWords { unknown: vec![word.to_owned()], ..words() });
        }
        check("hello up", AgentWords { health: Some(AgentHealth::Up), unknown: vec!["hello".into()], ..words() });
        let many = AgentWords::parse(b"a b c d e f");
        assert_eq!(many.unknown, ["a", "b", "c", "d"]);
        let long = AgentWords::parse(format!("{}#{}", "x".repeat(900), "y".repeat(900)).as_bytes());
        assert_eq!((long.unknown[0].len(), long.text.len()), (MOST_WORD, MOST_TEXT));
    }

    #[test]
    fn any_bytes_are_read_within_bounds() {
        let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_a9e7);
        eprintln!("SLUICE_TEST_SEED={seed}");
        let line = b"up 75%,maxconn:30 drain down#reason\r\n";
        let mut dice = seed;
        for _ in 0..20_000 {
            let mut mutant = line.to_vec();
            for _ in 0..3 {
                dice = next_random(dice);
                let at = (dice >> 8) as usize % mutant.len();
                mutant[at] = dice as u8;
            }
            mutant.truncate((next_random(dice) >> 16) as usize % (line.len() + 1));
            let read = AgentWords::parse(&mutant);
            assert!(read.unknown.len() <= MOST_UNKNOWN && read.text.chars().count() <= MOST_TEXT);
            assert!(read.weight.is_none_or(|weight| weight <= MOST_WEIGHT));
            // What is after the first line changes nothing.
            let longer = [&mutant[..], b"\n0% maint"].concat();
            assert_eq!(AgentWords::parse(&longer), read, "{}", mutant.escape_ascii());
        }
    }
}
