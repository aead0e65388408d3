//! What can be told of the bindings.

use super::{Bindings, DRAINING, OPEN};
use crate::mobility::care_of::CARE_OFS;
use godwit_core::binding::{BindingId, CareOf, HomeAddress};
use godwit_core::key::MemberId;

/// What can be told of one binding.
#[derive(Clone, Copy, Debug)]
pub(in crate::mobility) struct Told {
    pub(in crate::mobility) home: HomeAddress,
    pub(in crate::mobility) agent: MemberId,
    pub(in crate::mobility) care_of: CareOf,
    pub(in crate::mobility) state: &'static str,
    pub(in crate::mobility) draining: bool,
    pub(in crate::mobility) direct: bool,
}

impl Bindings {
    /// What can be told of the bindings: for each home agent and care-of address, whether it is used.
    pub(in crate::mobility) fn told(&self) -> Vec<Told> {
        let mut told = Vec::new();
        for home in self.homes.bound() {
            let draining = self.homes.draining.contains(&home);
            let machine = if draining { DRAINING } else { OPEN };
            for agent in self.agents.keys() {
                for (id, place) in &self.places {
                    let binding = (*agent, BindingId(id.0 + machine as u8 * CARE_OFS));
                    let refused = self.refused.get(&home) == Some(agent);
                    let state =
                        match (refused, self.carried.contains(&binding), self.keys.contains_key(&binding)) {
                            (true, ..) => "refused",
                            (_, true, _) => "up",
                            (_, _, true) => "lost",
                            _ => "unproved",
                        };
                    told.push(Told {
                        home,
                        agent: *agent,
                        care_of: place.care_of,
                        state,
                        draining,
                        direct: self.returns.is_direct(&home),
                    });
                }
            }
        }
        told
    }
}
