//! Lists on the screen: a head, and as many lines as there is room for, around the selected one. Columns that do not fit
//! are left out, the least important first.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::theme::{SELECTED, Theme};
use crate::cli::top::text::fit;

/// Between columns.
const GAP: usize = 1;

/// A column. The first of a list is never left out and gets the room that is left.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    title: &'static str,
    /// Characters, at least.
    width: usize,
    side: Side,
    /// The higher, the sooner it is left out.
    rank: u8,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Left,
    Right,
}

impl Column {
    /// Of words.
    pub const fn words(title: &'static str, width: usize, rank: u8) -> Self {
        Self { title, width, side: Side::Left, rank }
    }

    /// Of figures.
    pub const fn figures(title: &'static str, width: usize, rank: u8) -> Self {
        Self { title, width, side: Side::Right, rank }
    }
}

/// What stands in a column of a line.
#[derive(Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// With emphasis.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A list.
#[derive(Debug)]
pub struct Sheet<'a> {
    /// In place of the first column's title.
    pub title: String,
    /// All that it could have.
    pub columns: &'a [Column],
    /// The title of the column that it is ordered by.
    pub ordered_by: Option<&'static str>,
    /// Lines that there are.
    pub count: usize,
    /// The one that is selected.
    pub selected: usize,
    /// Whether it has the arrow keys.
    pub has_focus: bool,
}

impl Sheet<'_> {
    /// Draws it; `line` gives the cells of a line, one for each column.
    pub fn draw(&self, theme: Theme, area: Rect, buffer: &mut Buffer, line: impl Fn(usize) -> Vec<Cell>) {
        let Some(room) = (area.height as usize).checked_sub(1) else { return };
        let places = places(self.columns, area.width as usize);
        buffer.set_style(Rect { height: 1, ..area }, theme.head(self.has_focus));
        for (column, place) in self.columns.iter().zip(&places) {
            let title = if place.is_some_and(|place| place.at == 0) { self.title.as_str() } else { column.title };
            let title = match self.ordered_by {
                Some(by) if by == column.title => format!("{title}▾"),
                _ => title.to_owned(),
            };
            put(buffer, area, 0, *column, *place, &title.into());
        }
        // Around the selected line, without going beyond either end.
        let first = self.selected.saturating_sub(room / 2).min(self.count.saturating_sub(room));
        for (y, number) in (first..self.count.min(first + room)).enumerate() {
            for ((column, place), cell) in self.columns.iter().zip(&places).zip(line(number)) {
                put(buffer, area, y + 1, *column, *place, &cell);
            }
            if self.has_focus && number == self.selected {
                buffer.set_style(Rect { y: area.y + 1 + y as u16, height: 1, ..area }, SELECTED);
            }
        }
    }
}

/// Where a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: usize,
    width: usize,
}

/// Places of columns, `None` for those that are left out.
fn places(columns: &[Column], width: usize) -> Vec<Option<Place>> {
    let mut kept: Vec<bool> = vec![true; columns.len()];
    let needed = |kept: &[bool]| -> usize {
        let widths = columns.iter().zip(kept).filter(|(_, kept)| **kept).map(|(column, _)| column.width + GAP);
        widths.sum::<usize>().saturating_sub(GAP)
    };
    while needed(&kept) > width {
        let least = (1..columns.len()).filter(|place| kept[*place]).max_by_key(|place| columns[*place].rank);
        let Some(least) = least else { break };
        kept[least] = false;
    }
    let spare = width.saturating_sub(needed(&kept));
    let mut at = 0;
    let place = |(number, column): (usize, &Column)| {
        kept[number].then(|| {
            let own = if number == 0 { (column.width + spare).min(width) } else { column.width };
            let place = Place { at, width: own };
            at += own + GAP;
            place
        })
    };
    columns.iter().enumerate().map(place).collect()
}

fn put(buffer: &mut Buffer, area: Rect, y: usize, column: Column, place: Option<Place>, cell: &Cell) {
    let Some(Place { at, width }) = place else { return };
    let text = fit(&cell.text, width);
    let text = match column.side {
        Side::Left => text,
        Side::Right => format!("{text:>width$}"),
    };
    buffer.set_stringn(area.x + at as u16, area.y + y as u16, text, width, cell.style);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_do_not_fit_are_left_out_by_rank_and_the_first_gets_the_rest() {
        let columns = [Column::words("a", 5, 0), Column::figures("b", 3, 2), Column::figures("c", 4, 1)];
        let places = |width| -> Vec<Option<(usize, usize)>> {
            super::places(&columns, width).into_iter().map(|place| place.map(|place| (place.at, place.width))).collect()
        };
        assert_eq!(places(20), [Some((0, 11)), Some((12, 3)), Some((16, 4))]);
        assert_eq!(places(14), [Some((0, 5)), Some((6, 3)), Some((10, 4))]);
        assert_eq!(places(13), [Some((0, 8)), None, Some((9, 4))]);
        assert_eq!(places(9), [Some((0, 9)), None, None]);
        assert_eq!(places(3), [Some((0, 3)), None, None]);
        assert_eq!(places(0), [Some((0, 0)), None, None]);
    }
}
