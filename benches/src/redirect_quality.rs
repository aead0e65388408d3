//! Redirect quality: the round-trip time to the replica that a client is sent to, minus that to the
//! best one.
//!
//! Many random sets of replicas are drawn from the cities of a measured matrix; all other cities
//! are clients with a prefix of their own, which the GeoIP database knows (a share of them wrongly,
//! if asked). The real map decides; nothing of it is modelled. Policies:
//!
//! - *random*: any replica;
//! - *nearest*: by great-circle distance, what GeoIP alone does;
//! - *map, members*: the map with the round-trip times that the members measure between each other;
//! - *map, served n*: the same after n rounds, in each of which every client connects to the
//!   replica it is sent to and that replica observes the round-trip time.
//!
//! *Materially worse* is more than 10 % and more than 2 ms over the best (Calder et al., IMC 2015,
//! and others count alike).

use crate::matrix::{Matrix, Source};
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::SiteName;
use godwit_map::{Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use ipnet::{IpNet, Ipv4Net};
use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The measured matrix.
    #[arg(long, value_enum, default_value = "wonder2018")]
    matrix: Source,
    /// Replicas in each set; several sizes may be given.
    #[arg(long, value_delimiter = ',', default_value = "5,20")]
    replicas: Vec<usize>,
    /// Random sets of replicas.
    #[arg(long, default_value_t = 100)]
    sets: usize,
    /// Rounds of served connections.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Percentage of client prefixes that the GeoIP database has in another city.
    #[arg(long, default_value_t = 0.0)]
    wrong: f64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print only the JSON object.
    #[arg(long)]
    json: bool,
}

/// What came out.
#[derive(Serialize)]
struct Report {
    matrix: String,
    sets: usize,
    wrong_percent: f64,
    seed: u64,
    results: Vec<Row>,
    /// Mean time to compute a generation, ms, by number of replicas.
    compute_ms: BTreeMap<usize, f64>,
}

#[derive(Serialize)]
struct Row {
    replicas: usize,
    policy: String,
    clients: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    mean_ms: f64,
    materially_worse_percent: f64,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let matrix = Matrix::read(arguments.matrix)?;
    let mut report = Report {
        matrix: format!("{:?}", arguments.matrix).to_lowercase(),
        sets: arguments.sets,
        wrong_percent: arguments.wrong,
        seed: arguments.seed,
        results: Vec::new(),
        compute_ms: BTreeMap::new(),
    };
    for replicas in &arguments.replicas {
        anyhow::ensure!(
            (2..matrix.places.len()).contains(replicas),
            "between 2 and {}",
            matrix.places.len() - 1
        );
        let mut penalties = Penalties::default();
        let mut spent = Spent::default();
        for set in 0..arguments.sets {
            let mut rng =
                ChaCha8Rng::seed_from_u64(arguments.seed.wrapping_mul(1_000_003).wrapping_add(set as u64));
            World::draw(&matrix, *replicas, arguments.wrong, &mut rng)?.measure(
                arguments.rounds,
                &mut rng,
                &mut penalties,
                &mut spent,
            );
        }
        report.results.extend(penalties.rows(*replicas));
        report.compute_ms.insert(*replicas, spent.mean_ms());
    }
    if !arguments.json {
        print_table(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn print_table(report: &Report) {
    println!(
        "{} replica sets from {}, {} % of prefixes misplaced",
        report.sets, report.matrix, report.wrong_percent
    );
    println!("RTT to the chosen replica minus RTT to the best, ms\n");
    println!("replicas  policy            p50     p95     p99    mean  materially worse");
    for row in &report.results {
        println!(
            "{:>8}  {:<14} {:>6.1}  {:>6.1}  {:>6.1}  {:>6.1}  {:>14.1} %",
            row.replicas,
            row.policy,
            row.p50_ms,
            row.p95_ms,
            row.p99_ms,
            row.mean_ms,
            row.materially_worse_percent
        );
    }
    for (replicas, ms) in &report.compute_ms {
        println!("\na generation with {replicas} replicas took {ms:.1} ms to compute");
    }
    println!();
}

/// One set of replicas and its clients.
struct World<'a> {
    matrix: &'a Matrix,
    /// Places of the replicas.
    replicas: Vec<usize>,
    /// Places of the clients.
    clients: Vec<usize>,
    geo: GeoDb,
    inputs: Inputs,
    site: SiteName,
}

impl<'a> World<'a> {
    fn draw(matrix: &'a Matrix, count: usize, wrong: f64, rng: &mut ChaCha8Rng) -> anyhow::Result<World<'a>> {
        let replicas = index::sample(rng, matrix.places.len(), count).into_vec();
        // Only clients from which every replica was measured: otherwise the best is not known.
        let measured = |place: usize| replicas.iter().all(|replica| matrix.rtt(place, *replica).is_some());
        let clients: Vec<usize> =
            (0..matrix.places.len()).filter(|place| !replicas.contains(place) && measured(*place)).collect();
        let networks: Vec<(IpNet, Coordinates)> = clients
            .iter()
            .map(|client| {
                let misplaced = rng.random_bool(wrong / 100.0);
                let place = if misplaced { rng.random_range(0..matrix.places.len()) } else { *client };
                (prefix(*client), matrix.places[place].coordinates)
            })
            .collect();
        let site: SiteName = "www".parse()?;
        let members: anyhow::Result<Vec<MemberInput>> =
            replicas.iter().map(|place| member(matrix, &replicas, *place, &site)).collect();
        let inputs = Inputs {
            members: members?,
            sites: vec![SiteInput::published(site.clone(), VersionNumber(1))],
            ..Inputs::new("edge.example.org".parse()?)
        };
        Ok(World { matrix, replicas, clients, geo: GeoDb::from_networks(networks), inputs, site })
    }

    fn measure(mut self, rounds: usize, rng: &mut ChaCha8Rng, penalties: &mut Penalties, spent: &mut Spent) {
        for client in &self.clients {
            let any = self.replicas[rng.random_range(0..self.replicas.len())];
            penalties.add(0, "random", self.penalty(*client, any));
            let nearest =
                self.replicas.iter().min_by(|a, b| self.km(*client, **a).total_cmp(&self.km(*client, **b)));
            penalties.add(1, "nearest", self.penalty(*client, *nearest.unwrap_or(&any)));
        }
        let mut generation: Option<Generation> = None;
        for round in 0..=rounds {
            let started = Instant::now();
            let next = Generation::compute(&self.inputs, &self.geo, generation.as_ref());
            spent.add(started.elapsed());
            let policy = if round == 0 { "map, members".to_owned() } else { format!("map, served {round}") };
            for client in self.clients.clone() {
                let Some(chosen) = self.choice(&next, client) else { continue };
                penalties.add(2 + round, &policy, self.penalty(client, chosen));
                self.serve(client, chosen);
            }
            generation = Some(next);
        }
    }

    /// The place of the replica that the map names first.
    fn choice(&self, generation: &Generation, client: usize) -> Option<usize> {
        let answer = generation.answer(prefix(client).addr(), self.site.as_str())?;
        let (member, _) = answer.v4().next()?;
        self.replicas.iter().copied().find(|place| id(*place) == member.id)
    }

    /// The client connects to the replica, which observes the round-trip time.
    fn serve(&mut self, client: usize, replica: usize) {
        let (by, prefix) = (id(replica), prefix(client));
        let known = |(member, net, _): &(MemberId, IpNet, u32)| *member == by && *net == prefix;
        if !self.inputs.observations.iter().any(known) {
            let rtt = self.matrix.rtt(client, replica).unwrap_or(f64::MAX);
            self.inputs.observations.push((by, prefix, micros(rtt)));
        }
    }

    /// RTT to `replica`, and to the best, ms.
    fn penalty(&self, client: usize, replica: usize) -> Penalty {
        let rtt = |place: usize| self.matrix.rtt(client, place).unwrap_or(f64::MAX);
        let best = self.replicas.iter().map(|place| rtt(*place)).fold(f64::MAX, f64::min);
        Penalty { chosen: rtt(replica), best }
    }

    fn km(&self, a: usize, b: usize) -> f64 {
        self.matrix.places[a].coordinates.distance_km(self.matrix.places[b].coordinates)
    }
}

fn member(matrix: &Matrix, replicas: &[usize], place: usize, site: &SiteName) -> anyhow::Result<MemberInput> {
    let others = replicas.iter().filter(|other| **other != place);
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
        capacity: Default::default(),
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

fn prefix(client: usize) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + ((client as u32) << 8)), 24).into()
}

fn micros(ms: f64) -> u32 {
    (ms * 1000.0).round() as u32
}

#[derive(Clone, Copy)]
struct Penalty {
    chosen: f64,
    best: f64,
}

impl Penalty {
    fn is_material(self) -> bool {
        self.chosen > self.best * 1.1 && self.chosen > self.best + 2.0
    }
}

/// Penalties by policy, in the order of the table.
#[derive(Default)]
struct Penalties(BTreeMap<usize, (String, Vec<Penalty>)>);

impl Penalties {
    fn add(&mut self, order: usize, policy: &str, penalty: Penalty) {
        self.0.entry(order).or_insert_with(|| (policy.to_owned(), Vec::new())).1.push(penalty);
    }

    fn rows(self, replicas: usize) -> impl Iterator<Item = Row> {
        self.0.into_values().map(move |(policy, penalties)| {
            let mut ms: Vec<f64> = penalties.iter().map(|penalty| penalty.chosen - penalty.best).collect();
            ms.sort_by(f64::total_cmp);
            let quantile = |q: f64| ms[((ms.len() - 1) as f64 * q).round() as usize];
            let worse = penalties.iter().filter(|penalty| penalty.is_material()).count();
            Row {
                replicas,
                policy,
                clients: ms.len(),
                p50_ms: quantile(0.5),
                p95_ms: quantile(0.95),
                p99_ms: quantile(0.99),
                mean_ms: ms.iter().sum::<f64>() / ms.len() as f64,
                materially_worse_percent: 100.0 * worse as f64 / ms.len() as f64,
            }
        })
    }
}

#[derive(Default)]
struct Spent {
    total: Duration,
    count: u32,
}

impl Spent {
    fn add(&mut self, duration: Duration) {
        self.total += duration;
        self.count += 1;
    }

    fn mean_ms(&self) -> f64 {
        self.total.as_secs_f64() * 1000.0 / f64::from(self.count.max(1))
    }
}
