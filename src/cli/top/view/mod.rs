//! Draws the model into a buffer: what the process does above, the screen in the middle, keys or a question below.
//! Nothing is changed, nothing asked. Names and texts of others go through `Buffer`, which drops control characters.

mod detail;
mod overview;
mod sheet;
mod theme;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;

use super::facts::HELP;
use super::model::{Mode, Model, Notice, Pane, Screen};
use super::text::{bars, between, figure, wrap};
use crate::api::StatusReport;

pub use theme::Theme;
use theme::{SELECTED, STRONG};

/// Below this height there is one line about the process, and none below half of it.
const WHOLE_HEADER: u16 = 8;
/// Lines that a question or an answer may take.
const FOOTER_AT_MOST: usize = 3;

/// Draws all of it.
pub fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let (footer_text, footer_style) = footer(model, theme);
    let footer_lines = wrap(&footer_text, area.width.into());
    let below = footer_lines.len().min(FOOTER_AT_MOST).min(area.height.into()) as u16;
    let above = match area.height {
        WHOLE_HEADER.. => 2,
        height if height >= WHOLE_HEADER / 2 => 1,
        _ => 0,
    };
    let parts = [Constraint::Length(above), Constraint::Fill(1), Constraint::Length(below)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(area);
    header(model, theme, top, buffer);
    match model.screen() {
        Screen::Overview => overview::draw(model, theme, middle, buffer),
        Screen::Backend(path) => detail::draw(model, path, theme, middle, buffer),
        Screen::Help => {
            let first = model.selected(Pane::Help);
            detail::Text { title: "keys and columns", lines: HELP, first, has_focus: true }.draw(theme, middle, buffer);
        }
    }
    for (y, line) in (bottom.y..bottom.bottom()).zip(footer_lines) {
        buffer.set_stringn(bottom.x, y, line, bottom.width.into(), footer_style);
    }
}

fn header(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let silence = model.silence().map(|(since, why)| {
        let text = format!("no answer since {} ({since:.0}): {why}", between(since, model.now));
        vec![(text, theme.bad())]
    });
    let status = model.status.as_ref();
    let first = status.map(|status| process(model, status, theme));
    let second = silence.or_else(|| status.map(|status| load(model, status, theme, area.width.into())));
    // With one line only, silence is what matters.
    let lines = if area.height == 1 && model.silence().is_some() { [second, None] } else { [first, second] };
    for (y, parts) in (area.y..area.bottom()).zip(lines.into_iter().flatten()) {
        let mut x = area.x;
        for (text, style) in parts {
            let room = area.right().saturating_sub(x);
            // What does not fit is left out, unless it would be all.
            if text.chars().count() <= room.into() || x == area.x {
                x = buffer.set_stringn(x, y, text, room.into(), style).0.saturating_add(2);
            }
        }
    }
}

type Part = (String, Style);

fn process(model: &Model, status: &StatusReport, theme: Theme) -> Vec<Part> {
    let plain = Style::new();
    let mut parts = vec![
        (format!("sluice {}", status.version), STRONG),
        (status.phase.clone(), theme.state(&status.phase)),
        (format!("up {}", between(status.started, model.now)), plain),
        (format!("pid {}", status.pid), plain),
        (format!("generation {}", status.generation), plain),
    ];
    if let Some(reload) = status.last_reload.as_ref().filter(|reload| !reload.ok) {
        parts.push((format!("reload failed {} ago", between(reload.at, model.now)), theme.bad()));
    }
    parts
}

fn load(model: &Model, status: &StatusReport, theme: Theme, width: usize) -> Vec<Part> {
    let connections = format!("connections {}/{}", status.connections, status.max_connections);
    let dropped = format!("log dropped {}", figure(status.log_dropped as f64));
    let room = width.saturating_sub(connections.len() + dropped.len() + 4);
    let full = u64::from(status.connections) * 10 >= u64::from(status.max_connections) * 9;
    vec![
        (connections, if full { theme.warn() } else { Style::new() }),
        (cpu(&model.loads(), room), Style::new()),
        (dropped, if status.log_dropped > 0 { theme.warn() } else { Style::new() }),
    ]
}

/// Load of each worker, as figures where there is room, or else as bars.
fn cpu(loads: &[f64], room: usize) -> String {
    let figures: Vec<String> = loads.iter().map(|load| format!("{load:.0}%")).collect();
    let text = format!("cpu {}", figures.join(" "));
    if text.len() <= room {
        return text;
    }
    let most = loads.iter().fold(0.0_f64, |most, load| most.max(*load));
    let bars = bars(loads.iter().copied(), 100.0, loads.len());
    let text = format!("cpu {bars} most {most:.0}%");
    if text.chars().count() <= room { text } else { format!("cpu at most {most:.0}%") }
}

/// What is below: a question, the last word, or the keys.
fn footer(model: &Model, theme: Theme) -> Part {
    match (&model.mode, &model.notice) {
        (Mode::Confirm(change), _) => {
            let meant = change.backend().and_then(|path| model.backend(path));
            let active = meant.map_or(0, |row| row.report.active);
            (format!("[y/n] {}", change.question(active)), SELECTED)
        }
        (Mode::Filter, _) => (format!("/{}_  Enter: keep  Esc: show all", model.filter), STRONG),
        (Mode::Browse, Some(Notice::Sent(text))) => (format!("{text} …"), STRONG),
        (Mode::Browse, Some(Notice::Done(text))) => (text.clone(), theme.good()),
        (Mode::Browse, Some(Notice::Failed(text))) => (text.clone(), theme.bad()),
        (Mode::Browse, None) => (keys(model).to_owned(), theme.label()),
    }
}

/// The keys that matter here, in a line of 80.
fn keys(model: &Model) -> &'static str {
    match (model.screen(), model.focus()) {
        (Screen::Overview, Pane::Backends) => "q quit  ? help  Tab pane  s sort  / filter  Enter look  d/e/D/K change",
        (Screen::Overview, Pane::Pools) => "q quit  ? help  Tab pane  Enter list its backends",
        (Screen::Overview, _) => "q quit  ? help  Tab pane",
        (Screen::Backend(_), _) => "q quit  ? help  Esc back  Tab pane  s sort  d drain  e enable  D disable  K kill",
        (Screen::Help, _) => "q quit  Esc back",
    }
}
