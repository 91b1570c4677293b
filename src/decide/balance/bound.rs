//! Bounded loads (Mirrokni, Thorup, Zadimoghaddam 2017): no member of a hashed pool above a multiple of its share.
//! The bound holds at admission: connections that stay while others leave are not moved, so a member may be above
//! what the bound would be now. It counts nothing; the caller says how many connections and how much weight there are.

/// How far above its share a member may be: 1.25 is a quarter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadFactor {
    /// Whole numbers, because 1.1 is none in binary: 1.1 x 100 would round up to 111.
    thousandths: u32,
}

impl LoadFactor {
    /// A factor from 1 to 1000, rounded to thousandths; `None` for others.
    pub fn new(factor: f64) -> Option<Self> {
        (1.0..=1000.0).contains(&factor).then(|| Self { thousandths: (factor * 1000.0).round() as u32 })
    }

    /// The factor.
    pub fn as_f64(self) -> f64 {
        f64::from(self.thousandths) / 1000.0
    }
}

/// Sums over the members of a tier that take connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections, without the one that is asked for.
    pub active: u64,
    /// Weight.
    pub weight: u64,
}

/// The bound for one more connection: `allowance / whole` for each unit of weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    allowance: u128,
    whole: u128,
}

impl Bound {
    /// `None` when the totals say that nobody takes connections: a sum that is behind is no reason to refuse.
    pub(super) fn new(factor: LoadFactor, totals: Totals) -> Option<Self> {
        let allowance = u128::from(factor.thousandths) * (u128::from(totals.active) + 1);
        (totals.weight > 0).then_some(Self { allowance, whole: 1000 * u128::from(totals.weight) })
    }

    /// Whether `active + 1` connections are within the bound of a member of this weight.
    pub(super) fn admits(self, active: u32, weight: u32) -> bool {
        // active + 1 <= ceil(x) says the same as active < x, and needs no division.
        u128::from(active) * self.whole < self.allowance * u128::from(weight)
    }

    /// Most connections of a member of this weight: the share, rounded up.
    pub(super) fn cap(self, weight: u32) -> u32 {
        let share = self.allowance * u128::from(weight);
        // Nearly always small enough for the division of the machine.
        let cap = match (u64::try_from(share), u64::try_from(self.whole)) {
            (Ok(share), Ok(whole)) => u128::from(share.div_ceil(whole)),
            _ => share.div_ceil(self.whole),
        };
        u32::try_from(cap).unwrap_or(u32::MAX)
    }
}
