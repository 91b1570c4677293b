//! What the model makes of answers and of their absence.

use super::super::model::{Answers, Model, Order, Pane};
use super::{answers, at, keys, now, sample};

fn listed(model: &Model) -> Vec<&str> {
    model.listed().map(|row| row.path.as_str()).collect()
}

#[test]
fn orders_are_by_name_state_rate_sessions_and_p99() {
    let mut model = sample();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push((model.order, listed(&model).join(" ").replace("shop/", "").replace("database/", "")));
        keys(&mut model, "s");
    }
    let expected = [
        (Order::Name, "db-1 web-1 web-2 web-3 web-4"),
        (Order::State, "web-4 web-3 db-1 web-1 web-2"),
        (Order::Rate, "web-2 web-1 db-1 web-3 web-4"),
        (Order::Sessions, "web-2 web-1 db-1 web-3 web-4"),
        (Order::P99, "db-1 web-2 web-3 web-1 web-4"),
    ];
    assert_eq!(seen, expected.map(|(order, names)| (order, names.to_owned())));
    assert_eq!(model.order, Order::Name, "and from the beginning");
}

#[test]
fn selection_stays_with_its_backend_whatever_the_list_does() {
    let mut model = sample();
    keys(&mut model, "jjj");
    let chosen = |model: &Model| model.chosen().map(|row| row.path.clone());
    assert_eq!(chosen(&model).as_deref(), Some("shop/web-3"));
    keys(&mut model, "s");
    assert_eq!(chosen(&model).as_deref(), Some("shop/web-3"));
    let mut fewer = answers(11);
    fewer.backends.remove(0);
    model.take(fewer, at(1));
    assert_eq!(chosen(&model).as_deref(), Some("shop/web-3"));
    // When it goes, the one that takes its line is selected.
    let mut gone = answers(12);
    gone.backends.retain(|report| report.backend != "web-3");
    model.take(gone, at(2));
    assert_eq!(chosen(&model).as_deref(), Some("database/db-1"));
    model.take(Answers { backends: Vec::new(), ..answers(13) }, at(3));
    assert_eq!(chosen(&model), None);
}

#[test]
fn rates_are_kept_for_sixty_samples_and_forgotten_with_the_process() {
    let mut model = sample();
    for second in 10..100 {
        model.take(answers(second), at(second.into()));
    }
    let rates = &model.backend("shop/web-1").expect("web-1").rates;
    assert_eq!((rates.len(), rates.back().copied()), (60, Some(150.0)));
    assert!((model.most_rate("shop") - 205.0).abs() < 0.01 && (model.most_rate("database") - 4.0).abs() < 0.01);
    let mut other = answers(0);
    other.status.pid += 1;
    model.take(other, at(100));
    assert_eq!(model.backend("shop/web-1").expect("web-1").rates.len(), 1);
    assert_eq!(model.loads(), [0.0, 0.0], "no load can be told from one look");
}

#[test]
fn load_of_workers_is_the_difference_of_their_processor_time() {
    let loads = sample().loads();
    assert!((loads[0] - 23.0).abs() < 0.1 && (loads[1] - 8.0).abs() < 0.1, "{loads:?}");
}

#[test]
fn silence_is_told_at_once_when_known_and_soon_when_not() {
    let mut model = sample();
    assert_eq!(model.silence(), None);
    model.now = at(2);
    assert_eq!(model.silence(), None, "an answer may take a moment");
    model.now = at(10);
    assert_eq!(model.silence(), Some((now(), "waiting for one")));
    model.miss("nobody listens".to_owned(), at(1));
    assert_eq!(model.silence(), Some((now(), "nobody listens")));
    model.take(answers(11), at(11));
    assert_eq!(model.silence(), None);
}

#[test]
fn filter_takes_name_state_and_address_in_any_case() {
    let mut model = sample();
    for (filter, expected) in [
        ("WEB-", "shop/web-1 shop/web-2 shop/web-3 shop/web-4"),
        ("down", "shop/web-4"),
        ("10.0.0.11", "database/db-1 shop/web-1 shop/web-2 shop/web-3 shop/web-4"),
        ("nothing", ""),
    ] {
        keys(&mut model, &format!("/{filter}\n"));
        assert_eq!(listed(&model).join(" "), expected, "{filter}");
        keys(&mut model, "\x1b");
        assert_eq!(listed(&model).len(), 5);
    }
    assert_eq!(model.focus(), Pane::Backends);
}
