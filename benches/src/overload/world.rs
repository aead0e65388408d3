//! One set of replicas, its clients, and what they ask for.

use super::best;
use super::cities;
use super::counts::Counts;
use crate::matrix::Matrix;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::demand::{Capacity, Demand};
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::SiteName;
use godwit_core::observation::{ClientRtt, SAMPLES_MAX};
use godwit_core::record::OBSERVATIONS_MAX;
use godwit_map::{DemandInput, Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use ipnet::{IpNet, Ipv4Net};
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

/// The addresses of a city: a /16.
const CITY_BITS: u32 = 16;
/// What a careful division leaves free, of all capacity.
const SPARED: f64 = 0.05;

struct Client {
    city: usize,
    prefix: IpNet,
    /// Requests per second, thousandths, on average.
    rate: f64,
}

/// One set of replicas and its clients.
pub(super) struct World<'a> {
    matrix: &'a Matrix,
    /// Places of the replicas, in the order of the members.
    replicas: Vec<usize>,
    capacities: Vec<f64>,
    clients: Vec<Client>,
    geo: GeoDb,
    inputs: Inputs,
    site: SiteName,
    told: BTreeMap<MemberId, Demand>,
    /// What each member has measured of a prefix lately; a low quantile is told, as a node does.
    observed: BTreeMap<(MemberId, IpNet), VecDeque<u32>>,
}

impl<'a> World<'a> {
    pub(super) fn draw(
        matrix: &'a Matrix,
        count: usize,
        (load, known): (f64, bool),
        networks: usize,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<World<'a>> {
        let replicas = index::sample(rng, matrix.places.len(), count).into_vec();
        let measured = |place: usize| replicas.iter().all(|replica| matrix.rtt(place, *replica).is_some());
        let cities: Vec<usize> =
            (0..matrix.places.len()).filter(|place| !replicas.contains(place) && measured(*place)).collect();
        let mut clients = Vec::new();
        for city in &cities {
            for (rate, at) in cities::draw(networks, rng).into_iter().zip(0..) {
                let base = (0x0a00_0000 + ((*city as u32) << CITY_BITS)) + (at << 8);
                let prefix = Ipv4Net::new_assert(Ipv4Addr::from(base), 24).into();
                clients.push(Client { city: *city, prefix, rate });
            }
        }
        // Members have between half and twice of what is usual.
        let capacities: Vec<f64> =
            replicas.iter().map(|_| rng.random_range(500.0..2000.0f64).round()).collect();
        let all = capacities.iter().sum::<f64>() * 1000.0;
        let asked: f64 = clients.iter().map(|client| client.rate).sum();
        clients.iter_mut().for_each(|client| client.rate *= load * all / asked);
        let site: SiteName = "www".parse()?;
        let members: anyhow::Result<Vec<MemberInput>> = replicas
            .iter()
            .zip(&capacities)
            .map(|(place, capacity)| {
                let rps = known.then_some(*capacity as u32);
                member(matrix, &replicas, *place, &site, Capacity { rps, weight_percent: None })
            })
            .collect();
        let geo = GeoDb::from_networks(cities.iter().map(|city| {
            let base = 0x0a00_0000 + ((*city as u32) << CITY_BITS);
            let net = Ipv4Net::new_assert(Ipv4Addr::from(base), 32 - CITY_BITS as u8);
            (net.into(), matrix.places[*city].coordinates)
        }));
        let inputs = Inputs {
            members: members?,
            sites: vec![SiteInput::published(site.clone(), VersionNumber(1))],
            ..Inputs::new("edge.example.org".parse()?)
        };
        Ok(World {
            matrix,
            replicas,
            capacities,
            clients,
            geo,
            inputs,
            site,
            told: BTreeMap::new(),
            observed: BTreeMap::new(),
        })
    }

    pub(super) fn run(mut self, rounds: usize, rng: &mut ChaCha8Rng, counts: &mut Counts) {
        let allowed = self.compare(rng, counts);
        counts.rounds_learning = rounds - rounds / 2;
        let mut choices: Vec<Option<usize>> = vec![None; self.clients.len()];
        for round in 0..rounds {
            let started = Instant::now();
            let generation = Generation::compute(&self.inputs, &self.geo, None);
            counts.spent += started.elapsed();
            counts.generations += 1;
            let counted = round * 2 >= rounds;
            let mut loads = vec![0.0; self.replicas.len()];
            let mut served: Vec<Demand> = self.replicas.iter().map(|_| Demand::default()).collect();
            for (at, client) in self.clients.iter().enumerate() {
                let rate = client.rate * rng.random_range(0.95..1.05);
                let shares = self.choices(&generation, client);
                let Some((most, _)) = shares.iter().max_by(|a, b| a.1.total_cmp(&b.1)).copied() else {
                    continue;
                };
                for (chosen, share) in shares {
                    let rate = rate * share;
                    loads[chosen] += rate;
                    served[chosen].total_mrps += rate as u64;
                    served[chosen].prefixes.push((client.prefix, rate as u32));
                    if counted {
                        let best = allowed.get(&client.city).copied().unwrap_or(f64::MAX);
                        counts.map.add(self.rtt(client.city, chosen), self.least(client.city), best, rate);
                    }
                }
                let moved = if choices[at].is_some_and(|before| before != most) { rate } else { 0.0 };
                if counted {
                    counts.moved += moved;
                } else {
                    counts.asked_learning += rate;
                    counts.moved_learning += moved;
                }
                choices[at] = Some(most);
            }
            if counted {
                let used =
                    loads.iter().zip(&self.capacities).map(|(load, capacity)| load / capacity / 1000.0);
                counts.utilisations.extend(used);
            }
            self.tell(served, &choices, rng);
        }
    }

    /// Each replica measures each city once, each on another prefix.
    pub(super) fn measure_all(&mut self, rng: &mut ChaCha8Rng) {
        for of_city in self.clients.chunk_by(|a, b| a.city == b.city) {
            for (replica, member) in self.inputs.members.iter().enumerate() {
                let Some(client) = of_city.get(replica % of_city.len()) else { continue };
                let rtt_us = (self.rtt(client.city, replica) * rng.random_range(1.0..1.1) * 1000.0).round();
                self.observed.insert((member.id, client.prefix), VecDeque::from([rtt_us as u32]));
            }
        }
    }

    /// Members tell what they were asked for, as a member does, and the times that they observed.
    fn tell(&mut self, served: Vec<Demand>, choices: &[Option<usize>], rng: &mut ChaCha8Rng) {
        self.inputs.demands.clear();
        let ids: Vec<MemberId> = self.inputs.members.iter().map(|member| member.id).collect();
        for (member, mut demand) in self.inputs.members.iter().zip(served) {
            let by = &member.id;
            demand.capacity = member.capacity;
            demand.normalize();
            let told = self.told.entry(*by).or_default();
            *told = demand.steadied(told);
            self.inputs.demands.push(DemandInput::new(*by, told));
        }
        for (client, choice) in self.clients.iter().zip(choices) {
            let Some(at) = *choice else { continue };
            let rtt = self.matrix.rtt(client.city, self.replicas[at]).unwrap_or(f64::MAX);
            let rtt_us = (rtt * rng.random_range(1.0..1.1) * 1000.0).round() as u32;
            let samples = self.observed.entry((ids[at], client.prefix)).or_default();
            if samples.len() == usize::from(SAMPLES_MAX) {
                samples.pop_front();
            }
            samples.push_back(rtt_us);
        }
        let mut told: BTreeMap<MemberId, Vec<(bool, u32, ClientRtt)>> = BTreeMap::new();
        let serves: BTreeMap<IpNet, MemberId> = (self.clients.iter().zip(choices))
            .filter_map(|(client, at)| Some((client.prefix, ids[(*at)?])))
            .collect();
        for ((by, prefix), samples) in &self.observed {
            let mut sorted: Vec<u32> = samples.iter().copied().collect();
            sorted.sort_unstable();
            let low = sorted.get(sorted.len() / 4).copied().unwrap_or(u32::MAX);
            let rtt = ClientRtt { samples: samples.len() as u8, ..ClientRtt::new(*prefix, low) };
            told.entry(*by).or_default().push((serves.get(prefix) != Some(by), lot(*prefix), rtt));
        }
        self.inputs.observations.clear();
        for (by, mut rtts) in told {
            // As many as a record holds: half for those that it serves now, by lot.
            rtts.sort_unstable_by_key(|(elsewhere, lot, _)| (*elsewhere, *lot));
            let served = rtts.iter().filter(|(elsewhere, ..)| !elsewhere).count();
            let now =
                served.min((OBSERVATIONS_MAX / 2).max(OBSERVATIONS_MAX.saturating_sub(rtts.len() - served)));
            rtts.drain(now..served);
            rtts.truncate(OBSERVATIONS_MAX);
            self.inputs.observations.extend(rtts.into_iter().map(|(_, _, rtt)| (by, rtt)));
        }
    }

    /// Where clients of a network go, with the part of them that does: all to one, but where the answer
    /// holds for less than the network.
    fn choices(&self, generation: &Generation, client: &Client) -> Vec<(usize, f64)> {
        let first = |address: IpAddr| {
            let answer = generation.answer(address, self.site.as_str())?;
            let (member, _) = answer.v4().next()?;
            let chosen = self.inputs.members.iter().position(|known| known.id == member.id)?;
            Some((chosen, answer.scope))
        };
        match first(client.prefix.addr()) {
            Some((chosen, scope)) if scope <= client.prefix.prefix_len() => vec![(chosen, 1.0)],
            Some(_) => {
                let hosts: Vec<usize> =
                    client.prefix.hosts().filter_map(|host| Some(first(host)?.0)).collect();
                let mut shares = BTreeMap::new();
                hosts
                    .iter()
                    .for_each(|chosen| *shares.entry(*chosen).or_insert(0.0) += 1.0 / hosts.len() as f64);
                shares.into_iter().collect()
            }
            None => Vec::new(),
        }
    }

    /// Round-trip time from a city to a replica, ms.
    fn rtt(&self, city: usize, replica: usize) -> f64 {
        self.matrix.rtt(city, self.replicas[replica]).unwrap_or(f64::MAX)
    }

    /// The same to the best of all.
    fn least(&self, city: usize) -> f64 {
        (0..self.replicas.len()).map(|replica| self.rtt(city, replica)).fold(f64::MAX, f64::min)
    }

    /// Notes what other ways of choosing come to; the furthest that anybody of each city is sent in the
    /// best division, ms.
    fn compare(&self, rng: &mut ChaCha8Rng, counts: &mut Counts) -> BTreeMap<usize, f64> {
        let mut demand: BTreeMap<usize, f64> = BTreeMap::new();
        self.clients.iter().for_each(|client| *demand.entry(client.city).or_default() += client.rate);
        let (cities, demand): (Vec<usize>, Vec<f64>) = demand.into_iter().unzip();
        let rtts: Vec<Vec<f64>> = cities
            .iter()
            .map(|city| (0..self.replicas.len()).map(|replica| self.rtt(*city, replica)).collect())
            .collect();
        let divide = |of: f64| {
            let capacities: Vec<f64> = self.capacities.iter().map(|rps| rps * 1000.0 * of).collect();
            best::divide(&demand, &rtts, &capacities)
        };
        let (best, spared) = (divide(1.0), divide(1.0 - SPARED));
        let mut furthest = BTreeMap::new();
        for (at, city) in cities.iter().enumerate() {
            let least = self.least(*city);
            for (noted, division) in [(&mut counts.best, &best), (&mut counts.spared, &spared)] {
                let shares = division.shares[at].iter().enumerate().filter(|(_, share)| **share > 1.0);
                noted.extend(shares.map(|(replica, share)| (rtts[at][replica] - least, *share)));
            }
            let served = best.shares[at].iter().enumerate().filter(|(_, share)| **share > 1.0);
            let far = served.map(|(replica, _)| rtts[at][replica]).fold(0.0, f64::max);
            furthest.insert(*city, far);
        }
        self.by_geography(&furthest, rng, counts);
        furthest
    }

    /// Who goes by distance on Earth alone, and who in this way to the nearest that has room left; these
    /// come in any order.
    fn by_geography(&self, furthest: &BTreeMap<usize, f64>, rng: &mut ChaCha8Rng, counts: &mut Counts) {
        let place = |place: usize| self.matrix.places[place].coordinates;
        let mut left: Vec<f64> = self.capacities.iter().map(|rps| rps * 1000.0).collect();
        let mut clients: Vec<&Client> = self.clients.iter().collect();
        clients.shuffle(rng);
        for Client { city, rate, .. } in clients {
            let mut order: Vec<usize> = (0..self.replicas.len()).collect();
            let km = |replica: usize| place(*city).distance_km(place(self.replicas[replica]));
            order.sort_by(|a, b| km(*a).total_cmp(&km(*b)));
            let roomy = order.iter().copied().find(|replica| left[*replica] >= *rate);
            let most = || order.iter().copied().max_by(|a, b| left[*a].total_cmp(&left[*b])).unwrap_or(0);
            let roomy = roomy.unwrap_or_else(most);
            left[roomy] -= rate;
            let (least, best) = (self.least(*city), furthest.get(city).copied().unwrap_or(f64::MAX));
            counts.nearest.add(self.rtt(*city, order[0]), least, best, *rate);
            counts.overflow.add(self.rtt(*city, roomy), least, best, *rate);
        }
    }
}

/// A number for a network, as good as random.
fn lot(prefix: IpNet) -> u32 {
    match prefix {
        IpNet::V4(net) => (u32::from(net.network()) >> 8).wrapping_mul(0x9e37_79b1),
        IpNet::V6(_) => 0,
    }
}

fn member(
    matrix: &Matrix,
    replicas: &[usize],
    place: usize,
    site: &SiteName,
    capacity: Capacity,
) -> anyhow::Result<MemberInput> {
    let others = replicas.iter().filter(|other| **other != place);
    let micros = |ms: f64| (ms * 1000.0).round() as u32;
    let peer_rtts =
        others.filter_map(|other| Some((id(*other), micros(matrix.rtt(place, *other)?)))).collect();
    Ok(MemberInput {
        id: id(place),
        serial: Serial(place as u64),
        name: format!("n{place}").parse()?,
        region: format!("r{place}").parse()?,
        place: Some(matrix.places[place].coordinates),
        roles: vec![Role::Node],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity,
        public_v4: Some(Ipv4Addr::from(0xc612_0000 + place as u32)),
        public_v6: None,
        http_port: Some(80),
        held: vec![(site.clone(), VersionNumber(1))],
        peer_rtts,
        certified: true,
        checks: Vec::new(),
    })
}

fn id(place: usize) -> MemberId {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(place as u64).to_le_bytes());
    SecretKey::from_seed(&seed).public()
}
