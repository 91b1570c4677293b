//! What keys do: each changes the model, and some ask for something outside of it. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::change::Change;
use super::model::{Mode, Model, Order, Pane, Screen};
use crate::api::SortBy;

/// Lines of a page.
const PAGE: usize = 10;
/// Characters of a filter.
const LONGEST_FILTER: usize = 64;

/// What is to be done outside of the model.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// End.
    Quit,
    /// To the shell, until it is continued.
    Suspend,
    /// Ask the daemon anew, as the model looks at something else now.
    Poll,
    /// Ask the daemon for a change.
    Change(Change),
}

/// A key was pressed.
pub fn press(model: &mut Model, key: KeyEvent) -> Action {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Action::Quit,
            KeyCode::Char('z') => Action::Suspend,
            _ => Action::None,
        };
    }
    match model.mode.clone() {
        Mode::Browse => {
            model.notice = None;
            browse(model, key.code)
        }
        Mode::Filter => {
            write_filter(model, key.code);
            Action::None
        }
        Mode::Confirm(change) => answer(model, key.code, change),
    }
}

fn browse(model: &mut Model, key: KeyCode) -> Action {
    let at = model.selected(model.focus());
    match key {
        KeyCode::Char('q') => return Action::Quit,
        KeyCode::Up | KeyCode::Char('k') => model.select(at.saturating_sub(1)),
        KeyCode::Down | KeyCode::Char('j') => model.select(at + 1),
        KeyCode::PageUp => model.select(at.saturating_sub(PAGE)),
        KeyCode::PageDown => model.select(at + PAGE),
        KeyCode::Home | KeyCode::Char('g') => model.select(0),
        KeyCode::End | KeyCode::Char('G') => model.select(usize::MAX),
        KeyCode::Tab => turn(model, 1),
        KeyCode::BackTab => turn(model, model.panes().len() - 1),
        KeyCode::Char('?') if *model.screen() != Screen::Help => model.enter(Screen::Help),
        KeyCode::Esc | KeyCode::Char('?') => return back(model),
        KeyCode::Enter => return enter(model),
        KeyCode::Char('s') => return next_order(model),
        KeyCode::Char('/') if *model.screen() == Screen::Overview => {
            model.set_focus(Pane::Backends);
            model.mode = Mode::Filter;
        }
        KeyCode::Char('d') => ask(model, Change::Drain),
        KeyCode::Char('e') => ask(model, Change::Enable),
        KeyCode::Char('D') => ask(model, Change::Disable),
        KeyCode::Char('K') => ask(model, Change::Kill),
        KeyCode::Char('x') => {
            if let Some(session) = model.session() {
                model.mode = Mode::Confirm(Change::End(session.session.clone()));
            }
        }
        _ => {}
    }
    Action::None
}

/// Gives the arrow keys to the pane that is `steps` further.
fn turn(model: &mut Model, steps: usize) {
    let panes = model.panes();
    let here = panes.iter().position(|pane| *pane == model.focus()).unwrap_or(0);
    model.set_focus(panes[(here + steps) % panes.len()]);
}

fn back(model: &mut Model) -> Action {
    if model.leave() {
        return Action::Poll;
    }
    model.filter.clear();
    model.arrange();
    Action::None
}

fn enter(model: &mut Model) -> Action {
    match model.focus() {
        Pane::Backends => {
            let Some(path) = model.chosen().map(|row| row.path.clone()) else { return Action::None };
            model.enter(Screen::Backend(path));
            return Action::Poll;
        }
        Pane::Pools => {
            let pools = model.status.iter().flat_map(|status| &status.pools);
            let Some(pool) = pools.map(|pool| format!("{}/", pool.pool)).nth(model.selected(Pane::Pools)) else {
                return Action::None;
            };
            model.filter = pool;
            model.arrange();
            model.set_focus(Pane::Backends);
        }
        Pane::Listeners | Pane::Facts | Pane::Sessions | Pane::Help => {}
    }
    Action::None
}

fn next_order(model: &mut Model) -> Action {
    match model.screen() {
        Screen::Overview => {
            model.order = match model.order {
                Order::Name => Order::State,
                Order::State => Order::Rate,
                Order::Rate => Order::Sessions,
                Order::Sessions => Order::P99,
                Order::P99 => Order::Name,
            };
            model.arrange();
            Action::None
        }
        Screen::Backend(_) => {
            model.session_order = match model.session_order {
                SortBy::Age => SortBy::Idle,
                SortBy::Idle => SortBy::Bytes,
                SortBy::Bytes => SortBy::Age,
            };
            Action::Poll
        }
        Screen::Help => Action::None,
    }
}

/// Asks whether a change of the chosen backend is meant. It stays meant for that one, whatever the list does meanwhile.
fn ask(model: &mut Model, change: fn(String) -> Change) {
    if let Some(path) = model.chosen().map(|row| row.path.clone()) {
        model.mode = Mode::Confirm(change(path));
    }
}

fn answer(model: &mut Model, key: KeyCode, change: Change) -> Action {
    match key {
        KeyCode::Char('y') => {
            model.mode = Mode::Browse;
            Action::Change(change)
        }
        KeyCode::Char('n' | 'q') | KeyCode::Esc => {
            model.mode = Mode::Browse;
            Action::None
        }
        _ => Action::None,
    }
}

fn write_filter(model: &mut Model, key: KeyCode) {
    match key {
        KeyCode::Enter => model.mode = Mode::Browse,
        KeyCode::Esc => {
            model.mode = Mode::Browse;
            model.filter.clear();
        }
        KeyCode::Backspace => {
            model.filter.pop();
        }
        KeyCode::Char(letter) if model.filter.chars().count() < LONGEST_FILTER => model.filter.push(letter),
        _ => return,
    }
    model.arrange();
}
