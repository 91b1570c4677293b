//! Bytes as a person can read them in a log: bounded, without anything that a terminal would obey.

/// Most bytes that are shown of what came or went at once.
const SHOWN: usize = 64;
/// Most characters that are shown of a text.
const MOST_CHARACTERS: usize = 200;

/// The first bytes of something, and how many there were.
#[derive(Debug, Default)]
pub struct Excerpt {
    head: Vec<u8>,
    total: usize,
}

impl Excerpt {
    /// Takes note of further bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let room = SHOWN - self.head.len();
        self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.total += bytes.len();
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Their number, and the first of them: quoted when they are text, in hexadecimal otherwise.
    pub fn show(&self) -> String {
        let cut = if self.total > self.head.len() { " ..." } else { "" };
        let plural = if self.total == 1 { "" } else { "s" };
        format!("{} byte{plural} {}{cut}", self.total, shown(&self.head))
    }
}

/// Number and beginning of `bytes`.
pub fn excerpt(bytes: &[u8]) -> String {
    let mut excerpt = Excerpt::default();
    excerpt.add(bytes);
    excerpt.show()
}

/// A text of others, cut short, with everything escaped that a terminal could obey or a reader take for something else.
pub fn harmless(text: &str) -> String {
    let plain =
        |c: char| if c.is_ascii() && !c.is_ascii_control() { c.to_string() } else { c.escape_default().to_string() };
    let shown: String = text.chars().take(MOST_CHARACTERS).map(plain).collect();
    if text.chars().nth(MOST_CHARACTERS).is_some() { shown + " ..." } else { shown }
}

fn shown(bytes: &[u8]) -> String {
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if is_text {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(excerpt(bytes), expected);
    }

    #[test]
    fn bytes_are_shown_bounded_and_harmless() {
        check(b"+PONG\r\n", r#"7 bytes "+PONG\r\n""#);
        check(b"x", r#"1 byte "x""#);
        check(b"\x15\x03\x03\x00\x02\x02\x70", "7 bytes 15 03 03 00 02 02 70");
        check(b"\x1b[2J", "4 bytes 1b 5b 32 4a");
        check("\u{202e}".as_bytes(), "3 bytes e2 80 ae");
        check(&[b'a'; 65], &format!("65 bytes \"{}\" ...", "a".repeat(64)));
    }

    #[test]
    fn parts_add_up() {
        let mut sum = Excerpt::default();
        assert!(sum.is_empty());
        for part in [&b"a"[..], &[b'b'; 62], b"cd", b"e"] {
            sum.add(part);
        }
        assert_eq!(sum.show(), format!("66 bytes \"a{}c\" ...", "b".repeat(62)));
    }
}
