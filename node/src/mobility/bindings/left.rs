//! The bindings as one process leaves them to the next: home agents notice nothing but another connection
//! of the member.

use super::{Agent, Bindings, Homes, Place};
use crate::datadir::DataDir;
use crate::mobility::owned::{Owned, Way};
use crate::mobility::probes::Probes;
use crate::moves::Tell;
use godwit_core::binding::registration::Registration;
use godwit_core::binding::returns::Returns;
use godwit_core::binding::{BindingId, HomeAddress};
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_core::tunnel::KeyId;
use godwit_net::tunnel::Engine;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::mobility) struct BindingsLeft {
    machines: [Registration; 2],
    agents: BTreeMap<MemberId, Agent>,
    keys: BTreeMap<(MemberId, BindingId), (KeyId, Option<KeyId>)>,
    carried: BTreeSet<(MemberId, BindingId)>,
    refused: BTreeMap<HomeAddress, MemberId>,
    places: BTreeMap<BindingId, Place>,
    homes: Homes,
    going_over: BTreeMap<HomeAddress, Time>,
    ways: BTreeMap<HomeAddress, Way>,
    returns: Returns,
}

impl Bindings {
    /// Leaves them to another process. What is on the host stays there.
    pub(in crate::mobility) fn leave(self) -> BindingsLeft {
        BindingsLeft {
            machines: self.machines,
            agents: self.agents,
            keys: self.keys,
            carried: self.carried,
            refused: self.refused,
            places: self.places,
            homes: self.homes,
            going_over: self.going_over,
            ways: self.owned.leave(),
            returns: self.returns,
        }
    }

    /// Goes on with those that another process left, on the interface with this number.
    pub(in crate::mobility) fn resume(
        engine: Arc<Engine>,
        tell: Tell,
        dir: DataDir,
        (interface, mtu): (u32, u16),
        left: BindingsLeft,
    ) -> io::Result<Bindings> {
        let owned = Owned::adopt(interface, mtu, left.ways)?;
        // What is said of flows is counted from here; what is said of bindings goes on in its own epoch.
        let epoch = dir.next_binding_epoch().map_err(io::Error::other)?;
        Ok(Bindings {
            engine,
            tell,
            dir,
            epoch,
            machines: left.machines,
            agents: left.agents,
            keys: left.keys,
            carried: left.carried,
            refused: left.refused,
            places: left.places,
            homes: left.homes,
            going_over: left.going_over,
            owned,
            returns: left.returns,
            probes: Probes::default(),
            withdrawn: false,
            reminders: 0,
        })
    }

    /// Nobody can be told anything for a while: what home agents have granted is renewed before.
    pub(in crate::mobility) fn renew(&mut self) {
        let agents: Vec<MemberId> = self.agents.keys().copied().collect();
        agents.into_iter().for_each(|agent| self.connected(agent));
    }
}
