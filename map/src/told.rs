//! What a client is told: replicas by address family, the best first.

/// At most so many addresses are told to a client: what a rule may list for a region. Eight fill a
/// reply of 160 octets over IPv4; more do not help a client that tries one after the other.
pub const PICKS_MAX: usize = 8;
/// Of replicas that were ranked so many are told at most: enough to fail over without asking again,
/// few enough for a small reply.
const EQUALS_MAX: usize = 3;

/// Members by number, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Picks {
    members: [u32; PICKS_MAX],
    len: u8,
}

/// What a client is told, by address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) v4: Picks,
    pub(crate) v6: Picks,
}

impl Picks {
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.members[..usize::from(self.len)].iter().copied()
    }

    pub(crate) fn of(member: Option<u32>) -> Picks {
        Picks::equals(member.as_slice())
    }

    /// The first of these, as many as are told.
    pub(crate) fn equals(members: &[u32]) -> Picks {
        let mut picks = Picks::default();
        members.iter().take(EQUALS_MAX).for_each(|member| picks.push(*member));
        picks
    }

    /// All of these, as far as there is room.
    pub(crate) fn listed(members: &[u32]) -> Picks {
        let mut picks = Picks::default();
        members.iter().for_each(|member| picks.push(*member));
        picks
    }

    pub(crate) fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    pub(crate) fn push(&mut self, member: u32) {
        if let Some(place) = self.members.get_mut(usize::from(self.len)) {
            *place = member;
            self.len += 1;
        }
    }
}

impl Told {
    /// The first for IPv4, or else for IPv6.
    pub(crate) fn first(&self) -> Option<u32> {
        self.v4.first().or(self.v6.first())
    }

    /// Where a member stands: those told for IPv4 first.
    pub(crate) fn place(&self, member: u32) -> Option<usize> {
        self.v4.iter().chain(self.v6.iter()).position(|told| told == member)
    }
}
