//! The screen of one backend: all about it, and its sessions; and texts of two columns in general.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use super::sheet::{Cell, Column, Sheet};
use super::theme::Theme;
use crate::api::{SessionReport, SortBy};
use crate::cli::top::facts;
use crate::cli::top::model::{Model, Pane};
use crate::cli::top::text::{figure, span, wrap};

/// Below this height only the pane with the arrow keys is shown.
const BOTH_PANES: u16 = 16;
/// Lines of sessions that facts leave room for.
const SESSIONS_AT_LEAST: u16 = 6;
/// Room for labels.
const LABEL: usize = 12;

const SESSIONS: &[Column] = &[
    Column::words("client", 21, 0),
    Column::words("server name", 20, 2),
    Column::figures("age", 6, 1),
    Column::figures("idle", 6, 1),
    Column::figures("up B", 6, 1),
    Column::figures("down B", 6, 1),
    Column::words("session", 16, 3),
    Column::words("listener", 12, 4),
    Column::words("alpn", 12, 5),
];

/// Draws it.
pub fn draw(model: &Model, path: &str, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let text = facts::facts(model);
    let (upper, lower) = if area.height >= BOTH_PANES {
        let lines = text_lines(&text, area.width).len() as u16 + 1;
        let parts = [Constraint::Max(lines.min(area.height - SESSIONS_AT_LEAST)), Constraint::Fill(1)];
        let [upper, lower] = Layout::vertical(parts).areas(area);
        (upper, lower)
    } else if model.focus() == Pane::Facts {
        (area, Rect::ZERO)
    } else {
        (Rect::ZERO, area)
    };
    let pane =
        Text { title: path, lines: &text, first: model.selected(Pane::Facts), has_focus: model.focus() == Pane::Facts };
    pane.draw(theme, upper, buffer);
    sessions(model, theme, lower, buffer);
}

fn sessions(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let list = model.look.as_ref().map_or(&[][..], |look| &look.sessions);
    let ordered_by = match model.session_order {
        SortBy::Age => "age",
        SortBy::Idle => "idle",
        SortBy::Bytes => "down B",
    };
    let title = if model.look.is_some() { format!("sessions {}", list.len()) } else { "sessions …".to_owned() };
    Sheet {
        title,
        columns: SESSIONS,
        ordered_by: Some(ordered_by),
        count: list.len(),
        selected: model.selected(Pane::Sessions),
        has_focus: model.focus() == Pane::Sessions,
    }
    .draw(theme, area, buffer, |line| session(&list[line]));
}

fn session(one: &SessionReport) -> Vec<Cell> {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        one.client.to_string().into(),
        word(&one.sni).into(),
        span((one.age_ms / 1000) as i64).into(),
        span((one.idle_ms / 1000) as i64).into(),
        figure(one.bytes_up as f64).into(),
        figure(one.bytes_down as f64).into(),
        one.session.clone().into(),
        one.listener.clone().into(),
        word(&one.alpn).into(),
    ]
}

/// A text of labels and what is said of them, which may take several lines.
#[derive(Debug)]
pub struct Text<'a, T> {
    /// The head.
    pub title: &'a str,
    /// Labels and texts.
    pub lines: &'a [(&'a str, T)],
    /// The label that is shown first.
    pub first: usize,
    /// Whether it has the arrow keys.
    pub has_focus: bool,
}

impl<T: AsRef<str>> Text<'_, T> {
    /// Draws it.
    pub fn draw(&self, theme: Theme, area: Rect, buffer: &mut Buffer) {
        if area.is_empty() {
            return;
        }
        buffer.set_style(Rect { height: 1, ..area }, theme.head(self.has_focus));
        buffer.set_stringn(area.x, area.y, self.title, area.width.into(), theme.head(self.has_focus));
        let lines = text_lines(self.lines.get(self.first..).unwrap_or_default(), area.width);
        for (line, (label, text)) in (area.y + 1..area.bottom()).zip(lines) {
            let width = area.width as usize;
            buffer.set_stringn(area.x, line, label, width.min(LABEL), theme.label());
            if width > LABEL {
                buffer.set_stringn(area.x + LABEL as u16 + 1, line, text, width - LABEL - 1, style(theme, label));
            }
        }
    }
}

fn style(theme: Theme, label: &str) -> ratatui::style::Style {
    match label {
        "ejected" | "override" | "drain" | "gone" => theme.warn(),
        _ => ratatui::style::Style::new(),
    }
}

/// Each line of it: the label before the first one of its text.
fn text_lines<'a, T: AsRef<str>>(lines: &[(&'a str, T)], width: u16) -> Vec<(&'a str, String)> {
    let room = (width as usize).saturating_sub(LABEL + 1);
    let wrapped = lines.iter().flat_map(|(label, text)| {
        wrap(text.as_ref(), room)
            .into_iter()
            .enumerate()
            .map(|(place, line)| (if place == 0 { *label } else { "" }, line))
    });
    wrapped.collect()
}
