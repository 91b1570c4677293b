//! The only place that writes to stdout and stderr. What came from the daemon may have come from a peer: control
//! characters never reach a terminal as they are.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::Globals;
use crate::config::Colour;

/// Exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed at run time.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Invalid configuration.
    InvalidConfig = 3,
    /// Warnings under `--deny-warnings`.
    Warnings = 4,
    /// No daemon behind the socket.
    NoDaemon = 5,
    /// Refused, or no such object.
    Refused = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Writes data to stdout. A closed pipe is no error: whoever read has seen enough.
pub fn data(text: &str) {
    let _ = stream(text);
}

/// As [`data`], for whoever writes on and on and must end when nobody reads any more.
pub fn stream(text: &str) -> io::Result<()> {
    stream_styled(&visible(text, &['\n', '\t']))
}

/// As [`data`], for text whose colours are ours and whose other parts went through [`visible`].
pub fn data_styled(text: &str) {
    let _ = stream_styled(text);
}

/// As [`stream`], for text of the same kind.
pub fn stream_styled(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one JSON document to stdout.
pub fn json(value: &impl Serialize) {
    // Maps of ours have strings as keys, so that this cannot fail.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    data_styled(&format!("{}\n", ascii_controls(&text)));
}

/// JSON with every control character escaped, those beyond ASCII as well, which JSON leaves as they are.
pub fn ascii_controls(text: &str) -> String {
    escaped(text, &['\n'], |out, character| {
        let mut units = [0; 2];
        for unit in character.encode_utf16(&mut units) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// Writes a message to stderr.
pub fn message(text: &str) {
    message_styled(&visible(text, &['\n', '\t']));
}

/// As [`message`], for text whose colours are ours.
pub fn message_styled(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a message that `--quiet` leaves out.
pub fn note(globals: &Globals, text: &str) {
    if !globals.quiet {
        message(text);
    }
}

/// A text whose control and formatting characters are written out, except those of `kept`.
pub fn visible(text: &str, kept: &[char]) -> String {
    escaped(text, kept, |out, character| out.extend(character.escape_unicode()))
}

fn escaped(text: &str, kept: &[char], escape: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        // What Rust prints escaped in a literal: control characters, and those that turn or hide text. Quotes and the
        // backslash are harmless.
        let harmless = matches!(character, '"' | '\'' | '\\') || kept.contains(&character);
        if harmless || character.escape_debug().len() == 1 {
            out.push(character);
        } else {
            escape(&mut out, character);
        }
    }
    out
}

/// Whether a stream gets colours (the `NO_COLOR` convention).
pub fn colour(globals: &Globals, is_terminal: bool) -> Colour {
    let refused = globals.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_terminal && !refused { Colour::Styled } else { Colour::Plain }
}

/// Colours for messages.
pub fn message_colour(globals: &Globals) -> Colour {
    colour(globals, io::stderr().is_terminal())
}

/// Where data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paper {
    /// To a program: tab-separated.
    Pipe,
    /// To a terminal with so many columns.
    Terminal(usize),
}

/// Columns of a terminal that does not say.
const USUAL_WIDTH: usize = 80;

/// Where stdout goes.
pub fn paper() -> Paper {
    if !io::stdout().is_terminal() {
        return Paper::Pipe;
    }
    let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    Paper::Terminal(width.filter(|width| *width > 0).unwrap_or(USUAL_WIDTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        let hostile = "a\u{1b}[31mb\u{9b}2Jc\u{202e}d\u{7}\r\n\t\u{7f}\u{200b}\"'\\é\u{1f600}";
        let want = "a\\u{1b}[31mb\\u{9b}2Jc\\u{202e}d\\u{7}\\u{d}\\u{a}\\u{9}\\u{7f}\\u{200b}\"'\\é\u{1f600}";
        assert_eq!(visible(hostile, &[]), want);
        assert_eq!(visible("a\nb\tc\r", &['\n', '\t']), "a\nb\tc\\u{d}");
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({ "name": "a\u{1b}\u{9b}2J\u{202e}\u{e0001}\n" });
        let text = ascii_controls(&serde_json::to_string_pretty(&value).expect("text"));
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), value);
    }
}
