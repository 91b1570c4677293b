//! Lines, the commands in them, and their words, as HAProxy cuts them: `;` between commands, blanks between words, and a
//! backslash takes the meaning from the character behind it. It knows no command.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longest line, in bytes; HAProxy's is as long as its buffer.
pub const MOST: usize = 16 * 1024;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The words of each command of a line, at least one command.
    Whole(Vec<Vec<String>>),
    /// No end within [`MOST`] bytes.
    TooLong,
    /// The client closed within a line: nothing of it is obeyed.
    Cut,
}

/// Reads one line. The caller bounds the time.
pub async fn read(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    lines.take(MOST as u64).read_until(b'\n', &mut line).await?;
    Ok(match line.split_last() {
        Some((b'\n', line)) => Line::Whole(commands(line.strip_suffix(b"\r").unwrap_or(line))),
        _ if line.len() == MOST => Line::TooLong,
        _ => Line::Cut,
    })
}

/// The words of each command of a line.
fn commands(line: &[u8]) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => end_word(&mut word, &mut commands),
            b';' => {
                end_word(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            b'\\' => {
                if let Some(byte) = bytes.next() {
                    word.get_or_insert_default().push(byte);
                }
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    end_word(&mut word, &mut commands);
    commands
}

fn end_word(word: &mut Option<Vec<u8>>, commands: &mut [Vec<String>]) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
        command.push(String::from_utf8_lossy(&word).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, BufReader};

    use super::*;
    use crate::decide::balance::next_random;

    /// The words of each command, joined by `|`, the commands by `;`.
    #[track_caller]
    fn check(line: &str, want: &str) {
        let shown: Vec<String> = commands(line.as_bytes()).iter().map(|words| words.join("|")).collect();
        assert_eq!(shown.join(";"), want, "{line:?}");
    }

    #[test]
    fn lines_are_cut_as_haproxy_cuts_them() {
        check("show info", "show|info");
        check("  show\t stat  ", "show|stat");
        check("get weight a/b; disable server a/b", "get|weight|a/b;disable|server|a/b");
        check("prompt;show version;", "prompt;show|version;");
        check("", "");
        check(";", ";");
        check(r"get weight a\;b/c\ d", "get|weight|a;b/c d");
        check(r"get weight shop/\c", "get|weight|shop/c");
        check(r"show version\\;x", r"show|version\;x");
        check("show version\\", "show|version");
        check("show \u{e9}", "show|\u{e9}");
    }

    /// Reads all lines from pieces of at most `size` bytes.
    fn lines(bytes: &[u8], size: usize) -> Vec<Line> {
        read_all(BufReader::with_capacity(size, bytes))
    }

    fn read_all(mut reader: BufReader<impl AsyncRead + Unpin>) -> Vec<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut all = Vec::new();
            while !reader.fill_buf().await.expect("bytes").is_empty() {
                all.push(read(&mut reader).await.expect("a line"));
            }
            all
        })
    }

    const TALK: &[u8] = b"prompt\nset timeout cli 60\r\nget weight a/b;set weight a/b 50%\nshow \xff\\;x\nshow st";

    #[test]
    fn how_bytes_arrive_does_not_matter() {
        let whole = lines(TALK, TALK.len());
        assert_eq!((whole.len(), &whole[4]), (5, &Line::Cut));
        for size in 1..TALK.len() {
            assert_eq!(lines(TALK, size), whole, "in pieces of {size}");
            let (head, tail) = TALK.split_at(size);
            assert_eq!(read_all(BufReader::new(head.chain(tail))), whole, "cut at {size}");
        }
    }

    #[test]
    fn a_line_that_was_cut_short_is_not_obeyed() {
        for end in 1..TALK.len() {
            let read = lines(&TALK[..end], 64);
            let ends = TALK[..end].iter().filter(|byte| **byte == b'\n').count();
            let whole = read.iter().filter(|line| matches!(line, Line::Whole(_))).count();
            assert_eq!((whole, read.contains(&Line::Cut)), (ends, TALK[end - 1] != b'\n'), "{end}");
        }
    }

    #[test]
    fn a_line_has_its_limit() {
        let mut line = vec![b'x'; MOST - 1];
        assert_eq!(lines(&line, 64), [Line::Cut]);
        line.push(b'x');
        assert_eq!(lines(&line, 64), [Line::TooLong]);
        line[MOST - 1] = b'\n';
        assert!(matches!(&lines(&line, 64)[..], [Line::Whole(_)]));
    }

    #[test]
    fn mangled_lines_keep_their_commands_apart() {
        for seed in 0..20_000_u64 {
            let mut dice = seed;
            let mut roll = |sides: usize| {
                dice = next_random(dice);
                (dice >> 20) as usize % sides
            };
            let mut line: Vec<u8> = TALK.iter().copied().filter(|byte| *byte != b'\n').collect();
            for _ in 0..=roll(8) {
                let place = roll(line.len());
                line[place] = [b'\\', b';', b' ', 0, 0xff, b'/', b'\t', b'\r'][roll(8)];
            }
            let cut = commands(&line);
            let free = line.iter().filter(|byte| **byte == b';').count();
            assert!(!cut.is_empty() && cut.len() <= free + 1, "seed {seed}");
            // What is between two commands belongs to one of them only: each alone gives the same words.
            let escaped: Vec<String> =
                cut.iter().map(|words| words.iter().map(|word| escape(word)).collect::<Vec<_>>().join(" ")).collect();
            assert_eq!(commands(escaped.join(";").as_bytes()), cut, "seed {seed}");
        }
    }

    fn escape(word: &str) -> String {
        word.chars().fold(String::new(), |text, c| {
            if c.is_ascii() { text + "\\" + &c.to_string() } else { text + &c.to_string() }
        })
    }
}
