//! Tables: aligned and coloured on a terminal, within its width; tab-separated with a stable head in a pipe. What a
//! column holds is decided in `tables/`.

use textwrap::Options;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Globals;
use super::output::{Paper, colour, data_styled, paper, visible};
use crate::config::Colour;

/// Blanks between two columns.
const GAP: usize = 2;
/// A column that may be cut keeps so many characters.
const LEAST: usize = 8;

/// What becomes of a column on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is always there.
    Keep,
    /// Its cells are cut when there is no room.
    Shrink,
    /// It is left out when there is no room, the largest number first.
    Drop(u8),
    /// It is for pipes only.
    Pipe,
    /// It is for terminals only, and cut when there is no room.
    Terminal,
}

/// On which side a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head in a pipe.
    pub name: &'static str,
    /// Its head on a terminal.
    pub title: &'static str,
    /// What becomes of it on a terminal.
    pub place: Place,
    /// On which side it is flush.
    pub flush: Flush,
}

impl Column {
    /// Words.
    pub const fn words(name: &'static str, title: &'static str, place: Place) -> Self {
        Self { name, title, place, flush: Flush::Left }
    }

    /// Numbers.
    pub const fn number(name: &'static str, title: &'static str, place: Place) -> Self {
        Self { name, title, place, flush: Flush::Right }
    }
}

/// How something is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Not at all.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Look at it.
    Warn,
    /// Broken.
    Bad,
}

impl Tone {
    /// Of the words for states.
    pub fn of(word: &str) -> Self {
        match word {
            "up" | "ok" | "running" => Self::Good,
            "down" | "failed" => Self::Bad,
            "draining" | "disabled" | "ejected" | "warn" | "leaving" | "starting" => Self::Warn,
            _ => Self::Plain,
        }
    }

    fn paint(self, text: &str, colour: Colour) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Warn => 33,
            Self::Bad => 31,
        };
        match colour {
            Colour::Styled => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Colour::Plain => text.to_owned(),
        }
    }
}

/// One cell: what a program reads, and what people see.
#[derive(Clone, Debug)]
pub struct Cell {
    raw: String,
    shown: String,
    tone: Tone,
}

impl Cell {
    /// The same for both.
    pub fn new(text: impl ToString) -> Self {
        let raw = text.to_string();
        Self { tone: Tone::of(&raw), shown: raw.clone(), raw }
    }

    /// Different ones.
    pub fn two(raw: impl ToString, shown: impl ToString) -> Self {
        Self { raw: raw.to_string(), shown: shown.to_string(), tone: Tone::Plain }
    }

    /// Nothing to say.
    pub fn none() -> Self {
        Self::new("-")
    }

    /// The same with another colour.
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

/// A sentence below a row, for people.
#[derive(Clone, Debug)]
pub struct Note {
    label: &'static str,
    text: String,
    tone: Tone,
}

impl Note {
    /// A labelled sentence.
    pub fn new(label: &'static str, text: String, tone: Tone) -> Self {
        Self { label, text, tone }
    }
}

struct Row {
    cells: Vec<Cell>,
    notes: Vec<Note>,
}

/// A table: a head, rows of equal width, and notes below them.
pub struct Table {
    columns: &'static [Column],
    rows: Vec<Row>,
}

impl Table {
    /// An empty table.
    pub const fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row: a cell for each column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.noted_row(cells, Vec::new());
    }

    /// Adds a row with notes.
    pub fn noted_row(&mut self, cells: Vec<Cell>, notes: Vec<Note>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row { cells, notes });
    }

    /// Prints it.
    pub fn print(&self, globals: &Globals) {
        let paper = paper();
        data_styled(&self.render(paper, colour(globals, paper != Paper::Pipe)));
    }

    /// The table as text.
    pub fn render(&self, paper: Paper, colour: Colour) -> String {
        match paper {
            Paper::Pipe => self.head_for_pipe() + &self.body_for_pipe(),
            Paper::Terminal(width) => self.for_terminal(width, colour),
        }
    }

    /// Its rows without the head.
    pub fn body(&self, paper: Paper, colour: Colour) -> String {
        let text = self.render(paper, colour);
        text.split_once('\n').map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    fn head_for_pipe(&self) -> String {
        let names = self.columns.iter().filter(|column| column.place != Place::Terminal).map(|column| column.name);
        names.collect::<Vec<_>>().join("\t") + "\n"
    }

    fn body_for_pipe(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.cells.iter().zip(self.columns).filter(|(_, column)| column.place != Place::Terminal);
            let cells: Vec<String> = cells.map(|(cell, _)| visible(&cell.raw, &[])).collect();
            text.push_str(&cells.join("\t"));
            text.push('\n');
        }
        text
    }

    fn for_terminal(&self, width: usize, colour: Colour) -> String {
        let titles = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let shown = self.rows.iter().map(|row| row.cells.iter().map(|cell| visible(&cell.shown, &[])).collect());
        let shown: Vec<Vec<String>> = std::iter::once(titles).chain(shown).collect();
        let layout = self.layout(width, &shown);
        let mut text = String::new();
        for (number, cells) in shown.iter().enumerate() {
            let row = number.checked_sub(1).map(|number| &self.rows[number]);
            let mut line = String::new();
            let mut pending = 0;
            for (column, room) in &layout {
                let cell = cut(&cells[*column], *room);
                let blank = room - cell.width();
                let (before, after) = match self.columns[*column].flush {
                    Flush::Left => (0, blank),
                    Flush::Right => (blank, 0),
                };
                // Blanks at the end of a line are never written.
                line.extend(std::iter::repeat_n(' ', pending + before));
                let tone = row.map_or(Tone::Plain, |row| row.cells[*column].tone);
                line.push_str(&tone.paint(&cell, colour));
                pending = after + GAP;
            }
            text.push_str(line.trim_end());
            text.push('\n');
            for note in row.iter().flat_map(|row| &row.notes) {
                text.push_str(&note.render(width, colour));
            }
        }
        text
    }

    /// Which columns are shown, each with its width.
    fn layout(&self, width: usize, shown: &[Vec<String>]) -> Vec<(usize, usize)> {
        let widest = |column: usize| shown.iter().map(|row| row[column].width()).max().unwrap_or(0);
        let mut layout: Vec<(usize, usize)> = (0..self.columns.len())
            .filter(|column| self.columns[*column].place != Place::Pipe)
            .map(|column| (column, widest(column)))
            .collect();
        let place = |column: usize| self.columns[column].place;
        let shrinks = |column: usize| matches!(place(column), Place::Shrink | Place::Terminal);
        loop {
            let taken: usize = layout.iter().map(|(_, room)| room + GAP).sum();
            let excess = (taken - GAP.min(taken)).saturating_sub(width);
            if excess == 0 {
                return layout;
            }
            let spare: usize =
                layout.iter().filter(|(column, _)| shrinks(*column)).map(|(_, room)| room.saturating_sub(LEAST)).sum();
            let ranks = layout.iter().filter_map(|(column, _)| match place(*column) {
                Place::Drop(rank) => Some(rank),
                _ => None,
            });
            if let Some(least_important) = ranks.max() {
                layout.retain(|(column, _)| place(*column) != Place::Drop(least_important));
            } else if spare > 0 {
                let widest = layout.iter_mut().filter(|(column, _)| shrinks(*column)).max_by_key(|(_, room)| *room);
                let Some((_, room)) = widest else { return layout };
                *room -= 1;
            } else if layout.len() > 1 {
                // Narrower than any terminal that people work at.
                layout.pop();
            } else {
                layout[0].1 = width;
                return layout;
            }
        }
    }
}

impl Note {
    fn render(&self, width: usize, colour: Colour) -> String {
        let first = format!("  {:<9} ", self.label);
        let rest = " ".repeat(first.len());
        // Where a label leaves no room, lines are as long as they must be.
        let options = Options::new(width.max(first.len() + LEAST)).initial_indent(&first).subsequent_indent(&rest);
        let text = visible(&self.text, &[]);
        let lines = textwrap::wrap(&text, options);
        let lines = lines.iter().map(|line| self.tone.paint(line, colour) + "\n");
        lines.collect()
    }
}

/// The text within `room` columns, with an ellipsis where something is left out.
fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut taken = 1;
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > room {
            break;
        }
        kept.push(character);
    }
    kept + if room > 0 { "\u{2026}" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::words("name", "name", Place::Shrink),
        Column::words("state", "state", Place::Keep),
        Column::number("total_count", "total", Place::Drop(1)),
        Column::number("rate", "rate", Place::Drop(2)),
        Column::words("why", "", Place::Pipe),
    ];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        let cells = |name: &str, state: &str, total: u32| {
            vec![Cell::new(name), Cell::new(state), Cell::new(total), Cell::two("1234.5", "1.2k"), Cell::new("a\tb")]
        };
        table.row(cells("a-long-name", "up", 5));
        table.noted_row(cells("b", "down", 1200), vec![Note::new("why", "one two three four five".into(), Tone::Bad)]);
        table
    }

    #[track_caller]
    fn on_terminal(width: usize, want: &str) {
        let text = table().render(Paper::Terminal(width), Colour::Plain);
        assert_eq!(text, want);
        assert!(text.lines().all(|line| line.width() <= width), "{text}");
    }

    #[test]
    fn pipes_get_every_column_with_a_stable_head() {
        let want = "name\tstate\ttotal_count\trate\twhy\n\
                    a-long-name\tup\t5\t1234.5\ta\\u{9}b\nb\tdown\t1200\t1234.5\ta\\u{9}b\n";
        assert_eq!(table().render(Paper::Pipe, Colour::Plain), want);
    }

    #[test]
    fn terminals_get_what_fits_the_least_important_columns_left_out_first() {
        on_terminal(
            80,
            "name         state  total  rate\na-long-name  up         5  1.2k\nb            down    1200  1.2k\n  \
             why       one two three four five\n",
        );
        on_terminal(
            30,
            "name         state  total\na-long-name  up         5\nb            down    1200\n  why       one two three four\n            five\n",
        );
        on_terminal(
            20,
            "name         state\na-long-name  up\nb            down\n  why       one two\n            three\n            four\n            five\n",
        );
        let narrow = table().render(Paper::Terminal(16), Colour::Plain);
        assert!(narrow.starts_with("name       state\na-long-n\u{2026}  up\n"), "{narrow}");
    }

    #[test]
    fn states_have_their_colours_and_wide_characters_their_width() {
        let text = table().render(Paper::Terminal(80), Colour::Styled);
        assert!(text.contains("\u{1b}[31mdown\u{1b}[0m") && text.contains("\u{1b}[32mup\u{1b}[0m"), "{text}");
        assert_eq!(cut("日本語", 5), "日本\u{2026}");
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 4), "日\u{2026}");
    }
}
