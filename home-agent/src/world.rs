//! What a home agent hears from the network around it, and says there. Whoever runs it brings these.

use godwit_core::announce::Announcement;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::Home;
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::name::{MemberName, SiteName};
use std::collections::{BTreeMap, BTreeSet};

/// What the network says of home addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The home addresses that there are.
    pub granted: BTreeMap<SiteName, Home>,
    /// Who may serve which, as the authority has it.
    pub allowed: BTreeSet<(HomeAddress, MemberId)>,
    /// Of those who may serve one, the members in reach and ready.
    pub present: BTreeSet<MemberId>,
    /// Those that another home agent in reach announces and says that it could serve.
    pub elsewhere: BTreeSet<HomeAddress>,
    /// What members are called, for people.
    pub names: BTreeMap<MemberId, MemberName>,
}

impl World {
    /// All home addresses.
    pub(crate) fn homes(&self) -> BTreeSet<HomeAddress> {
        self.granted.values().flat_map(Home::addresses).collect()
    }

    /// A member's name, for people.
    pub(crate) fn name(&self, member: &MemberId) -> String {
        self.names.get(member).map_or_else(|| member.short().to_string(), ToString::to_string)
    }
}

/// What was heard from members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A member said this: its connection has proved it.
    Message {
        /// Who.
        from: MemberId,
        /// What.
        message: Box<Message>,
    },
    /// A member said something that is no message.
    Malformed {
        /// Who.
        from: MemberId,
    },
}

/// How a home agent speaks to others. Must not block.
pub trait Peers: Send + Sync + 'static {
    /// Tells a connected member. It may be lost with the connection.
    fn tell(&self, to: MemberId, message: &Message);
    /// Tells the other home agents what is announced here.
    fn announced(&self, announced: Vec<Announcement>);
}
