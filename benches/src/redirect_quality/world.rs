//! A set of replicas, its clients, and what they measure.

use super::Arguments;
use super::blame::Blame;
use super::hindsight::{self, Memory};
use super::penalty::{Penalties, Penalty};
use super::variation::Variation;
use crate::matrix::Matrix;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::demand::{Capacity, PREFIXES_MAX};
use godwit_core::geo::Coordinates;
use godwit_core::history::History;
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::SiteName;
use godwit_core::observation::{ClientRtt, SAMPLES_MAX};
use godwit_core::record::OBSERVATIONS_MAX;
use godwit_map::{DemandInput, Exploration, Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use ipnet::{IpNet, Ipv4Net};
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an epoch is.
const EPOCH: Duration = Duration::from_secs(600);
/// Networks in a city: one for so many people…
const PEOPLE_PER_NETWORK: f64 = 100_000.0;
/// …at least…
const NETWORKS_MIN: f64 = 8.0;
/// …and at most.
const NETWORKS_MAX: f64 = 160.0;
/// The longest last mile, ms.
const LAST_MILE_MS: f64 = 8.0;
/// How many connections a network makes in an epoch when times vary.
const CONNECTIONS: usize = 4;
/// What a liar says, µs.
const LIE_US: u32 = 1_000;

/// What all sets have in common.
pub(super) struct Scene<'a> {
    matrix: &'a Matrix,
    arguments: &'a Arguments,
    /// People near each place, millions.
    population: Vec<f64>,
    variation: Variation,
}

impl<'a> Scene<'a> {
    pub(super) fn read(matrix: &'a Matrix, arguments: &'a Arguments) -> anyhow::Result<Scene<'a>> {
        let variation = Variation::read(arguments.varying, arguments.epochs, matrix)?;
        Ok(Scene { matrix, arguments, population: matrix.population()?, variation })
    }
}

/// One set of replicas and its clients.
pub(super) struct World<'a> {
    scene: &'a Scene<'a>,
    /// Places of the replicas; the first are the liars.
    replicas: Vec<usize>,
    ids: Vec<MemberId>,
    networks: Vec<Network>,
    geo: GeoDb,
    inputs: Inputs,
    site: SiteName,
    /// By network and replica: what the node remembers.
    histories: BTreeMap<(usize, usize), History>,
    /// What was measured so far, for judging by hindsight.
    taken: Memory,
    /// What would have been, had all replicas been measured from all cities.
    all: Memory,
}

/// A network of clients.
struct Network {
    city: usize,
    /// Where the database has it.
    believed: Coordinates,
    net: Ipv4Net,
    last_mile: f64,
    population: f64,
    alike: f64,
}

impl Network {
    /// The prefix of its clients.
    fn prefix(&self) -> IpNet {
        Ipv4Net::new_assert(self.net.network(), 24).into()
    }
}

/// What was counted on the way.
#[derive(Default, Serialize)]
pub(super) struct Tally {
    /// Computing generations, ms of a processor each.
    compute_ms: f64,
    /// Replicas measured from a city, mean, after each epoch.
    measured_per_place: Vec<f64>,
    /// Answers to explorers of all, percent.
    explored_percent: f64,
    /// Mean penalty of explorers, ms.
    explored_penalty_ms: f64,
    /// How often a network was sent elsewhere, for each hour, in the second half: without exploring.
    moves_per_client_hour: f64,
    /// Clients sent to a liar that is not the best for them, percent of all, by people, at the end.
    drawn_by_liars_percent: f64,
    /// Who is materially worse off at the end, and why.
    blame: Blame,
    #[serde(skip)]
    count: Counts,
}

#[derive(Default)]
struct Counts {
    compute: Duration,
    generations: usize,
    cities: usize,
    measured: Vec<usize>,
    answers: usize,
    explored: usize,
    explored_ms: f64,
    moves: usize,
    settled: usize,
    drawn: f64,
    people: f64,
}

impl Tally {
    pub(super) fn done(mut self, epochs: usize) -> Tally {
        let count = &self.count;
        self.compute_ms = count.compute.as_secs_f64() * 1000.0 / count.generations.max(1) as f64;
        self.measured_per_place =
            count.measured.iter().take(epochs).map(|n| *n as f64 / count.cities.max(1) as f64).collect();
        self.explored_percent = 100.0 * count.explored as f64 / count.answers.max(1) as f64;
        self.explored_penalty_ms = count.explored_ms / count.explored.max(1) as f64;
        let hours = count.settled as f64 * EPOCH.as_secs_f64() / 3600.0;
        self.moves_per_client_hour = count.moves as f64 / hours.max(1.0);
        self.drawn_by_liars_percent = 100.0 * count.drawn / count.people.max(1e-9);
        self.blame = self.blame.done();
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a generation took {:.1} ms; replicas measured of a place after each epoch:",
            self.compute_ms
        )?;
        self.measured_per_place.iter().try_for_each(|measured| write!(f, " {measured:.1}"))?;
        writeln!(
            f,
            "; {:.1} % of answers explored, {:.0} ms worse than the best;",
            self.explored_percent, self.explored_penalty_ms
        )?;
        write!(f, "{:.3} changes of replica per client-hour in the second half", self.moves_per_client_hour)?;
        write!(
            f,
            "; {:.1} % of clients sent to a liar who is materially worse for them",
            self.drawn_by_liars_percent
        )?;
        write!(f, "\nmaterially worse off at the end, of all clients:{}", self.blame)
    }
}

impl<'a> World<'a> {
    pub(super) fn draw(
        scene: &'a Scene<'a>,
        count: usize,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<World<'a>> {
        let matrix = scene.matrix;
        let replicas = index::sample(rng, matrix.places.len(), count).into_vec();
        // Only clients from which every replica was measured: otherwise the best is not known.
        let measured = |place: usize| replicas.iter().all(|replica| matrix.rtt(place, *replica).is_some());
        let cities = (0..matrix.places.len()).filter(|place| !replicas.contains(place) && measured(*place));
        let mut networks = Vec::new();
        for city in cities {
            let misplaced = rng.random_bool(scene.arguments.wrong / 100.0);
            let place = if misplaced { rng.random_range(0..matrix.places.len()) } else { city };
            let people = scene.population[city];
            let count = (people * 1e6 / PEOPLE_PER_NETWORK).clamp(NETWORKS_MIN, NETWORKS_MAX).round();
            for _ in 0..count as usize {
                // Anywhere, so that blocks explore independently.
                let number: u32 = rng.random_range(1 << 12..14 << 16);
                networks.push(Network {
                    city,
                    believed: matrix.places[place].coordinates,
                    net: Ipv4Net::new_assert(Ipv4Addr::from(number << 12), 20),
                    last_mile: rng.random_range(0.0..LAST_MILE_MS),
                    population: people / count,
                    alike: 1.0 / count,
                });
            }
        }
        networks.sort_by_key(|network| network.net);
        networks.dedup_by_key(|network| network.net);
        let site: SiteName = "www".parse()?;
        let members: anyhow::Result<Vec<MemberInput>> =
            (0..count).map(|replica| member(scene, &replicas, replica, &site)).collect();
        let inputs = Inputs {
            members: members?,
            sites: vec![SiteInput::published(site.clone(), VersionNumber(1))],
            ..Inputs::new("edge.example.org".parse()?)
        };
        let geo = GeoDb::from_networks(networks.iter().map(|network| (network.net.into(), network.believed)));
        let ids = replicas.iter().map(|place| id(*place)).collect();
        Ok(World {
            scene,
            replicas,
            ids,
            networks,
            geo,
            inputs,
            site,
            histories: BTreeMap::new(),
            taken: Memory::default(),
            all: Memory::default(),
        })
    }

    pub(super) fn measure(mut self, rng: &mut ChaCha8Rng, penalties: &mut Penalties, tally: &mut Tally) {
        let epochs = self.scene.arguments.epochs;
        for network in 0..self.networks.len() {
            let any = rng.random_range(0..self.replicas.len());
            penalties.add(0, "random", self.penalty(network, any));
            let nearest = (0..self.replicas.len())
                .min_by(|a, b| self.believed_km(network, *a).total_cmp(&self.believed_km(network, *b)));
            penalties.add(1, "nearest", self.penalty(network, nearest.unwrap_or(any)));
        }
        let mut before: Option<Generation> = None;
        let mut homes: Vec<Option<usize>> = vec![None; self.networks.len()];
        tally.count.cities += self.networks.iter().map(|network| network.city).collect::<BTreeSet<_>>().len();
        for epoch in 0..=epochs {
            self.inputs.observations = self.told(epoch);
            self.inputs.exploration = Some(Exploration {
                epoch: epoch as u64,
                permille: if epoch == 0 { 0 } else { self.scene.arguments.explore },
            });
            let started = processor_time();
            let generation = Generation::compute(&self.inputs, &self.geo, before.as_ref());
            tally.count.compute += processor_time().saturating_sub(started);
            tally.count.generations += 1;
            let usual = self.without_exploring(&generation, before.as_ref());
            let policy = if epoch == 0 { "map, cold".to_owned() } else { format!("map, epoch {epoch}") };
            for network in 0..self.networks.len() {
                let Some(chosen) = self.choice(&generation, network) else { continue };
                let home = self.choice(&usual, network);
                let penalty = self.penalty(network, chosen);
                penalties.add(2 + epoch, &policy, penalty);
                if epoch == epochs {
                    let reason = || self.reason(&generation, network, (chosen, home));
                    let reason = penalty.is_material().then(reason);
                    tally.blame.count(penalty.population, reason);
                }
                self.count(tally, epoch, network, (chosen, home), (&mut homes, penalty));
                self.serve(network, chosen, epoch, rng);
            }
            let measured: BTreeSet<(usize, usize)> = self
                .histories
                .keys()
                .map(|(network, replica)| (self.networks[*network].city, *replica))
                .collect();
            tally.count.measured.resize(epochs + 1, 0);
            tally.count.measured[epoch] += measured.len();
            before = Some(generation);
            self.inputs.demands = self.demands(&homes);
            self.measure_all(epoch, rng);
        }
        self.judge_by_hindsight(penalties);
    }

    /// What members tell of who they serve: a choice leans on it.
    fn demands(&self, homes: &[Option<usize>]) -> Vec<DemandInput> {
        let served = |replica: usize| -> Vec<(usize, IpNet)> {
            let here = homes.iter().enumerate().filter(|(_, home)| **home == Some(replica));
            here.map(|(network, _)| (network, self.networks[network].prefix())).collect()
        };
        let demand = |(replica, id): (usize, &MemberId)| {
            let mut served = served(replica);
            let total_mrps = 1000 * served.len() as u64;
            // As many as a record holds, of all replicas the same ones.
            served.sort_unstable_by_key(|(network, _)| lot(*network));
            served.truncate(PREFIXES_MAX);
            let mut prefixes: Vec<_> = served.into_iter().map(|(_, prefix)| (prefix, 1000)).collect();
            prefixes.sort_unstable();
            DemandInput { member: *id, total_mrps, prefixes, sites: Vec::new() }
        };
        self.ids.iter().enumerate().map(demand).collect()
    }

    /// The same generation as if nobody explored, to tell explorers from those that moved.
    fn without_exploring(&self, generation: &Generation, before: Option<&Generation>) -> Generation {
        let inputs = Inputs { exploration: None, ..generation.inputs().clone() };
        Generation::compute(&inputs, &self.geo, before)
    }

    fn count(
        &self,
        tally: &mut Tally,
        epoch: usize,
        network: usize,
        (chosen, home): (usize, Option<usize>),
        (homes, penalty): (&mut [Option<usize>], Penalty),
    ) {
        let (count, arguments) = (&mut tally.count, self.scene.arguments);
        count.answers += 1;
        if home != Some(chosen) {
            count.explored += 1;
            count.explored_ms += penalty.chosen - penalty.best;
        }
        if epoch * 2 > arguments.epochs {
            count.settled += 1;
            count.moves += usize::from(homes[network].is_some() && homes[network] != home);
        }
        homes[network] = home;
        if epoch == arguments.epochs {
            count.people += penalty.population;
            let lied = chosen < arguments.liars && penalty.chosen > penalty.best * 1.1 + 2.0;
            count.drawn += if lied { penalty.population } else { 0.0 };
        }
    }

    /// The replica that the map names first.
    fn choice(&self, generation: &Generation, network: usize) -> Option<usize> {
        let answer = generation.answer(self.networks[network].prefix().addr(), self.site.as_str())?;
        let (member, _) = answer.v4().next()?;
        self.ids.iter().position(|id| *id == member.id)
    }

    /// What one connection from a city measures in an epoch, without the last mile, ms.
    fn sample(&self, city: usize, replica: usize, epoch: usize, rng: &mut ChaCha8Rng) -> f64 {
        let time = epoch as f64 + rng.random_range(0.0..1.0);
        let pair = (city, self.replicas[replica]);
        self.scene.variation.sample(self.scene.matrix, pair, time, rng).unwrap_or(f64::MAX)
    }

    /// Every replica is measured from every city, for judging only.
    fn measure_all(&mut self, epoch: usize, rng: &mut ChaCha8Rng) {
        let cities: BTreeSet<usize> = self.networks.iter().map(|network| network.city).collect();
        for city in cities {
            for replica in 0..self.replicas.len() {
                for _ in 0..hindsight::SAMPLES {
                    let ms = self.sample(city, replica, epoch, rng);
                    self.all.add(city, replica, ms);
                }
            }
        }
    }

    /// What those would choose who knew more, after the last epoch.
    fn judge_by_hindsight(&self, penalties: &mut Penalties) {
        let at = 3 + self.scene.arguments.epochs;
        for (order, policy, memory) in
            [(at, "by what was taken", &self.taken), (at + 1, "by all, all taken", &self.all)]
        {
            let best = memory.best();
            for network in 0..self.networks.len() {
                if let Some(replica) = best.get(&self.networks[network].city) {
                    penalties.add(order, policy, self.penalty(network, *replica));
                }
            }
        }
    }

    /// Why a network is told a replica that is materially worse.
    fn reason(
        &self,
        generation: &Generation,
        network: usize,
        (chosen, home): (usize, Option<usize>),
    ) -> String {
        let place = &self.networks[network];
        let truly = self.scene.matrix.places[place.city].coordinates;
        let placed = if place.believed == truly { "placed" } else { "misplaced" };
        if home != Some(chosen) {
            return format!("{placed}: explores");
        }
        let Some(ranking) = generation.rank(place.prefix().addr(), &self.site) else {
            return "nothing".into();
        };
        let of = |replica: usize| {
            let ranked = ranking.replicas.iter().find(|ranked| ranked.member == self.ids[replica]);
            ranked.map(|r| (format!("{:?}", r.source).to_lowercase(), r.rtt_estimate_us.unwrap_or(u32::MAX)))
        };
        let best = (0..self.replicas.len())
            .min_by(|a, b| self.rtt(network, *a).total_cmp(&self.rtt(network, *b)))
            .unwrap_or(chosen);
        let (Some((by, rtt)), Some((best_by, best_rtt))) = (of(chosen), of(best)) else {
            return "absent".into();
        };
        let kept = if best_rtt < rtt { ", but kept" } else { "" };
        format!("{placed}: chosen {by}, best {best_by}{kept}")
    }

    /// The network connects to the replica, which measures.
    fn serve(&mut self, network: usize, replica: usize, epoch: usize, rng: &mut ChaCha8Rng) {
        let (city, last_mile) = (self.networks[network].city, self.networks[network].last_mile);
        let count = if self.scene.variation.is_steady() { 1 } else { CONNECTIONS };
        for n in 0..count {
            let ms = self.sample(city, replica, epoch, rng);
            self.taken.add(city, replica, ms);
            let now = EPOCH * epoch as u32 + EPOCH * n as u32 / count as u32;
            self.histories.entry((network, replica)).or_default().take(now, micros(ms + last_mile));
        }
    }

    /// What the replicas tell at the start of an epoch: of as many networks as a record holds, all of
    /// the same ones.
    fn told(&self, epoch: usize) -> Vec<(MemberId, ClientRtt)> {
        let mut by_replica: BTreeMap<usize, Vec<(u64, ClientRtt)>> = BTreeMap::new();
        for ((network, replica), history) in &self.histories {
            let Some(rtt) = history.told(EPOCH * epoch as u32, self.networks[*network].prefix()) else {
                continue;
            };
            by_replica.entry(*replica).or_default().push((lot(*network), rtt));
        }
        for liar in 0..self.scene.arguments.liars.min(self.replicas.len()) {
            let lie = |(number, network): (usize, &Network)| {
                (lot(number), ClientRtt { samples: SAMPLES_MAX, ..ClientRtt::new(network.prefix(), LIE_US) })
            };
            by_replica.insert(liar, self.networks.iter().enumerate().map(lie).collect());
        }
        let flat = by_replica.into_iter().flat_map(|(replica, mut rtts)| {
            rtts.sort_unstable();
            rtts.truncate(OBSERVATIONS_MAX);
            let by = self.ids[replica];
            rtts.into_iter().map(move |(_, rtt)| (by, rtt))
        });
        flat.collect()
    }

    fn rtt(&self, network: usize, replica: usize) -> f64 {
        let network = &self.networks[network];
        let (matrix, variation) = (self.scene.matrix, &self.scene.variation);
        let path = variation.median(matrix, network.city, self.replicas[replica]).unwrap_or(f64::MAX);
        path + network.last_mile
    }

    fn penalty(&self, network: usize, replica: usize) -> Penalty {
        let best = (0..self.replicas.len()).map(|other| self.rtt(network, other)).fold(f64::MAX, f64::min);
        let Network { population, alike, .. } = self.networks[network];
        Penalty { chosen: self.rtt(network, replica), best, population, alike }
    }

    fn believed_km(&self, network: usize, replica: usize) -> f64 {
        let replica = &self.scene.matrix.places[self.replicas[replica]];
        self.networks[network].believed.distance_km(replica.coordinates)
    }
}

fn member(
    scene: &Scene<'_>,
    replicas: &[usize],
    number: usize,
    site: &SiteName,
) -> anyhow::Result<MemberInput> {
    let place = replicas[number];
    let others = replicas.iter().filter(|other| **other != place);
    let lies = number < scene.arguments.liars;
    let rtt = |other: usize| if lies { Some(LIE_US) } else { scene.matrix.rtt(place, other).map(micros) };
    Ok(MemberInput {
        peer_rtts: others.filter_map(|other| Some((id(*other), rtt(*other)?))).collect(),
        id: id(place),
        serial: Serial(place as u64),
        name: format!("n{place}").parse()?,
        region: format!("r{place}").parse()?,
        place: Some(scene.matrix.places[place].coordinates),
        roles: vec![Role::Node],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        public_v4: Some(Ipv4Addr::from(0xc612_0000 + place as u32)),
        public_v6: None,
        http_port: Some(80),
        held: vec![(site.clone(), VersionNumber(1))],
        certified: true,
        capacity: Capacity::default(),
        checks: Vec::new(),
    })
}

fn id(place: usize) -> MemberId {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(place as u64).to_le_bytes());
    SecretKey::from_seed(&seed).public()
}

fn micros(ms: f64) -> u32 {
    (ms * 1000.0).round() as u32
}

/// What this thread had of a processor so far: others on the machine do not count. Nothing where the kernel
/// does not tell.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// A number for a network, as good as random.
pub(super) fn lot(network: usize) -> u64 {
    (network as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
