//! The first screen: listeners, pools and backends, one below the other where there is room.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use super::sheet::{Cell, Column, Sheet};
use super::theme::Theme;
use crate::api::{BackendReport, ListenerReport, PoolReport, StatusReport};
use crate::cli::top::model::{Model, Order, Pane, Row};
use crate::cli::top::text::{bars, between, figure, millis};

/// Below this height only the pane with the arrow keys is shown.
const ALL_PANES: u16 = 12;
/// Samples of a trend.
const TREND: usize = 10;

const LISTENERS: &[Column] = &[
    Column::words("listener", 12, 0),
    Column::words("protocol", 8, 5),
    Column::figures("active", 6, 1),
    Column::figures("conn/s", 6, 2),
    Column::figures("up B/s", 6, 6),
    Column::figures("down B/s", 8, 6),
    Column::figures("rejected", 8, 3),
    Column::figures("total", 6, 4),
    Column::words("bind", 22, 7),
];

const POOLS: &[Column] = &[
    Column::words("pool", 12, 0),
    Column::words("balance", 17, 5),
    Column::words("backends", 24, 1),
    Column::figures("active", 6, 2),
    Column::figures("conn/s", 6, 3),
    Column::figures("waiting", 7, 4),
    Column::figures("up B/s", 6, 7),
    Column::figures("down B/s", 8, 7),
    Column::figures("no backend", 10, 6),
];

const BACKENDS: &[Column] = &[
    Column::words("backend", 18, 0),
    Column::words("state", 10, 1),
    Column::figures("since", 6, 6),
    Column::figures("active", 6, 2),
    Column::figures("conn/s", 6, 3),
    Column::words("trend", TREND, 7),
    Column::figures("connect", 7, 5),
    Column::figures("first byte", 10, 4),
    Column::figures("up B/s", 6, 8),
    Column::figures("down B/s", 8, 8),
    Column::figures("weight", 6, 9),
    Column::figures("errors", 6, 9),
    Column::words("check", 60, 10),
];

/// Draws it.
pub fn draw(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let Some(status) = &model.status else { return };
    let focus = model.focus();
    if area.height < ALL_PANES {
        match focus {
            Pane::Listeners => listeners(model, status, theme, area, buffer),
            Pane::Pools => pools(model, status, theme, area, buffer),
            _ => backends(model, theme, area, buffer),
        }
        return;
    }
    // Short lists are shown whole; of long ones, backends come first.
    let share = |lines: usize| Constraint::Length((lines as u16).saturating_add(1).min(area.height / 4));
    let parts = [share(status.listeners.len()), share(status.pools.len()), Constraint::Fill(1)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(area);
    listeners(model, status, theme, top, buffer);
    pools(model, status, theme, middle, buffer);
    backends(model, theme, bottom, buffer);
}

fn sheet<'a>(model: &Model, pane: Pane, title: String, columns: &'a [Column], count: usize) -> Sheet<'a> {
    let has_focus = model.focus() == pane;
    Sheet { title, columns, ordered_by: None, count, selected: model.selected(pane), has_focus }
}

fn listeners(model: &Model, status: &StatusReport, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let list = &status.listeners;
    sheet(model, Pane::Listeners, format!("listeners {}", list.len()), LISTENERS, list.len()).draw(
        theme,
        area,
        buffer,
        |line| listener(&list[line], theme),
    );
}

fn listener(one: &ListenerReport, theme: Theme) -> Vec<Cell> {
    let more = one.bind.len().saturating_sub(1);
    let more = if more > 0 { format!(" +{more}") } else { String::new() };
    let bind = one.bind.first().map(|address| format!("{address}{more}")).unwrap_or_default();
    vec![
        one.listener.clone().into(),
        one.protocol.clone().into(),
        figure(one.active as f64).into(),
        figure(one.rates.connections).into(),
        figure(one.rates.bytes_up).into(),
        figure(one.rates.bytes_down).into(),
        marked(one.rejected, theme),
        figure(one.total as f64).into(),
        bind.into(),
    ]
}

/// A count that should be nothing.
fn marked(count: u64, theme: Theme) -> Cell {
    let text = figure(count as f64);
    if count == 0 { text.into() } else { Cell::styled(text, theme.warn()) }
}

fn pools(model: &Model, status: &StatusReport, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let list = &status.pools;
    sheet(model, Pane::Pools, format!("pools {}", list.len()), POOLS, list.len())
        .draw(theme, area, buffer, |line| pool(&list[line], theme));
}

fn pool(one: &PoolReport, theme: Theme) -> Vec<Cell> {
    let count = |state: &str| one.backends.get(state).copied().unwrap_or(0);
    let well = count("up") + count("unchecked");
    let states = ["up", "unchecked", "down", "ejected", "draining", "disabled"];
    let parts = states.iter().filter(|state| count(state) > 0).map(|state| format!("{} {state}", count(state)));
    let mut text = parts.collect::<Vec<_>>().join(" ");
    if one.health_ignored {
        text.insert_str(0, "HEALTH IGNORED ");
    }
    let style = match one.backends.values().sum::<u32>() {
        _ if well == 0 || one.health_ignored => theme.bad(),
        all if all == well => theme.good(),
        _ => theme.warn(),
    };
    vec![
        one.pool.clone().into(),
        one.balance.clone().into(),
        Cell::styled(text, style),
        figure(one.active as f64).into(),
        figure(one.rates.connections).into(),
        marked(u64::from(one.waiting), theme),
        figure(one.rates.bytes_up).into(),
        figure(one.rates.bytes_down).into(),
        marked(one.unavailable, theme),
    ]
}

fn backends(model: &Model, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let count = model.listed().count();
    let title = if model.filter.is_empty() {
        format!("backends {count}")
    } else {
        format!("backends {count}/{} /{}", model.backends(), model.filter)
    };
    let ordered_by = match model.order {
        Order::Name => "backend",
        Order::State => "state",
        Order::Rate => "conn/s",
        Order::Sessions => "active",
        Order::P99 => "first byte",
    };
    Sheet { ordered_by: Some(ordered_by), ..sheet(model, Pane::Backends, title, BACKENDS, count) }.draw(
        theme,
        area,
        buffer,
        |line| backend(model, model.row(line), theme),
    );
}

fn backend(model: &Model, row: &Row, theme: Theme) -> Vec<Cell> {
    let one = &row.report;
    let p99 = |times: Option<crate::api::Quantiles>| times.map_or_else(|| "-".to_owned(), |times| millis(times.p99));
    let mark = if one.said.is_some() { "*" } else { "" };
    let trend = bars(row.rates.iter().copied(), model.most_rate(&one.pool), TREND);
    vec![
        row.path.clone().into(),
        Cell::styled(format!("{}{mark}", one.state), theme.state(&one.state)),
        between(one.since, model.now).into(),
        figure(one.active.into()).into(),
        figure(one.rates.connections).into(),
        Cell::styled(trend, theme.label()),
        p99(one.connect_ms).into(),
        p99(one.first_byte_ms).into(),
        figure(one.rates.bytes_up).into(),
        figure(one.rates.bytes_down).into(),
        one.effective_weight.to_string().into(),
        marked(one.connect_errors, theme),
        why(one).into(),
    ]
}

/// What the last check or sign says.
fn why(one: &BackendReport) -> String {
    match (&one.ejection, &one.check) {
        (Some(ejection), _) => ejection.detail.clone(),
        (None, Some(check)) => format!("{}: {}", check.kind, check.detail),
        (None, None) => String::new(),
    }
}
