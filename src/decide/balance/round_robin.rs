//! Smooth weighted round robin: every turn each usable member gains its weight, the richest is chosen and pays
//! the sum. Spreads turns evenly instead of in bursts (nginx, "upstream: smooth weighted round-robin balancing").

use super::MemberId;

/// The state of one worker for one pool: credit per member.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    credit: Vec<i64>,
    /// Where ties are broken from, so that workers do not all begin with the first member.
    start: usize,
    /// Whose turn it is among members of equal weight.
    cursor: usize,
}

impl Turns {
    /// Fresh state for a pool of `members`; `start` is usually the number of the worker.
    pub fn new(members: usize, start: usize) -> Self {
        Self { credit: vec![0; members], start, cursor: start }
    }

    /// The place whose turn it is among `count` members of equal weight: the same order as below, found without
    /// looking at all of them.
    pub(super) fn next_of_equals(&mut self, count: usize, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let found = (0..count).map(|step| (self.cursor + step) % count).find(|place| usable(*place))?;
        self.cursor = found + 1;
        Some(found)
    }

    /// The place in `members` whose turn it is among the usable ones.
    pub(super) fn next(
        &mut self,
        members: &[MemberId],
        weights: &[u32],
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        let mut sum = 0;
        let count = members.len();
        for step in 0..count {
            let place = (self.start + step) % count;
            if !usable(place) {
                continue;
            }
            let weight = i64::from(weights[place]);
            sum += weight;
            self.credit[members[place]] += weight;
            if best.is_none_or(|found| self.credit[members[place]] > self.credit[members[found]]) {
                best = Some(place);
            }
        }
        let best = best?;
        self.credit[members[best]] -= sum;
        Some(best)
    }
}
