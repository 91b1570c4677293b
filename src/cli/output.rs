//! The only place that writes to stdout and stderr: tables for people, tab-separated text for pipes, JSON on request.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

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
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Writes a message to stderr.
pub fn message(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
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

/// A table: a head and rows of equal width.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it: aligned on a terminal, tab-separated in a pipe.
    pub fn print(&self, globals: &Globals) {
        let terminal = io::stdout().is_terminal();
        data(&self.render(terminal, colour(globals, terminal)));
    }

    fn render(&self, terminal: bool, colour: Colour) -> String {
        let mut text = String::new();
        if !terminal {
            text.push_str(&self.head.join("\t"));
            text.push('\n');
            for row in &self.rows {
                text.push_str(&row.join("\t"));
                text.push('\n');
            }
            return text;
        }
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let head: Vec<String> = self.head.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padding = width - cell.chars().count() + 2;
                line.push_str(&paint(cell, colour));
                line.extend(std::iter::repeat_n(' ', padding));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Colours the words for states.
fn paint(cell: &str, colour: Colour) -> String {
    let code = match cell {
        "up" | "ok" | "running" => 32,
        "down" | "failed" => 31,
        "draining" | "disabled" | "ejected" | "warn" | "leaving" | "starting" => 33,
        _ => return cell.to_owned(),
    };
    match colour {
        Colour::Styled => format!("\u{1b}[{code}m{cell}\u{1b}[0m"),
        Colour::Plain => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_for_people_and_tabbed_for_pipes() {
        let mut table = Table::new(&["name", "state"]);
        table.row(vec!["a-long-name".into(), "up".into()]);
        table.row(vec!["b".into(), "down".into()]);
        assert_eq!(table.render(false, Colour::Plain), "name\tstate\na-long-name\tup\nb\tdown\n");
        assert_eq!(table.render(true, Colour::Plain), "name         state\na-long-name  up\nb            down\n");
        assert!(table.render(true, Colour::Styled).contains("\u{1b}[31mdown\u{1b}[0m"));
    }
}
