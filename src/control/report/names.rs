//! Adds up what workers counted of server names.

use super::super::Control;
use crate::api::{NameCount, NamesReport};
use crate::decide::busiest::Summary;

/// The busiest server names, at most so many of them.
pub fn names(control: &Control, most: Option<usize>) -> NamesReport {
    let parts: Vec<Summary> = control.shared.workers.iter().map(|worker| worker.counted_names()).collect();
    let all = Summary::add_up(&parts);
    let (total, without) = (all.total, all.without);
    let (names, other) = all.busiest(most.unwrap_or(usize::MAX));
    let names = names.into_iter().map(|named| NameCount { sni: named.name, count: named.count, error: named.error });
    NamesReport { total, without, names: names.collect(), other }
}
