//! Which home agents send packets here.

use super::{Bindings, OPEN};
use godwit_core::binding::HomeAddress;
use godwit_core::key::MemberId;
use std::collections::BTreeSet;

impl Bindings {
    /// The home agents that send packets of new flows here, for all of these home addresses of those that are
    /// served here.
    pub(in crate::mobility) fn bound_at(&self, homes: &BTreeSet<HomeAddress>) -> BTreeSet<MemberId> {
        let refuses = |agent: &MemberId| homes.iter().any(|home| self.refused.get(home) == Some(agent));
        let bound = |agent: &&MemberId| self.machines[OPEN].is_known_to(agent) && !refuses(agent);
        self.agents.keys().filter(bound).copied().collect()
    }

    /// A home agent that says that this node may not serve one of them.
    pub(in crate::mobility) fn refused_by(&self, homes: &BTreeSet<HomeAddress>) -> Option<MemberId> {
        homes.iter().find_map(|home| self.refused.get(home)).copied()
    }

    /// The home agents that send anything here.
    pub(in crate::mobility) fn carried_at(&self) -> BTreeSet<MemberId> {
        self.carried.iter().map(|(agent, _)| *agent).collect()
    }
}
