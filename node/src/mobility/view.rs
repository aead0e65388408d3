//! What the threads of the tunnel look at for each packet: replaced whole when anything changes.

use godwit_core::binding::HomeAddress;
use godwit_core::flow::select;
use godwit_core::key::MemberId;
use godwit_core::tunnel::KeyId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// How packets get to a home agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) agent: MemberId,
    pub(super) key: KeyId,
    pub(super) to: SocketAddr,
}

/// Who sends packets under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sender {
    /// A home agent.
    HomeAgent(MemberId),
    /// Another node, which got them by mistake.
    Node(MemberId),
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct View {
    /// Who speaks under which key.
    pub(super) senders: HashMap<KeyId, Sender>,
    /// The home addresses that are served here, and how their packets leave through the tunnel.
    pub(super) homes: HashMap<IpAddr, Vec<Exit>>,
    /// How packets are passed on to other nodes.
    pub(super) relays: HashMap<MemberId, (KeyId, SocketAddr)>,
    /// Which of them may serve a home address too.
    pub(super) takers: HashMap<IpAddr, Vec<MemberId>>,
    /// The same nodes by the number in a packet's header; two with the same are not told apart.
    numbers: HashMap<u16, Option<MemberId>>,
}

impl View {
    /// What follows from these.
    pub(super) fn new(
        agents: impl Iterator<Item = (KeyId, MemberId)>,
        nodes: impl Iterator<Item = (KeyId, MemberId)>,
        homes: impl Iterator<Item = (HomeAddress, Vec<Exit>)>,
        allowed: &BTreeSet<(HomeAddress, MemberId)>,
        relays: &BTreeMap<MemberId, (KeyId, SocketAddr)>,
    ) -> View {
        let agents = agents.map(|(key, agent)| (key, Sender::HomeAgent(agent)));
        let nodes = nodes.map(|(key, node)| (key, Sender::Node(node)));
        let mut numbers: HashMap<u16, Option<MemberId>> = HashMap::new();
        for member in relays.keys() {
            let entry = numbers.entry(select::number(member));
            entry.and_modify(|known| *known = None).or_insert(Some(*member));
        }
        let homes: HashMap<IpAddr, Vec<Exit>> = homes.map(|(home, exits)| (home.0, exits)).collect();
        let mut takers: HashMap<IpAddr, Vec<MemberId>> = HashMap::new();
        for (home, member) in allowed {
            if homes.contains_key(&home.0) && relays.contains_key(member) {
                takers.entry(home.0).or_default().push(*member);
            }
        }
        View {
            senders: agents.chain(nodes).collect(),
            homes,
            takers,
            relays: relays.iter().map(|(member, way)| (*member, *way)).collect(),
            numbers,
        }
    }

    /// The node with this number, if packets can be passed on to it.
    pub(super) fn numbered(&self, number: u16) -> Option<MemberId> {
        self.numbers.get(&number).copied().flatten()
    }
}
