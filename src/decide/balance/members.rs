//! Members of a pool as configured, and which of them were tried for one client.

/// Most connection attempts for one client; bounds [`Tried`].
pub const MAX_TRIES: usize = 16;

/// Position of a member in its pool.
pub type MemberId = usize;

/// One member as configured.
#[derive(Clone, Debug)]
pub struct Member {
    /// Stable name: the key of consistent hashing.
    pub name: Box<str>,
    /// 0 takes no new connections.
    pub weight: u32,
    /// When it is used.
    pub tier: Tier,
}

/// When a member is used: once no member of an earlier tier can take the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier(u8);

impl Tier {
    /// How many there are.
    pub const COUNT: usize = 65;
    /// Before all others.
    pub const FIRST: Self = Self(0);
    /// After all others.
    pub const BACKUP: Self = Self(Self::COUNT as u8 - 1);

    /// The tier at this position; of positions that there are not, the last.
    pub const fn at(position: usize) -> Self {
        if position < Self::COUNT { Self(position as u8) } else { Self::BACKUP }
    }

    /// Its position, from 0.
    pub const fn position(self) -> usize {
        self.0 as usize
    }

    /// Whether it is used only when others cannot be.
    pub const fn is_backup(self) -> bool {
        self.0 > 0
    }
}

/// Members already tried for one client.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    members: [u16; MAX_TRIES],
    count: u8,
}

impl Tried {
    /// Remembers a member; beyond [`MAX_TRIES`] nothing is remembered, which the limit of tries excludes.
    pub fn insert(&mut self, member: MemberId) {
        if let Some(slot) = self.members.get_mut(usize::from(self.count)) {
            *slot = member as u16;
            self.count += 1;
        }
    }

    /// Whether the member was tried.
    pub fn contains(&self, member: MemberId) -> bool {
        self.members[..usize::from(self.count)].contains(&(member as u16))
    }

    /// How many were tried.
    pub const fn count(&self) -> u8 {
        self.count
    }
}
