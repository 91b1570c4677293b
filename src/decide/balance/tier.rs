//! The members of one tier of a pool: picks by the method among those with a weight.
//! It works with places, positions in the tier, and translates them to members at its border.

use super::bound::Bound;
use super::hashed::Hashed;
use super::least::Costs;
use super::round_robin::{Classes, Order};
use super::{Ask, Choice, Hashing, Load, Member, MemberId, Method, TableError, Tier, WeightedDraw};

/// Tiers up to this size are scanned whole for the least loaded member; larger ones draw two.
/// Chosen: a scan of 32 counters stays in a few cache lines' time and gives the exact minimum.
const FULL_SCAN: usize = 32;

/// Those of one tier that have a weight.
pub(super) struct Members {
    tier: Tier,
    /// In the order of names where tables are made of them, of the file otherwise; none has weight 0.
    ids: Vec<MemberId>,
    weights: Vec<u32>,
    costs: Costs,
    way: Way,
}

/// What a tier needs to find a place.
enum Way {
    /// Look at every member.
    Scan,
    /// Draw two.
    Draw(WeightedDraw),
    /// In turn.
    Turns(Classes),
    /// By the table, or without a key as above: the draw is for large tiers.
    Table(Hashed, Option<WeightedDraw>),
}

impl Members {
    pub(super) fn of(tier: Tier, method: Method, all: &[Member]) -> Result<Self, TableError> {
        let of_tier = all.iter().enumerate().filter(|(_, member)| member.tier == tier && member.weight > 0);
        let mut members: Vec<MemberId> = of_tier.map(|(id, _)| id).collect();
        if matches!(method, Method::ConsistentHash(_)) {
            members.sort_by_key(|id| (&all[*id].name, all[*id].weight));
        }
        let weights: Vec<u32> = members.iter().map(|id| all[*id].weight).collect();
        let draw_if_large = || (members.len() > FULL_SCAN).then(|| WeightedDraw::new(&weights));
        let way = match method {
            _ if members.is_empty() => Way::Scan,
            Method::LeastConnections => draw_if_large().map_or(Way::Scan, Way::Draw),
            Method::RandomTwo => Way::Draw(WeightedDraw::new(&weights)),
            Method::RoundRobin => Way::Turns(Classes::new(&weights)),
            Method::ConsistentHash(Hashing { table, .. }) => {
                let named: Vec<(&str, u32)> = members.iter().map(|id| (&*all[*id].name, all[*id].weight)).collect();
                Way::Table(Hashed::new(table, &named)?, draw_if_large())
            }
        };
        Ok(Self { tier, ids: members, costs: Costs::new(&weights), weights, way })
    }

    /// Members with names and weights, in the order of the tier; `all` is what the tier was made from.
    pub(super) fn named<'a>(&self, all: &'a [Member]) -> impl Iterator<Item = (&'a str, u32)> {
        self.ids.iter().map(|id| (&*all[*id].name, all[*id].weight))
    }

    /// The table of a hashed tier that has members.
    pub(super) const fn hashed(&self) -> Option<&Hashed> {
        match &self.way {
            Way::Table(hashed, _) => Some(hashed),
            _ => None,
        }
    }

    /// Fresh turns.
    pub(super) fn order(&self, start: usize) -> Order {
        match &self.way {
            Way::Turns(classes) => Order::new(classes, start),
            _ => Order::default(),
        }
    }

    /// The tier.
    pub(super) const fn tier(&self) -> Tier {
        self.tier
    }

    /// The member's weight here; `None` when it belongs to another tier or has none.
    pub(super) fn weight(&self, member: MemberId) -> Option<u32> {
        let place = self.ids.iter().position(|id| *id == member)?;
        Some(self.weights[place])
    }

    /// The next member, when the tier has one.
    pub(super) fn next(
        &self,
        method: Method,
        load: &impl Fn(MemberId) -> Option<Load>,
        ask: &Ask<'_>,
        order: &mut Order,
    ) -> Option<Choice> {
        let usable = |place: usize| {
            let member = self.ids[place];
            if ask.tried.contains(member) { None } else { load(member) }
        };
        let place = match &self.way {
            Way::Scan => self.costs.least(usable, ask.random),
            Way::Draw(draw) => self.costs.lighter_of_two(draw, usable, ask.random),
            Way::Turns(classes) => order.next(classes, &self.weights, usable),
            Way::Table(hashed, draw) => {
                return self.hashed_next(hashed, draw.as_ref(), usable, ask, self.bound(method, ask));
            }
        }?;
        Some(Choice { member: self.ids[place], cap: None })
    }

    /// The first place for the key within the bound; the least loaded when there is no key, or nobody is within it.
    fn hashed_next(
        &self,
        hashed: &Hashed,
        draw: Option<&WeightedDraw>,
        usable: impl Fn(usize) -> Option<Load>,
        ask: &Ask<'_>,
        bound: Option<Bound>,
    ) -> Option<Choice> {
        let within = |place: usize| {
            let active = usable(place)?.active;
            let fits = bound.is_none_or(|bound| bound.admits(active, self.weights[place]));
            fits.then_some(Load::warm(active))
        };
        let place = match (ask.key, draw) {
            (Some(key), _) => hashed.find(key, |place| within(place).is_some()),
            (None, Some(draw)) => self.costs.lighter_of_two(draw, within, ask.random),
            (None, None) => self.costs.least(within, ask.random),
        };
        if let Some(place) = place {
            return Some(Choice { member: self.ids[place], cap: bound.map(|bound| bound.cap(self.weights[place])) });
        }
        bound?;
        let unbound = |place: usize| Some(Load::warm(usable(place)?.active));
        self.costs.least(unbound, ask.random).map(|place| Choice { member: self.ids[place], cap: None })
    }

    /// The bound for one more connection, where the method has one.
    pub(super) fn bound(&self, method: Method, ask: &Ask<'_>) -> Option<Bound> {
        match method {
            Method::ConsistentHash(Hashing { bounded_load: Some(factor), .. }) => {
                Bound::new(factor, (ask.totals)(self.tier))
            }
            _ => None,
        }
    }
}
