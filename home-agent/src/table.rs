//! What is looked up for each packet: built by the task after each change, and never changed.

use crate::choices::{ByHome, Choice};
use crate::keys::Keys;
use crate::world::World;
use godwit_core::binding::cache::{Cache, State};
use godwit_core::binding::{HomeAddress, Service};
use godwit_core::certificate::{Home, Ports};
use godwit_core::flow::select::number;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::tunnel::KeyId;
use godwit_map::Generation;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// How packets reach a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) key: KeyId,
    pub(crate) to: SocketAddr,
    /// Whether the node takes new flows there.
    pub(crate) open: bool,
}

/// One home address.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) name: SiteName,
    pub(crate) ports: Ports,
    /// The nodes that are bound to it and up.
    pub(crate) ways: BTreeMap<MemberId, Way>,
    /// How the header of a packet names them; two that are named alike are not in it.
    numbers: BTreeMap<MemberId, u16>,
}

impl Served {
    /// How the header of a packet names a node, for the second chance.
    pub(crate) fn number(&self, member: &MemberId) -> Option<u16> {
        self.numbers.get(member).copied()
    }
}

/// Who may send packets from which home addresses under a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) member: MemberId,
    pub(crate) homes: Vec<HomeAddress>,
}

/// Everything that a packet is looked up in.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) homes: HashMap<IpAddr, Served>,
    pub(crate) keys: HashMap<KeyId, Arc<Bound>>,
    /// Where new flows go.
    pub(crate) now: Arc<ByHome>,
    /// Where they went before.
    pub(crate) before: Option<Arc<ByHome>>,
    /// Whether that was so lately that flows of UDP may be there.
    pub(crate) fresh: bool,
}

impl Table {
    /// Who may be sent packets, and how, from the bindings, their keys and the authority's word. The
    /// choices are put in afterwards: they have a memory.
    pub(crate) fn new(world: &World, cache: &Cache, held: &Keys) -> Table {
        let mut homes: HashMap<IpAddr, Served> = HashMap::new();
        for (name, home) in &world.granted {
            homes.extend(home.addresses().map(|address| (address.0, Served::new(name, home))));
        }
        let mut keys = HashMap::new();
        // Of several care-of addresses of a member the one with the lowest priority that is up.
        let mut best: BTreeMap<(HomeAddress, MemberId), u8> = BTreeMap::new();
        for binding in cache.bindings() {
            let member = binding.anchor.member;
            let bound = Arc::new(Bound { member, homes: binding.homes.to_vec() });
            keys.extend(held.of(&binding.anchor).map(|key| (key, bound.clone())));
            let (State::Up, Some(to)) = (binding.state, binding.care_of) else { continue };
            for home in binding.homes {
                let Some(served) = homes.get_mut(&home.0) else { continue };
                let known = best.get(&(*home, member));
                if known.is_some_and(|priority| *priority <= binding.priority) {
                    continue;
                }
                best.insert((*home, member), binding.priority);
                let open = binding.service == Service::Open;
                let key = held.to_seal_with(&binding.anchor).unwrap_or(binding.key);
                served.ways.insert(member, Way { key, to, open });
            }
        }
        homes.values_mut().for_each(Served::name_nodes);
        Table { homes, keys, now: Arc::default(), before: None, fresh: false }
    }

    /// Where new flows go, by the map and by who is bound.
    pub(crate) fn choices(&self, generation: &Generation) -> ByHome {
        let choice = |(ip, served): (&IpAddr, &Served)| {
            let of = |open: bool| -> BTreeSet<MemberId> {
                let ways = served.ways.iter().filter(|(_, way)| way.open == open);
                ways.map(|(member, _)| *member).collect()
            };
            let ranks = generation.home_ranks(served.name.as_str()).cloned();
            (HomeAddress(*ip), Choice { ranks, open: of(true), draining: of(false) })
        };
        self.homes.iter().map(choice).collect()
    }

    /// The home addresses that some node is bound to and up.
    pub(crate) fn served(&self) -> BTreeSet<HomeAddress> {
        let served = self.homes.iter().filter(|(_, served)| !served.ways.is_empty());
        served.map(|(ip, _)| HomeAddress(*ip)).collect()
    }

    /// The members that can be reached at some home address.
    pub(crate) fn reachable(&self) -> BTreeSet<MemberId> {
        self.homes.values().flat_map(|served| served.ways.keys().copied()).collect()
    }
}

impl Served {
    fn new(name: &SiteName, home: &Home) -> Served {
        Served {
            name: name.clone(),
            ports: home.ports.clone(),
            ways: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    fn name_nodes(&mut self) {
        let count = |wanted: u16| self.ways.keys().filter(|member| number(member) == wanted).count();
        let unique = self.ways.keys().map(|member| (*member, number(member)));
        self.numbers = unique.filter(|(_, number)| count(*number) == 1).collect();
    }
}
