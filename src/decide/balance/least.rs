//! Least connections: a member's cost is (active + 1) / (weight x ramp), and the smallest wins, ties at random.
//! Scans all members, or draws two of them; it knows neither pools nor tiers.

use super::{Load, WeightedDraw, next_random};

/// Draws before all members are looked at: far more than a few unusable members cost.
const MOST_DRAWS: usize = 16;

/// Bound of the cost of one connection, so that the costs of 2^32 fit a word.
const MOST: u64 = 1 << 31;

/// What one connection costs at each place: the inverse of its weight, as a whole number.
pub(super) struct Costs(Box<[u32]>);

impl Costs {
    /// The costs at places with these weights, all above zero. They are exact multiples of the weights' inverses as
    /// long as their least common multiple is below 2^31; else they are rounded, to a millionth for weights up to 1000.
    pub(super) fn new(weights: &[u32]) -> Self {
        let multiple = weights.iter().try_fold(1, |multiple, weight| {
            let next = lcm(multiple, u64::from(*weight));
            (next <= MOST).then_some(next)
        });
        let whole = multiple.unwrap_or(MOST);
        Self(weights.iter().map(|weight| (whole / u64::from(*weight)).max(1) as u32).collect())
    }

    /// What one more connection costs there.
    fn of(&self, place: usize, load: Load) -> u64 {
        load.ramp.divide((u64::from(load.active) + 1) * u64::from(self.0[place]))
    }

    /// The place with the smallest cost; among equals one at random. `load` says `None` of a place that is unusable.
    pub(super) fn least(&self, load: impl Fn(usize) -> Option<Load>, random: u64) -> Option<usize> {
        let mut found = None;
        let (mut least, mut lowest) = (u64::MAX, u64::MAX);
        for place in 0..self.0.len() {
            let Some(load) = load(place) else { continue };
            let cost = self.of(place, load);
            if cost > least {
                continue;
            }
            // Among equals the lowest lot wins. Lots make no branches, which ties would turn into guesses.
            let lot = (random ^ place as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
            let wins = cost < least || lot <= lowest;
            found = if wins { Some(place) } else { found };
            lowest = if wins { lot } else { lowest };
            least = cost;
        }
        found
    }

    /// Draws two different usable places by weight and takes the one with the smaller cost. A place in slow start is
    /// drawn as much more rarely as its share is smaller.
    pub(super) fn lighter_of_two(
        &self,
        draw: &WeightedDraw,
        load: impl Fn(usize) -> Option<Load>,
        random: u64,
    ) -> Option<usize> {
        let mut dice = random;
        let mut first: Option<(usize, u64)> = None;
        for _ in 0..MOST_DRAWS {
            dice = next_random(dice);
            let place = draw.draw(dice);
            let Some(load) = load(place).filter(|load| load.ramp.takes_draw(next_random(!dice))) else { continue };
            let cost = self.of(place, load);
            match first {
                None => first = Some((place, cost)),
                Some((other, _)) if other == place => {}
                Some((other, least)) => return Some(if cost < least { place } else { other }),
            }
        }
        // Fewer than two are usable, or the draws were unlucky: look at all of them.
        self.least(load, dice)
    }
}

const fn lcm(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    a / divisor * b
}
