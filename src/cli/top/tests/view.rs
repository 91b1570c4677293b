//! What is drawn, at the sizes of real terminals and at all others; and that docs/top.md shows the same.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};
use serde_json::json;

use super::super::facts::HELP;
use super::super::model::{Model, Notice};
use super::super::view::{Theme, draw};
use super::{answers, at, keys, look, sample};
use crate::config::Colour;

fn drawn(model: &Model, width: u16, height: u16, colour: Colour) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
    let drawn = terminal.draw(|frame| draw(model, Theme(colour), frame.area(), frame.buffer_mut()));
    drawn.expect("a buffer").buffer.clone()
}

/// Its lines, without spaces at their ends.
fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
    let buffer = drawn(model, width, height, Colour::Plain);
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

#[track_caller]
fn has(lines: &[String], parts: &[&str]) {
    for part in parts {
        assert!(lines.iter().any(|line| line.contains(part)), "no `{part}` in\n{}", lines.join("\n"));
    }
}

/// The sample, looking into `shop/web-4`.
fn looking() -> Model {
    let mut model = sample();
    keys(&mut model, "jjjj\n");
    let mut answers = answers(9);
    answers.look = Some(look());
    model.take(answers, at(0));
    model
}

#[test]
fn the_document_shows_what_is_drawn() {
    let document = include_str!("../../../../docs/top.md");
    for model in [sample(), looking()] {
        let screen = format!("```text\n{}\n```\n", lines(&model, 80, 24).join("\n"));
        assert!(document.contains(&screen), "docs/top.md lacks:\n{screen}");
    }
}

#[test]
fn eighty_columns_show_process_listeners_pools_and_backends() {
    let lines = lines(&sample(), 80, 24);
    has(
        &lines[..2],
        &["sluice 0.1.0  running  up 3d4h  pid 4242  generation 7", "connections 1320/100000  cpu 23% 8%"],
    );
    has(
        &lines,
        &["listeners 2", "https", "pools 2", "2 up 1 down 1 draining", "shop/web-3", "draining*", "3h4m", "31ms"],
    );
    has(&lines[23..], &["q quit"]);
    has(&lines, &["shop/web-1         up           3h4m    612    150 ▅▆▇███▇▇▆▇  0.48ms      4.8ms"]);
}

#[test]
fn wide_screens_show_more_and_small_ones_the_pane_that_has_the_keys() {
    let wide = lines(&sample(), 200, 50);
    has(&wide, &["bind", "0.0.0.0:443 +1", "weight", "tls: connect to 10.0.0.11:443: Connection refused"]);
    has(&lines(&sample(), 120, 40), &["down B/s", "6.1ms"]);
    let mut model = sample();
    let small = lines(&model, 40, 10);
    has(&small, &["backends 5", "shop/web-4", "down", "connections 1320/100000"]);
    assert!(!small.iter().any(|line| line.contains("listeners")), "{small:?}");
    keys(&mut model, "\t");
    has(&lines(&model, 40, 10), &["listeners 2", "https"]);
}

#[test]
fn a_backend_is_shown_with_why_and_since_when_and_its_sessions() {
    let lines = lines(&looking(), 80, 24);
    has(
        &lines,
        &[
            "shop/web-4",
            "down for 3h4m, weight 100 (now 0)",
            "tls: failed 1s ago in 1.2ms, next in 1s, rise 2, fall 3",
            "refused: connect to 10.0.0.11:443: Connection refused",
            "expires in 20d, 2026-03-21T12:00:00Z",
            "up -> down 3h ago by check",
            "connect 0.21ms: Connection refused",
            "sessions 2",
            "192.0.2.7:40312",
            "shop.example.com",
            "5.1M",
        ],
    );
}

#[test]
fn help_is_whole_on_a_screen_of_eighty_by_twenty_four() {
    let mut model = sample();
    keys(&mut model, "?");
    let text = lines(&model, 80, 24);
    let (first, last) = (HELP.first().expect("help"), HELP.last().expect("help"));
    has(&text, &[first.1, last.1]);
}

#[test]
fn questions_answers_and_silence_are_seen_even_where_it_is_narrow() {
    let mut model = sample();
    keys(&mut model, "jjd");
    has(&lines(&model, 40, 10), &["[y/n] drain shop/web-2?"]);
    keys(&mut model, "n");
    model.notice = Some(Notice::Failed("refused: no backend is called `shop/web-2`".to_owned()));
    has(&lines(&model, 80, 24), &["refused: no backend is called `shop/web-2`"]);
    model.miss("no daemon behind /s: nobody listens on it".to_owned(), at(12));
    has(&lines(&model, 80, 24), &["no answer since 12s (2026-03-01T12:00:00Z): no daemon behind /s: nobody"]);
    has(&lines(&model, 80, 5), &["no answer since 12s"]);
}

#[test]
fn without_colours_there_are_none_and_states_are_coloured_otherwise() {
    let model = sample();
    let plain = drawn(&model, 120, 40, Colour::Plain);
    assert!(plain.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(plain.content().iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)), "the selected line is seen");
    let styled = drawn(&model, 120, 40, Colour::Styled);
    let colour_of = |word: &str| {
        let text = |x, y| (x..x + word.len() as u16).map(|x| styled[(x, y)].symbol()).collect::<String>();
        let places = (0..40).flat_map(|y| (0..120 - word.len() as u16).map(move |x| (x, y)));
        let place = places.filter(|(_, y)| *y > 10).find(|(x, y)| text(*x, *y) == word).expect(word);
        styled[place].fg
    };
    assert_eq!((colour_of("down "), colour_of("draining*")), (Color::Red, Color::Yellow));
    assert_eq!(colour_of("up  "), Color::Green);
}

#[test]
fn no_size_is_too_small_and_no_list_too_long() {
    let mut models = vec![Model::new(std::time::Duration::from_secs(1), at(0)), sample(), looking()];
    for pressed in ["?", "\t", "\t\t", "d", "/web", "?jjjjG", "/none\n"] {
        let mut model = sample();
        keys(&mut model, pressed);
        models.push(model);
    }
    let mut facts = looking();
    keys(&mut facts, "\tG");
    models.push(facts);
    let mut gone = looking();
    gone.take(answers(11), at(1));
    gone.miss("x".repeat(500), at(20));
    models.push(gone);
    let mut many = sample();
    let mut long = answers(11);
    long.backends = (0..4096)
        .map(|number| {
            let mut one = long.backends[0].clone();
            one.backend = number.to_string();
            one
        })
        .collect();
    long.status.workers = vec![long.status.workers[0].clone(); 16];
    long.status.pid += 1;
    many.take(long, at(1));
    keys(&mut many, "G");
    has(&lines(&many, 80, 24), &["shop/999", "backends 4096", "cpu ▁"]);
    models.push(many);
    for model in &models {
        for (width, height) in (1..=45).flat_map(|width| (1..=26).map(move |height| (width, height))) {
            drawn(model, width, height, Colour::Styled);
        }
    }
    let area = Rect::new(0, 0, 0, 0);
    draw(&models[1], Theme(Colour::Plain), area, &mut Buffer::empty(area));
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let hostile = "\u{1b}]0;x\u{7}\u{1b}[31m\r\n\u{202e}\u{9b}2J\tend";
    let mut model = sample();
    let mut bad = answers(11);
    bad.status.version = hostile.to_owned();
    bad.status.listeners[0].listener = hostile.to_owned();
    bad.status.pools[0].pool = hostile.to_owned();
    let one = &mut bad.backends[0];
    (one.backend, one.state) = (hostile.to_owned(), hostile.to_owned());
    one.check =
        serde_json::from_value(json!({ "kind": hostile, "last": "failed", "reason": hostile, "detail": hostile,
        "took_ms": 1.0, "rise": 1, "fall": 1 }))
        .expect("a check");
    model.take(bad, at(1));
    model.notice = Some(Notice::Failed(hostile.to_owned()));
    let mut looking = looking();
    let mut bad = answers(12);
    bad.backends[3].check.as_mut().expect("a check").detail = hostile.to_owned();
    let mut look = look();
    look.sessions[0].sni = Some(hostile.to_owned());
    look.event.as_mut().expect("an event").detail = hostile.to_owned();
    bad.look = Some(look);
    looking.take(bad, at(1));
    looking.miss(hostile.to_owned(), at(2));
    for model in [model, looking] {
        let buffer = drawn(&model, 200, 50, Colour::Styled);
        let text: String = buffer.content().iter().map(Cell::symbol).collect();
        assert!(text.contains("end"), "what is left of it is shown");
        let bad = |letter: char| letter.is_control() || letter == '\u{202e}';
        assert!(!text.contains(bad), "{text:?}");
    }
}
