//! Load against capacity: whether anybody gets more than it can take, and what it costs clients.
//!
//! Random sets of replicas are drawn from the cities of a measured matrix; the other cities are
//! clients, with several /24s each that ask for very different amounts (log-normal by city and by
//! prefix). Together they ask for a given share of all capacity. In rounds, every client connects to
//! the replica it is sent to, which observes its round-trip time and tells what it was asked for; then
//! the real map decides anew. Demand wavers by a few per cent from round to round and round-trip
//! times by up to a tenth, so that flapping shows.
//!
//! Per replica count: the most that anybody gets of its capacity, with the capacities known to the map
//! and unknown to it; per client, weighted by what it asks for: the round-trip time to the replica it is
//! sent to minus that to the best of all; and how far that is from what is possible ([`best`]): the same
//! of the best division that capacity allows, and the share of clients that are sent materially (10 % and
//! 2 ms) further than anybody of their place is in it. For comparison, who goes to the nearest on Earth.
//!
//! In the first half of the rounds the map learns: nothing was measured before, and demand is known as it
//! is served. Changes of replica are told apart for this half and the other one.

mod best;

use crate::matrix::{Matrix, Source};
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::demand::{Capacity, Demand};
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::SiteName;
use godwit_core::observation::{ClientRtt, SAMPLES_MAX};
use godwit_map::{DemandInput, Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use ipnet::{IpNet, Ipv4Net};
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// /24s of each city.
const PREFIXES: usize = 8;

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The measured matrix.
    #[arg(long, value_enum, default_value = "wonder2018")]
    matrix: Source,
    /// Replicas in each set; several sizes may be given.
    #[arg(long, value_delimiter = ',', default_value = "5,20")]
    replicas: Vec<usize>,
    /// Shares of all capacity that clients ask for.
    #[arg(long, value_delimiter = ',', default_value = "0.5,0.8,0.9,1.5")]
    loads: Vec<f64>,
    /// Random sets of replicas.
    #[arg(long, default_value_t = 20)]
    sets: usize,
    /// Rounds, of 10 s; the last half counts.
    #[arg(long, default_value_t = 36)]
    rounds: usize,
    /// Begin with every replica measured once from every city, as after long exploring. Otherwise nothing
    /// was measured before, and only what clients are sent to is measured.
    #[arg(long)]
    measured: bool,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print only the JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    matrix: String,
    sets: usize,
    seed: u64,
    measured: bool,
    results: Vec<Row>,
}

/// What came out for one number of replicas, one load, and capacities known or not.
#[derive(Default, Serialize)]
struct Row {
    replicas: usize,
    load: f64,
    capacities_known: bool,
    /// The most that any replica got in any counted round, of its capacity.
    most_utilised: f64,
    /// Replicas beyond their capacity, of all replicas in all counted rounds, per cent.
    overloaded_percent: f64,
    p50_ms: f64,
    p95_ms: f64,
    mean_ms: f64,
    /// The same for the best division that capacity allows.
    best_p95_ms: f64,
    best_mean_ms: f64,
    /// The same for who goes to the nearest replica on Earth, whatever it can take.
    nearest_p95_ms: f64,
    /// Clients sent materially further than any of their place in the best division, per cent.
    worse_percent: f64,
    /// Changes of replica per client and hour, with a new map every 10 s, in the counted rounds.
    changes_per_client_hour: f64,
    /// Changes of replica per client, while the map learns.
    changes_learning: f64,
    /// Mean time to compute a generation, ms.
    compute_ms: f64,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let matrix = Matrix::read(arguments.matrix)?;
    let mut results = Vec::new();
    for replicas in &arguments.replicas {
        anyhow::ensure!((2..matrix.places.len()).contains(replicas), "too few or too many replicas");
        for load in &arguments.loads {
            for known in [false, true] {
                results.push(measure(arguments, &matrix, *replicas, *load, known)?);
            }
        }
    }
    let matrix = format!("{:?}", arguments.matrix).to_lowercase();
    let Arguments { sets, seed, measured, .. } = *arguments;
    let report = Report { matrix, sets, seed, measured, results };
    if !arguments.json {
        print_table(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn print_table(report: &Report) {
    println!("{} replica sets from {}; RTT over that to the best replica, ms\n", report.sets, report.matrix);
    println!(
        "                                             map                best possible  nearest           changes"
    );
    println!(
        "replicas  load  capacities  most used  over  p50    p95   mean    p95   mean    p95  worse     /h  learning  compute"
    );
    for row in &report.results {
        println!(
            "{:>8}  {:>4.2}  {:<10}  {:>7.1} %  {:>4.1} % {:>4.1}  {:>5.1}  {:>5.1}  {:>5.1}  {:>5.1}  {:>5.1}  {:>4.1} %  {:>5.2}  {:>8.2}  {:>4.1} ms",
            row.replicas,
            row.load,
            if row.capacities_known { "known" } else { "unknown" },
            row.most_utilised * 100.0,
            row.overloaded_percent,
            row.p50_ms,
            row.p95_ms,
            row.mean_ms,
            row.best_p95_ms,
            row.best_mean_ms,
            row.nearest_p95_ms,
            row.worse_percent,
            row.changes_per_client_hour,
            row.changes_learning,
            row.compute_ms
        );
    }
    println!();
}

fn measure(
    arguments: &Arguments,
    matrix: &Matrix,
    replicas: usize,
    load: f64,
    known: bool,
) -> anyhow::Result<Row> {
    let mut counts = Counts::default();
    for set in 0..arguments.sets {
        let seed = arguments.seed.wrapping_mul(1_000_003).wrapping_add(set as u64);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::draw(matrix, replicas, load, known, &mut rng)?;
        if arguments.measured {
            world.measure_all(&mut rng);
        }
        world.run(arguments.rounds, &mut rng, &mut counts);
    }
    Ok(counts.row(replicas, load, known))
}

/// What is counted over all sets.
#[derive(Default)]
struct Counts {
    utilisations: Vec<f64>,
    /// Penalty in ms and what the client asks for.
    penalties: Vec<(f64, f64)>,
    /// The same for the best division, and for the nearest on Earth.
    best: Vec<(f64, f64)>,
    nearest: Vec<(f64, f64)>,
    worse: f64,
    moved: f64,
    asked: f64,
    /// In the rounds that do not count.
    moved_learning: f64,
    asked_learning: f64,
    rounds_learning: usize,
    spent: Duration,
    generations: u32,
}

/// The value below which this part of all weight lies. Sorts.
fn quantile(values: &mut [(f64, f64)], part: f64) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut left = values.iter().map(|(_, weight)| weight).sum::<f64>() * part;
    let found = values.iter().find(|(_, weight)| {
        left -= weight;
        left <= 0.0
    });
    found.map_or(0.0, |(value, _)| *value)
}

fn mean(values: &[(f64, f64)]) -> f64 {
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    values.iter().map(|(value, weight)| value * weight).sum::<f64>() / all
}

impl Counts {
    fn row(mut self, replicas: usize, load: f64, capacities_known: bool) -> Row {
        let over = self.utilisations.iter().filter(|utilisation| **utilisation > 1.0).count();
        Row {
            replicas,
            load,
            capacities_known,
            most_utilised: self.utilisations.iter().copied().fold(0.0, f64::max),
            overloaded_percent: 100.0 * over as f64 / self.utilisations.len().max(1) as f64,
            p50_ms: quantile(&mut self.penalties, 0.5),
            p95_ms: quantile(&mut self.penalties, 0.95),
            mean_ms: mean(&self.penalties),
            best_p95_ms: quantile(&mut self.best, 0.95),
            best_mean_ms: mean(&self.best),
            nearest_p95_ms: quantile(&mut self.nearest, 0.95),
            worse_percent: 100.0 * self.worse / self.asked,
            changes_per_client_hour: 360.0 * self.moved / self.asked,
            changes_learning: self.moved_learning / self.asked_learning * self.rounds_learning as f64,
            compute_ms: self.spent.as_secs_f64() * 1000.0 / f64::from(self.generations.max(1)),
        }
    }
}

struct Client {
    city: usize,
    prefix: IpNet,
    /// Requests per second, thousandths, on average.
    rate: f64,
}

/// One set of replicas and its clients.
struct World<'a> {
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
    fn draw(
        matrix: &'a Matrix,
        count: usize,
        load: f64,
        known: bool,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<World<'a>> {
        let replicas = index::sample(rng, matrix.places.len(), count).into_vec();
        let measured = |place: usize| replicas.iter().all(|replica| matrix.rtt(place, *replica).is_some());
        let cities: Vec<usize> =
            (0..matrix.places.len()).filter(|place| !replicas.contains(place) && measured(*place)).collect();
        let mut clients = Vec::new();
        for city in &cities {
            let of_city = log_normal(rng);
            for at in 0..PREFIXES {
                let base = 0x0a00_0000 + ((*city as u32) << 12) + ((at as u32) << 8);
                let prefix = Ipv4Net::new_assert(Ipv4Addr::from(base), 24).into();
                clients.push(Client { city: *city, prefix, rate: of_city * log_normal(rng) });
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
            let net = Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + ((*city as u32) << 12)), 20);
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

    fn run(mut self, rounds: usize, rng: &mut ChaCha8Rng, counts: &mut Counts) {
        let allowed = self.compare(counts);
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
                let Some(chosen) = self.choice(&generation, client) else { continue };
                loads[chosen] += rate;
                served[chosen].total_mrps += rate as u64;
                served[chosen].prefixes.push((client.prefix, rate as u32));
                let moved = if choices[at].is_some_and(|before| before != chosen) { rate } else { 0.0 };
                if counted {
                    let rtt = self.rtt(client.city, chosen);
                    counts.penalties.push((rtt - self.least(client.city), rate));
                    let best = allowed.get(&client.city).copied().unwrap_or(f64::MAX);
                    counts.worse += if rtt > best * 1.1 && rtt > best + 2.0 { rate } else { 0.0 };
                    counts.asked += rate;
                    counts.moved += moved;
                } else {
                    counts.asked_learning += rate;
                    counts.moved_learning += moved;
                }
                choices[at] = Some(chosen);
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
    fn measure_all(&mut self, rng: &mut ChaCha8Rng) {
        for of_city in self.clients.chunks(PREFIXES) {
            for (replica, member) in self.inputs.members.iter().enumerate() {
                let Some(client) = of_city.get(replica % PREFIXES) else { continue };
                let rtt_us = (self.rtt(client.city, replica) * rng.random_range(1.0..1.1) * 1000.0).round();
                self.observed.insert((member.id, client.prefix), VecDeque::from([rtt_us as u32]));
            }
        }
    }

    /// Members tell what they were asked for, as a member does, and the times that they observed.
    fn tell(&mut self, served: Vec<Demand>, choices: &[Option<usize>], rng: &mut ChaCha8Rng) {
        self.inputs.demands.clear();
        let ids: Vec<MemberId> = self.inputs.members.iter().map(|member| member.id).collect();
        for (by, mut demand) in ids.iter().zip(served) {
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
        let told = |((by, prefix), samples): (&(MemberId, IpNet), &VecDeque<u32>)| {
            let mut sorted: Vec<u32> = samples.iter().copied().collect();
            sorted.sort_unstable();
            let low = sorted.get(sorted.len() / 4).copied().unwrap_or(u32::MAX);
            (*by, ClientRtt { samples: samples.len() as u8, ..ClientRtt::new(*prefix, low) })
        };
        self.inputs.observations = self.observed.iter().map(told).collect();
    }

    fn choice(&self, generation: &Generation, client: &Client) -> Option<usize> {
        let answer = generation.answer(client.prefix.addr(), self.site.as_str())?;
        let (member, _) = answer.v4().next()?;
        self.inputs.members.iter().position(|known| known.id == member.id)
    }

    /// Round-trip time from a city to a replica, ms.
    fn rtt(&self, city: usize, replica: usize) -> f64 {
        self.matrix.rtt(city, self.replicas[replica]).unwrap_or(f64::MAX)
    }

    /// The same to the best of all.
    fn least(&self, city: usize) -> f64 {
        (0..self.replicas.len()).map(|replica| self.rtt(city, replica)).fold(f64::MAX, f64::min)
    }

    /// Notes what the best division and the nearest on Earth come to; the furthest that anybody of
    /// each city is sent in the best division, ms.
    fn compare(&self, counts: &mut Counts) -> BTreeMap<usize, f64> {
        let mut demand: BTreeMap<usize, f64> = BTreeMap::new();
        self.clients.iter().for_each(|client| *demand.entry(client.city).or_default() += client.rate);
        let (cities, demand): (Vec<usize>, Vec<f64>) = demand.into_iter().unzip();
        let rtts: Vec<Vec<f64>> = cities
            .iter()
            .map(|city| (0..self.replicas.len()).map(|replica| self.rtt(*city, replica)).collect())
            .collect();
        let capacities: Vec<f64> = self.capacities.iter().map(|rps| rps * 1000.0).collect();
        let best = best::divide(&demand, &rtts, &capacities);
        let mut furthest = BTreeMap::new();
        for (at, city) in cities.iter().enumerate() {
            let least = self.least(*city);
            let place = |place: usize| self.matrix.places[place].coordinates;
            let km = |replica: &usize| place(*city).distance_km(place(self.replicas[*replica]));
            let nearest = (0..self.replicas.len()).min_by(|a, b| km(a).total_cmp(&km(b))).unwrap_or(0);
            counts.nearest.push((rtts[at][nearest] - least, demand[at]));
            for (replica, share) in best.shares[at].iter().enumerate().filter(|(_, share)| **share > 1.0) {
                counts.best.push((rtts[at][replica] - least, *share));
                let known = furthest.entry(*city).or_insert(0.0f64);
                *known = known.max(rtts[at][replica]);
            }
        }
        furthest
    }
}

/// A factor about one, seldom ten: twelve uniform numbers add up to nearly a standard normal one.
fn log_normal(rng: &mut ChaCha8Rng) -> f64 {
    let sum: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5f64)).sum();
    sum.exp()
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
