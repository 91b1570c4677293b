//! Slow start: which share of its weight a member counts with while it is fresh, and the load that the caller reports.
//! It has no clock and does not know whether all members are fresh, which makes a ramp pointless; the caller does.

/// The share at the beginning. Envoy's default minimum; below it a member with little traffic would never warm up.
const FIRST: u64 = 100;

/// Whole weight, in thousandths.
const WHOLE: u64 = 1000;

/// A share of a member's weight, in thousandths: from 100 (fresh) to 1000 (the whole weight).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ramp(u16);

impl Ramp {
    /// The whole weight.
    pub const FULL: Self = Self(WHOLE as u16);

    /// The share `up_ms` after a member began to take connections: linear, from a tenth at once to the whole weight
    /// after `window_ms`. A window of 0 is none.
    pub const fn since(up_ms: u64, window_ms: u64) -> Self {
        if up_ms >= window_ms {
            return Self::FULL;
        }
        let gained = (WHOLE - FIRST) as u128 * up_ms as u128 / window_ms as u128;
        Self((FIRST + gained as u64) as u16)
    }

    /// The share in thousandths.
    pub const fn thousandths(self) -> u64 {
        self.0 as u64
    }

    /// `cost` for the whole weight, at this share of it.
    pub(super) fn divide(self, cost: u64) -> u64 {
        if self == Self::FULL {
            return cost;
        }
        let divided = u128::from(cost) * u128::from(WHOLE) / u128::from(self.0);
        u64::try_from(divided).unwrap_or(u64::MAX)
    }

    /// Whether a member with this share takes its turn number `turn`: of any thousand turns it takes as many as it
    /// has thousandths, evenly spread.
    pub(super) const fn takes_turn(self, turn: u64) -> bool {
        let before = turn % WHOLE * self.thousandths();
        self.0 == Self::FULL.0 || (before + self.thousandths()) / WHOLE > before / WHOLE
    }

    /// Whether a draw of such a member counts: it does with a probability of this share.
    pub(super) const fn takes_draw(self, random: u64) -> bool {
        self.0 == Self::FULL.0 || ((random >> 32) * WHOLE) >> 32 < self.thousandths()
    }
}

/// What the caller knows of a member that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Connections, each counted from the pick on, so that a member which is slow to connect attracts no herd.
    pub active: u32,
    /// The share of its weight that counts now. Hashed pools ignore it: a ramp there is a change of weight, which
    /// would move keys twice.
    pub ramp: Ramp,
}

impl Load {
    /// The load of a member that counts with its whole weight.
    pub const fn warm(active: u32) -> Self {
        Self { active, ramp: Ramp::FULL }
    }
}
