//! Hosts, each with a member, on a virtual clock.

mod host;
mod run;

pub use host::Host;

use crate::authority::Keys;
use crate::link::{LinkModel, Profile};
use crate::transport::Direction;
use bytes::Bytes;
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::member::{Config, Event, Member, OwnEntry, State, SubmitError, Timing};
use godwit_core::record::Record;
use godwit_core::time::Time;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The virtual clock starts here: 2026-01-01.
pub const START: Time = Time::from_secs(1_767_225_600);

/// A host in a world: the how-manieth.
pub type HostIndex = usize;

/// Hosts and what lies between them.
pub struct World {
    /// The keys of the simulated network.
    pub keys: Keys,
    now: Duration,
    rng: ChaCha8Rng,
    timing: Timing,
    default_profile: Profile,
    hosts: Vec<Host>,
    by_id: BTreeMap<MemberId, HostIndex>,
    links: BTreeMap<(HostIndex, HostIndex), LinkModel>,
    connections: BTreeMap<(HostIndex, HostIndex), Connection>,
    queue: BTreeMap<(Duration, u64), Happening>,
    happenings: u64,
    trace: blake3::Hasher,
    events: Vec<(Duration, HostIndex, Event)>,
}

/// A connection between two hosts, the lower index first. Each side believes in it or not.
#[derive(Debug)]
struct Connection {
    number: u64,
    up: [bool; 2],
    /// What flows from the lower to the higher index, and back.
    directions: [Direction; 2],
    /// When each side last heard anything.
    heard: [Duration; 2],
}

/// What will happen at some time.
#[derive(Debug)]
enum Happening {
    /// A host looks at its deadline.
    Wake { host: HostIndex, start: u64, at: Time },
    /// A handshake has come through, or not.
    Connect { from: HostIndex, start: u64, to: HostIndex },
    /// A message is handed to the link, for the first time or again.
    Attempt { from: HostIndex, to: HostIndex, connection: u64, number: u64 },
    /// A message arrives.
    Arrive { from: HostIndex, to: HostIndex, connection: u64, number: u64 },
    /// A side looks whether its connection is dead.
    Idle { side: HostIndex, peer: HostIndex, connection: u64 },
    /// A host that stood still goes on.
    Resume { host: HostIndex, start: u64 },
}

impl World {
    /// An empty world with this seed, whose links are like `profile` unless said otherwise.
    pub fn new(seed: u64, profile: Profile) -> World {
        World {
            keys: Keys::new(START, 1),
            now: Duration::ZERO,
            rng: ChaCha8Rng::seed_from_u64(seed),
            timing: Timing::default(),
            default_profile: profile,
            hosts: Vec::new(),
            by_id: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            queue: BTreeMap::new(),
            happenings: 0,
            trace: blake3::Hasher::new(),
            events: Vec::new(),
        }
    }

    /// A world in which `count` members have joined one after the other, each by way of a random
    /// earlier one, 20 ms apart.
    pub fn with_members(seed: u64, profile: Profile, count: usize) -> World {
        let mut world = World::new(seed, profile);
        for _ in 0..count {
            world.join();
            world.run_for(Duration::from_millis(20));
        }
        world
    }

    /// A new member joins; a random running member sponsors it and is its bootstrap.
    pub fn join(&mut self) -> HostIndex {
        let running: Vec<HostIndex> = self.running().collect();
        let sponsor = match running.len() {
            0 => None,
            len => Some(running[self.rng.random_range(0..len)]),
        };
        self.join_by(sponsor)
    }

    /// A new member joins by way of `sponsor`; without one it is a founder.
    pub fn join_by(&mut self, sponsor: Option<HostIndex>) -> HostIndex {
        let index = self.hosts.len();
        let mut seed = [2; 32];
        seed[..8].copy_from_slice(&(index as u64).to_le_bytes());
        let key = SecretKey::from_seed(&seed);
        let now = self.time();
        let redemption = self.keys.invite(now, sponsor.is_none()).redeem(now, key.public());
        let certificate = match sponsor {
            None => redemption.sponsor(now, &key),
            Some(sponsor) => {
                let host = &self.hosts[sponsor];
                let certificate = host
                    .admission
                    .sponsor(now, key.public(), redemption, &host.config.key)
                    .expect("a fresh token is good");
                let record = Record::Member(Box::new(certificate.clone()));
                self.submit(sponsor, record).expect("a fresh member is accepted");
                certificate
            }
        };
        let config = Config {
            network: self.keys.network(),
            zone: self.keys.zone(),
            key,
            certificate,
            incarnation: 0,
            seed: 0,
            own: OwnEntry { peer_addresses: vec![address(index)], ..OwnEntry::default() },
            timing: self.timing.clone(),
        };
        self.by_id.insert(config.key.public(), index);
        let bootstrap = sponsor.into_iter().map(address).collect();
        self.hosts.push(Host::new(config, bootstrap));
        self.start(index);
        index
    }

    /// Submits a head at a host; tells what it answered.
    pub fn submit(&mut self, host: HostIndex, record: Record) -> Result<(), SubmitError> {
        self.feed(host, godwit_core::member::Input::Submit(Box::new(record)));
        self.hosts[host].submitted.pop().expect("a submission is answered at once").1
    }

    /// Something happens at a host, as its shell would tell it.
    pub fn input(&mut self, host: HostIndex, input: godwit_core::member::Input) {
        self.feed(host, input);
    }

    /// Kills a host as `kill -9` does: nobody is told.
    pub fn kill(&mut self, host: HostIndex) {
        self.hosts[host].stop();
        for ((low, high), connection) in &mut self.connections {
            for (side, end) in [low, high].into_iter().enumerate() {
                connection.up[side] &= *end != host;
            }
        }
    }

    /// Starts a host (again) with what it had persisted.
    pub fn start(&mut self, host: HostIndex) {
        let (now, seed) = (self.time(), self.rng.random());
        self.hosts[host].start(now, seed);
        let bootstrap = self.hosts[host].bootstrap.clone();
        self.feed(host, godwit_core::member::Input::Bootstrap(bootstrap));
    }

    /// A host stands still for a while: what comes meanwhile waits.
    pub fn pause(&mut self, host: HostIndex, duration: Duration) {
        self.hosts[host].paused = true;
        let start = self.hosts[host].starts;
        self.schedule(self.now + duration, Happening::Resume { host, start });
    }

    /// Cuts or heals both directions of a link.
    pub fn set_cut(&mut self, a: HostIndex, b: HostIndex, cut: bool) {
        self.link(a, b).set_cut(cut);
        self.link(b, a).set_cut(cut);
    }

    /// Cuts (or heals) every link between hosts for which `side` differs.
    pub fn partition(&mut self, cut: bool, side: impl Fn(HostIndex) -> bool) {
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                if side(a) != side(b) {
                    self.set_cut(a, b, cut);
                }
            }
        }
    }

    /// Sends bytes to a host as if `from` had sent them as a message.
    pub fn inject(&mut self, from: HostIndex, to: HostIndex, bytes: Bytes) {
        let from = self.id(from);
        self.feed(to, godwit_core::member::Input::Message { from, bytes });
    }

    /// The virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// The virtual time.
    pub fn time(&self) -> Time {
        START + self.now
    }

    /// How many hosts there are, running or not.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The hosts that run.
    pub fn running(&self) -> impl Iterator<Item = HostIndex> {
        self.hosts.iter().enumerate().filter(|(_, host)| host.member.is_some()).map(|(index, _)| index)
    }

    /// One host.
    pub fn host(&self, host: HostIndex) -> &Host {
        &self.hosts[host]
    }

    /// The machine of a host that runs.
    pub fn member(&self, host: HostIndex) -> &Member {
        self.hosts[host].member.as_ref().expect("the host runs")
    }

    /// The key of a host.
    pub fn id(&self, host: HostIndex) -> MemberId {
        self.hosts[host].config.key.public()
    }

    /// How `host` judges `of`.
    pub fn state(&self, host: HostIndex, of: HostIndex) -> Option<State> {
        self.member(host).view().member(self.id(of)).map(|view| view.state)
    }

    /// Whether all running hosts hold the same records.
    pub fn converged(&self) -> bool {
        let mut sums = self.running().map(|host| self.member(host).view().fingerprint());
        let first = sums.next();
        sums.all(|sum| Some(sum) == first)
    }

    /// The version of a site that each running host has.
    pub fn versions(&self, site: &str) -> Vec<Option<u64>> {
        let site = site.parse().expect("the caller brings a site name");
        self.running().map(|host| Some(self.member(host).view().site(&site)?.number.0)).collect()
    }

    /// What the members told their operators: when, which host, what.
    pub fn events(&self) -> &[(Duration, HostIndex, Event)] {
        &self.events
    }

    /// A hash of everything that happened: the same for the same seed.
    pub fn trace_hash(&self) -> String {
        self.trace.finalize().to_hex().to_string()
    }
}

/// The address of a host.
pub fn address(host: HostIndex) -> SocketAddr {
    let [.., high, low] = (host as u32).to_be_bytes();
    (Ipv4Addr::new(10, 0, high, low), 4100).into()
}
