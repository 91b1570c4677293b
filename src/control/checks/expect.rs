//! The check `expect`: sends and waits as its steps say. What a step expected is used up; the next one looks at what came
//! after it.

use std::cell::Cell;

use super::encryption::{self, Opener};
use super::evidence::excerpt;
use super::{Failed, Passed, Talk};
use crate::config::{Expect, Step};

/// The steps.
pub struct Dialogue {
    opener: Opener,
    steps: Vec<Step>,
}

impl Dialogue {
    pub fn new(settings: &Expect) -> Result<Self, String> {
        Ok(Self { opener: Opener::new(&settings.encryption)?, steps: settings.steps.clone() })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = self.opener.open(talk).await?;
        let mut bytes = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            let number = at + 1;
            match step {
                Step::Send(text) => {
                    talk.phase("send");
                    talk.note(&format!("step {number}"));
                    talk.send(&mut stream, text).await?;
                }
                Step::Expect(text) => {
                    talk.phase("expect");
                    talk.note(&format!("step {number} wants {}", excerpt(text)));
                    let search = Search { text, seen: Cell::new(0) };
                    talk.receive(&mut stream, &mut bytes, |bytes| search.find(bytes).is_some()).await?;
                    let end = search.find(&bytes).map_or(bytes.len(), |at| at + text.len());
                    bytes.drain(..end);
                }
            }
        }
        encryption::end(talk, stream, b"").await;
        let count = self.steps.len();
        Ok(Passed::new("expected", format!("{} did as expected, steps: {count}", talk.target.address)))
    }
}

/// Looks for a text in what grows, without looking at its beginning again and again.
struct Search<'a> {
    text: &'a [u8],
    /// Places in front of this one were looked at and do not fit.
    seen: Cell<usize>,
}

impl Search<'_> {
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let from = self.seen.get();
        let found = bytes.get(from..)?.windows(self.text.len()).position(|window| window == self.text);
        let next = bytes.len().saturating_sub(self.text.len() - 1).max(from);
        self.seen.set(found.map_or(next, |found| from + found));
        found.map(|found| from + found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_however_what_came_was_cut() {
        let bytes = b"abcabcabcd+PONG\r\nabcd";
        for text in [&b"abcd"[..], b"a", b"+PONG\r\n", b"abcabcabcd+PONG\r\nabcd"] {
            let want = bytes.windows(text.len()).position(|window| window == text);
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let search = Search { text, seen: Cell::new(0) };
                    let found = [first, second, bytes.len()].into_iter().find_map(|cut| search.find(&bytes[..cut]));
                    assert_eq!(found, want, "{} cut at {first} and {second}", text.escape_ascii());
                    assert_eq!(search.find(bytes), want, "found again");
                }
            }
        }
        let search = Search { text: b"abcde", seen: Cell::new(0) };
        assert_eq!((0..=bytes.len()).find_map(|cut| search.find(&bytes[..cut])), None);
    }
}
