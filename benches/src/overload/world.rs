//! One set of replicas, its clients, and what they ask for.

use super::Arguments;
use super::counts::{COURSE, Counts, Way};
use super::draw::Scene;
use godwit_core::demand::Demand;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::observation::{ClientRtt, SAMPLES_MAX};
use godwit_core::record::OBSERVATIONS_MAX;
use godwit_map::{DemandInput, Exploration, Generation, GeoDb, Inputs};
use ipnet::IpNet;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

/// A network of clients.
pub(super) struct Client {
    pub(super) city: usize,
    pub(super) prefix: IpNet,
    /// Requests per second, thousandths, on average.
    pub(super) rate: f64,
}

/// One set of replicas and its clients.
pub(super) struct World<'a> {
    pub(super) scene: &'a Scene<'a>,
    /// Places of the replicas, in the order of the members.
    pub(super) replicas: Vec<usize>,
    /// Requests per second.
    pub(super) capacities: Vec<f64>,
    pub(super) clients: Vec<Client>,
    pub(super) geo: GeoDb,
    pub(super) inputs: Inputs,
    pub(super) site: SiteName,
    pub(super) told: BTreeMap<MemberId, Demand>,
    /// What each member has measured of a prefix lately; a low quantile is told, as a node does.
    pub(super) observed: BTreeMap<(MemberId, IpNet), VecDeque<u32>>,
}

impl World<'_> {
    pub(super) fn run(mut self, rng: &mut ChaCha8Rng, counts: &mut Counts) {
        let allowed = self.compare(rng, counts);
        let rounds = self.scene.arguments.rounds;
        counts.rounds_learning = rounds - rounds / 2;
        let mut choices: Vec<Option<usize>> = vec![None; self.clients.len()];
        for round in 0..rounds {
            self.inputs.exploration = self.exploration(round);
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
                    let way = self.way(client.city, chosen, &allowed);
                    counts.course[round * COURSE / rounds].add(way, rate);
                    if counted {
                        counts.map.add(way, rate);
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
            counts.utilised(&self.used(&loads), (round, counted));
            self.tell(served, &choices, rng);
        }
    }

    fn exploration(&self, round: usize) -> Option<Exploration> {
        let Arguments { explore, epoch, .. } = *self.scene.arguments;
        let number = (round / epoch.max(1)) as u64;
        (explore > 0).then_some(Exploration { epoch: number, permille: explore })
    }

    /// Of loads, thousandths of requests per second, the parts of what each replica can take.
    pub(super) fn used(&self, loads: &[f64]) -> Vec<f64> {
        loads.iter().zip(&self.capacities).map(|(load, capacity)| load / capacity / 1000.0).collect()
    }

    /// How far clients of a city go to a replica, beside how far they might; `allowed` as from
    /// [`World::compare`].
    pub(super) fn way(&self, city: usize, replica: usize, allowed: &BTreeMap<usize, f64>) -> Way {
        let allowed = allowed.get(&city).copied().unwrap_or(f64::MAX);
        Way { rtt: self.rtt(city, replica), least: self.least(city), allowed }
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
            let rtt = self.scene.matrix.rtt(client.city, self.replicas[at]).unwrap_or(f64::MAX);
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
    pub(super) fn rtt(&self, city: usize, replica: usize) -> f64 {
        self.scene.matrix.rtt(city, self.replicas[replica]).unwrap_or(f64::MAX)
    }

    /// The same to the best of all.
    pub(super) fn least(&self, city: usize) -> f64 {
        (0..self.replicas.len()).map(|replica| self.rtt(city, replica)).fold(f64::MAX, f64::min)
    }
}

/// A number for a network, as good as random.
fn lot(prefix: IpNet) -> u32 {
    match prefix {
        IpNet::V4(net) => (u32::from(net.network()) >> 8).wrapping_mul(0x9e37_79b1),
        IpNet::V6(_) => 0,
    }
}
