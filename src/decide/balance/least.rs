//! Least connections: a member's cost is (active + 1) / (weight x ramp), and the smallest wins, ties at random.
//! Scans all members, or draws two of them; it knows neither pools nor tiers.

use std::cmp::Ordering;

use super::{Load, WeightedDraw, next_random};

/// Draws before all members are looked at: far more than a few unusable members cost.
const MOST_DRAWS: usize = 16;

/// A place and what a connection costs there.
#[derive(Clone, Copy)]
struct Candidate {
    place: usize,
    connections: u64,
    share: u64,
}

impl Candidate {
    fn new(place: usize, load: Load, weights: &[u32]) -> Self {
        let share = u64::from(weights[place]) * load.ramp.thousandths();
        Self { place, connections: u64::from(load.active) + 1, share }
    }

    /// Compares costs, without division.
    fn compare(&self, other: &Self) -> Ordering {
        let crossed = |a: u64, b: u64| u128::from(a) * u128::from(b);
        crossed(self.connections, other.share).cmp(&crossed(other.connections, self.share))
    }
}

/// The place with the smallest cost; among equals one at random. `load` says `None` of a place that is unusable.
pub(super) fn least_loaded(weights: &[u32], load: impl Fn(usize) -> Option<Load>, random: u64) -> Option<usize> {
    let mut dice = random;
    let mut equals = 1;
    let mut found: Option<Candidate> = None;
    for place in 0..weights.len() {
        let Some(load) = load(place) else { continue };
        let candidate = Candidate::new(place, load, weights);
        match found.map_or(Ordering::Less, |best| candidate.compare(&best)) {
            Ordering::Less => {
                found = Some(candidate);
                equals = 1;
            }
            Ordering::Equal => {
                // The n-th equal replaces the choice with probability 1/n: each is as likely in the end.
                equals += 1;
                dice = next_random(dice);
                if ((dice >> 32) * equals) >> 32 == 0 {
                    found = Some(candidate);
                }
            }
            Ordering::Greater => {}
        }
    }
    found.map(|best| best.place)
}

/// Draws two different usable places by weight and takes the one with the smaller cost. A place in slow start is
/// drawn as much more rarely as its share is smaller.
pub(super) fn lighter_of_two(
    draw: &WeightedDraw,
    weights: &[u32],
    load: impl Fn(usize) -> Option<Load>,
    random: u64,
) -> Option<usize> {
    let mut dice = random;
    let mut first: Option<Candidate> = None;
    for _ in 0..MOST_DRAWS {
        dice = next_random(dice);
        let place = draw.draw(dice);
        let Some(load) = load(place).filter(|load| load.ramp.takes_draw(next_random(!dice))) else { continue };
        let candidate = Candidate::new(place, load, weights);
        match first {
            None => first = Some(candidate),
            Some(other) if other.place == place => {}
            Some(other) if candidate.compare(&other) == Ordering::Less => return Some(place),
            Some(other) => return Some(other.place),
        }
    }
    // Fewer than two are usable, or the draws were unlucky: look at all of them.
    least_loaded(weights, load, dice)
}
