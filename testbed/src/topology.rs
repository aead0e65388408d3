//! Which regions there are, how far they are from each other, and which hosts stand in them.
//!
//! A topology is a value: options and a seed give the same one on every machine. Regions come from
//! an embedded list of cities with a model of their round-trip times ([`model`]), or from measured
//! matrices ([`matrix`]). Both answer with a [`World`], out of which [`Topology::build`] takes
//! regions that are well spread.

pub mod matrix;
pub mod model;

use crate::address::{self, Side};
use crate::options::{BadOption, UpOptions};
use godwit_core::geo::Coordinates;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Round-trip time between two hosts of one region, ms: a data centre, or one city's exchange.
const LOCAL_RTT_MS: f64 = 1.0;

/// How many hosts answer DNS, where the network has as many regions: a zone wants at least two,
/// and three in different parts of the world are what most zones have.
const REDIRECTORS_MAX: usize = 3;

/// The last octet of a redirector's address, out of the way of nodes.
const REDIRECTOR_NUMBER: u8 = 53;

/// The last octet of a home agent's address.
const HOME_AGENT_NUMBER: u8 = 91;

/// A place where hosts can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Its name, a DNS label.
    pub name: String,
    /// Where it is.
    pub place: Coordinates,
}

/// Places and the round-trip times between them.
#[derive(Clone, Debug)]
pub struct World {
    /// The places.
    pub regions: Vec<Region>,
    /// Round-trip times in ms, row by row; never missing, never negative.
    pub rtt_ms: Vec<f64>,
    /// What a person should know about the data.
    pub warnings: Vec<String>,
    /// How many at the front are a good choice of any length.
    pub curated: bool,
}

impl World {
    fn rtt(&self, a: usize, b: usize) -> f64 {
        self.rtt_ms[a * self.regions.len() + b]
    }
}

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Holds and serves content.
    Node,
    /// Answers DNS.
    Redirector,
    /// Holds home addresses.
    HomeAgent,
    /// Nothing by itself: a place to run clients in.
    Client,
}

impl Role {
    /// On which side of the address plan the host is.
    pub fn side(self) -> Side {
        match self {
            Role::Node | Role::Redirector | Role::HomeAgent => Side::Member,
            Role::Client => Side::Client,
        }
    }

    /// The role as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Redirector => "redirector",
            Role::HomeAgent => "home-agent",
            Role::Client => "client",
        }
    }
}

/// A host to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name: the region's, what it is, and a number where there are several.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// The number of its region.
    pub region: usize,
    /// Its number within the region and side.
    pub number: u8,
    /// Its IPv4 address.
    pub addr4: Ipv4Addr,
    /// Its IPv6 address.
    pub addr6: Ipv6Addr,
}

/// A whole network, before it exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// The regions: first those with nodes, then those with clients only.
    pub regions: Vec<Region>,
    /// Round-trip times between regions in ms, row by row.
    pub rtt_ms: Vec<f64>,
    /// All hosts: nodes, redirectors, home agents, clients.
    pub hosts: Vec<Host>,
    /// What a person should know about the data.
    pub warnings: Vec<String>,
}

impl Topology {
    /// The network that the options describe.
    pub fn build(options: &UpOptions) -> anyhow::Result<Topology> {
        options.check()?;
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let world = match &options.matrix {
            Some(path) => matrix::load(path)?,
            None => model::world(&mut rng),
        };
        let count = options.regions + options.client_regions;
        if count > world.regions.len() {
            let text = format!("{count} regions were asked for, but there are only {}", world.regions.len());
            return Err(BadOption(text).into());
        }
        let mut chosen = choose_spread(&world, options.regions, options.seed, &mut rng);
        choose_clients(&world, options, &mut chosen, &mut rng);
        let rtt = |a: usize, b: usize| {
            if a == b { LOCAL_RTT_MS } else { options.rtt_ms.unwrap_or(world.rtt(a, b)).max(0.0) }
        };
        let rtt_ms = chosen.iter().flat_map(|a| chosen.iter().map(move |b| rtt(*a, *b))).collect();
        let regions: Vec<_> = chosen.iter().map(|region| world.regions[*region].clone()).collect();
        let mut topology = Topology { regions, rtt_ms, hosts: Vec::new(), warnings: world.warnings };
        topology.place_hosts(options);
        Ok(topology)
    }

    /// Round-trip time between two regions in ms.
    pub fn rtt_ms(&self, a: usize, b: usize) -> f64 {
        self.rtt_ms[a * self.regions.len() + b]
    }

    /// The host with this name, or else the first client host of the region with this name.
    pub fn find(&self, name: &str) -> Option<&Host> {
        let named = self.hosts.iter().find(|host| host.name == name);
        named.or_else(|| {
            let region = self.regions.iter().position(|region| region.name == name)?;
            self.hosts.iter().find(|host| host.region == region && host.role == Role::Client)
        })
    }

    /// The numbers of the hosts that a person means: one by its name, or all of a region.
    pub fn select(&self, name: &str) -> Vec<usize> {
        if let Some(host) = self.hosts.iter().position(|host| host.name == name) {
            return vec![host];
        }
        let Some(region) = self.regions.iter().position(|region| region.name == name) else {
            return Vec::new();
        };
        (0..self.hosts.len()).filter(|host| self.hosts[*host].region == region).collect()
    }

    fn place_hosts(&mut self, options: &UpOptions) {
        for region in 0..options.regions {
            for number in 1..=options.nodes_per_region {
                let name = format!("{}-{number}", self.regions[region].name);
                self.add_host(name, Role::Node, region, number as u8);
            }
        }
        for region in self.far_apart(REDIRECTORS_MAX.min(options.regions), options.regions) {
            let name = format!("{}-ns", self.regions[region].name);
            self.add_host(name, Role::Redirector, region, REDIRECTOR_NUMBER);
        }
        for region in self.far_apart(options.home_agents, options.regions) {
            let name = format!("{}-ha", self.regions[region].name);
            self.add_host(name, Role::HomeAgent, region, HOME_AGENT_NUMBER);
        }
        for region in 0..self.regions.len() {
            for number in 1..=options.clients_per_region {
                let suffix = if number == 1 { String::new() } else { format!("-{number}") };
                let name = format!("{}-client{suffix}", self.regions[region].name);
                self.add_host(name, Role::Client, region, number as u8);
            }
        }
    }

    fn add_host(&mut self, name: String, role: Role, region: usize, number: u8) {
        let (addr4, addr6) = address::of_host(role.side(), region as u8, number);
        self.hosts.push(Host { name, role, region, number, addr4, addr6 });
    }

    /// `count` of the first `regions` regions, far from each other: each further one where the nearest so
    /// far is the farthest.
    fn far_apart(&self, count: usize, regions: usize) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..count.min(1)).collect();
        while chosen.len() < count {
            let nearest =
                |region: usize| chosen.iter().map(|c| self.rtt_ms(region, *c)).fold(f64::MAX, f64::min);
            let free = (0..regions).filter(|region| !chosen.contains(region));
            chosen.extend(free.max_by(|a, b| nearest(*a).total_cmp(&nearest(*b))));
        }
        chosen
    }
}

/// Takes regions that are far from each other, but not the farthest: eight are drawn each time and
/// the one whose nearest neighbour is the farthest is taken, so that seeds differ.
fn choose_spread(world: &World, count: usize, seed: u64, rng: &mut impl Rng) -> Vec<usize> {
    if world.curated && seed == 0 {
        return (0..count).collect();
    }
    let mut free: Vec<usize> = (0..world.regions.len()).collect();
    let mut chosen = vec![free.swap_remove(rng.random_range(0..free.len()))];
    while chosen.len() < count {
        let nearest = |region: usize| {
            let place = world.regions[region].place;
            chosen.iter().map(|c| place.distance_km(world.regions[*c].place)).fold(f64::MAX, f64::min)
        };
        let drawn: Vec<usize> = free.choose_multiple(rng, 8).copied().collect();
        let Some(best) = drawn.into_iter().max_by(|a, b| nearest(*a).total_cmp(&nearest(*b))) else { break };
        free.retain(|region| *region != best);
        chosen.push(best);
    }
    chosen
}

/// Clients are wherever people are: no spreading.
fn choose_clients(world: &World, options: &UpOptions, chosen: &mut Vec<usize>, rng: &mut impl Rng) {
    let free: Vec<usize> = (0..world.regions.len()).filter(|region| !chosen.contains(region)).collect();
    match world.curated && options.seed == 0 {
        true => chosen.extend(free.into_iter().take(options.client_regions)),
        false => chosen.extend(free.choose_multiple(rng, options.client_regions).copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(options: UpOptions) -> Topology {
        Topology::build(&options).unwrap()
    }

    #[test]
    fn default_topology_has_all_kinds_of_hosts() {
        let topology = build(UpOptions::default());
        let count = |role| topology.hosts.iter().filter(|host| host.role == role).count();
        assert_eq!((count(Role::Node), count(Role::Redirector), count(Role::Client)), (6, 3, 6));
        let names: std::collections::BTreeSet<_> = topology.hosts.iter().map(|host| &host.name).collect();
        assert_eq!(names.len(), topology.hosts.len());
        for a in 0..6 {
            for b in 0..6 {
                assert_eq!(topology.rtt_ms(a, b), topology.rtt_ms(b, a));
                assert!(topology.rtt_ms(a, b) >= 1.0);
            }
        }
    }

    #[test]
    fn home_agents_stand_far_from_each_other() {
        let topology = build(UpOptions { home_agents: 2, ..UpOptions::default() });
        let agents: Vec<_> = topology.hosts.iter().filter(|host| host.role == Role::HomeAgent).collect();
        let [a, b] = agents[..] else { panic!("{agents:?}") };
        assert!((0..6).all(|other| topology.rtt_ms(a.region, other) <= topology.rtt_ms(a.region, b.region)));
        assert!(Topology::build(&UpOptions { home_agents: 7, ..UpOptions::default() }).is_err());
    }

    #[test]
    fn one_seed_one_topology() {
        let options = UpOptions { seed: 7, regions: 20, client_regions: 10, ..UpOptions::default() };
        assert_eq!(build(options.clone()), build(options.clone()));
        assert_ne!(build(options.clone()), build(UpOptions { seed: 8, ..options }));
    }

    #[test]
    fn a_name_is_a_host_or_a_region() {
        let topology = build(UpOptions { nodes_per_region: 2, ..UpOptions::default() });
        let region = topology.regions[1].name.clone();
        assert_eq!(topology.find(&region).unwrap().role, Role::Client);
        assert_eq!(topology.select(&format!("{region}-2")).len(), 1);
        assert!(topology.select(&region).len() >= 3);
        assert!(topology.select("nowhere").is_empty());
    }

    #[test]
    fn a_uniform_rtt_replaces_the_matrix() {
        let topology = build(UpOptions { rtt_ms: Some(50.0), ..UpOptions::default() });
        assert_eq!((topology.rtt_ms(0, 1), topology.rtt_ms(2, 2)), (50.0, LOCAL_RTT_MS));
    }
}
