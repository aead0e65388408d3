//! Which regions and addresses are out of use at the moment.
//!
//! Three places say so, the later before the earlier: the `[state]` table of the zone's file, the
//! state file, and what was said at run time. Names are those of regions or addresses; an address
//! goes before its region.

use godwit_map::{Health, Inputs, MemberInput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Whether clients are led to a region or an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Yes.
    #[default]
    Up,
    /// No, as long as anybody else can serve: it works, but is wanted elsewhere or for itself.
    Drain,
    /// It is out of order.
    Down,
}

/// States by region or address; what is not named is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct States(pub(crate) BTreeMap<String, State>);

impl States {
    /// `inputs` with the states applied.
    pub(crate) fn apply(&self, inputs: &Inputs) -> Inputs {
        let mut inputs = inputs.clone();
        for member in &mut inputs.members {
            let state = self.of(member);
            member.draining = state == State::Drain;
            member.state = if state == State::Down { Health::Unreachable } else { Health::Alive };
        }
        inputs
    }

    fn of(&self, member: &MemberInput) -> State {
        let addresses = member.public_v4.map(|address| address.to_string());
        let addresses = addresses.into_iter().chain(member.public_v6.map(|address| address.to_string()));
        let by_address = addresses.filter_map(|address| self.0.get(&address)).next();
        by_address.or_else(|| self.0.get(member.region.as_str())).copied().unwrap_or_default()
    }
}
