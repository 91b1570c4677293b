//! What keys do, and that nothing is changed without a question and its answer.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::super::change::Change;
use super::super::keys::{Action, press};
use super::super::model::{Mode, Pane, Screen};
use super::{answers, at, keys, look, sample};

#[test]
fn changes_are_asked_for_and_meant_for_the_backend_of_that_moment() {
    let path = || "shop/web-1".to_owned();
    let all = [
        ('d', Change::Drain(path())),
        ('e', Change::Enable(path())),
        ('D', Change::Disable(path())),
        ('K', Change::Kill(path())),
    ];
    for (key, change) in all {
        let mut model = sample();
        assert_eq!(keys(&mut model, &format!("j{key}")), Action::None);
        assert_eq!(model.mode, Mode::Confirm(change.clone()));
        for other in ["n", "\x1b", "q"] {
            assert_eq!(keys(&mut model, other), Action::None, "{other:?} says no");
            assert_eq!(model.mode, Mode::Browse);
            keys(&mut model, &key.to_string());
        }
        assert_eq!(keys(&mut model, "jd\n "), Action::None, "other keys say nothing");
        model.take(answers(11), at(1));
        model.filter = "db-1".to_owned();
        model.arrange();
        assert_eq!(keys(&mut model, "y"), Action::Change(change));
        assert_eq!(model.mode, Mode::Browse);
    }
}

#[test]
fn keys_without_a_backend_ask_nothing() {
    let mut model = sample();
    for pane in [Pane::Listeners, Pane::Pools] {
        model.set_focus(pane);
        keys(&mut model, "dDeKx");
        assert_eq!(model.mode, Mode::Browse, "{pane:?}");
    }
    keys(&mut model, "/nothing\ndDeKx\n");
    assert_eq!((&model.mode, model.screen()), (&Mode::Browse, &Screen::Overview));
}

#[test]
fn looking_into_a_backend_and_back() {
    let mut model = sample();
    assert_eq!(keys(&mut model, "jjjj\n"), Action::Poll);
    assert_eq!(model.screen(), &Screen::Backend("shop/web-4".to_owned()));
    let with_look = |path: &str| {
        let mut answers = answers(11);
        answers.look = Some(super::Look { path: path.to_owned(), ..look() });
        answers
    };
    model.take(with_look("shop/web-1"), at(1));
    assert!(model.look.is_none(), "an answer about another one is late");
    model.take(with_look("shop/web-4"), at(1));
    keys(&mut model, "jx");
    assert_eq!(model.mode, Mode::Confirm(Change::End("00000000000000a2".to_owned())));
    keys(&mut model, "n?");
    assert_eq!((model.screen(), model.looks_at().is_some()), (&Screen::Help, true));
    keys(&mut model, "\x1b");
    assert_eq!(keys(&mut model, "\td"), Action::None);
    assert_eq!(model.mode, Mode::Confirm(Change::Drain("shop/web-4".to_owned())));
    keys(&mut model, "n");
    assert_eq!(keys(&mut model, "\x1b"), Action::Poll);
    assert_eq!((model.screen(), model.focus()), (&Screen::Overview, Pane::Backends));
    assert!(model.look.is_none());
}

#[test]
fn enter_on_a_pool_lists_its_backends() {
    let mut model = sample();
    keys(&mut model, "\t\t\n");
    assert_eq!((model.filter.as_str(), model.focus()), ("shop/", Pane::Backends));
    assert_eq!(model.listed().count(), 4);
}

#[test]
fn filter_is_written_and_bounded_and_its_letters_are_no_keys() {
    let mut model = sample();
    assert_eq!(keys(&mut model, "/qdK?"), Action::None);
    assert_eq!((model.filter.as_str(), &model.mode), ("qdK?", &Mode::Filter));
    keys(&mut model, "\x08\x08\x08");
    assert_eq!(model.filter, "q");
    keys(&mut model, &"x".repeat(1000));
    assert_eq!(model.filter.len(), 64);
}

#[test]
fn control_keys_end_and_suspend_whatever_is_asked() {
    let mut model = sample();
    for before in ["d", "n/"] {
        keys(&mut model, before);
        let mut control = |letter| press(&mut model, KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
        assert_eq!((control('c'), control('z'), control('d')), (Action::Quit, Action::Suspend, Action::None));
    }
}

#[test]
fn answers_to_changes_are_told_in_a_sentence() {
    let drain = Change::Drain("shop/web-1".to_owned());
    let answer = |kept| json!({ "backend": "shop/web-1", "state": "draining", "effective_weight": 0, "override": null, "active": 3, "kept": kept });
    assert_eq!(drain.outcome(answer(json!(null))).expect("an answer"), "shop/web-1 is draining with 3 connections");
    assert!(drain.outcome(answer(json!(false))).expect("an answer").contains("NOT kept over a restart"));
    let kill = Change::Kill("shop/web-1".to_owned());
    assert_eq!(kill.request(), ("kill", json!({ "session": null, "backend": "shop/web-1", "rate": null })));
    let told = kill.outcome(json!({ "sessions": 12, "rate": null })).expect("an answer");
    assert_eq!(told, "12 sessions of shop/web-1 were told to end");
    assert!(kill.outcome(json!({})).is_err());
}
