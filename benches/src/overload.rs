//! Load against capacity: whether anybody gets more than it can take, and what it costs clients.
//!
//! Random sets of replicas are drawn from the cities of a measured matrix; the other cities are
//! clients, with as many networks as they ask for much ([`cities`]), of very different sizes. Together
//! they ask for a given share of all capacity. In rounds, every client connects to the replica it is sent to, which observes its round-trip time and tells what it was asked for; then
//! the real map decides anew. Demand wavers by a few per cent from round to round and round-trip
//! times by up to a tenth, so that flapping shows.
//!
//! Per replica count: the most that anybody gets of its capacity, with the capacities known to the map
//! and unknown to it; per client, weighted by what it asks for: the round-trip time to the replica it is
//! sent to minus that to the best of all; and how far that is from what is possible ([`best`]): the same
//! of the best division that capacity allows; what each goes further than anybody of its place does in it
//! (*beyond*), and the share of clients for whom that is material (10 % and 2 ms). For comparison, who goes
//! to the nearest on Earth, and who goes to the nearest on Earth that has room left.
//!
//! In the first half of the rounds the map learns: nothing was measured before, and demand is known as it
//! is served. Changes of replica are told apart for this half and the other one.

mod best;
mod cities;
mod counts;
mod world;

use crate::matrix::{Matrix, Source};
use counts::Counts;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use world::World;

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
    /// Networks of an average city: those that ask for more have more.
    #[arg(long, default_value_t = 40)]
    networks: usize,
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
    networks: usize,
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
    /// The same for the best division that leaves a twentieth of all capacity free.
    spared_p95_ms: f64,
    spared_mean_ms: f64,
    /// The same for who goes to the nearest replica on Earth, whatever it can take.
    nearest_p95_ms: f64,
    /// The same for who goes to the nearest on Earth that has room.
    overflow_p95_ms: f64,
    overflow_mean_ms: f64,
    /// How much further than any of their place go in the best division: the map's clients…
    beyond_p95_ms: f64,
    /// …those who go to the nearest…
    nearest_beyond_p95_ms: f64,
    /// …and those who go to the nearest that has room.
    overflow_beyond_p95_ms: f64,
    /// Clients for whom that is material, per cent, in the same order.
    worse_percent: f64,
    nearest_worse_percent: f64,
    overflow_worse_percent: f64,
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
    let Arguments { sets, seed, networks, measured, .. } = *arguments;
    let report = Report { matrix, sets, seed, networks, measured, results };
    if !arguments.json {
        print_table(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn print_table(report: &Report) {
    println!("{} replica sets from {}; RTT over that to the best replica, ms\n", report.sets, report.matrix);
    println!(
        "replicas  load  capacities  most used   over    p50   p95 /mean  best: p95 /mean  5 % free      geo    geo, room  beyond best (map, geo, room)  worse (same)                /h learning compute"
    );
    for row in &report.results {
        print!(
            "{:>8}  {:>4.2}  {:<10}  {:>7.1} %  {:>4.1} % {:>5.1} {:>5.1} /{:>5.1}    {:>5.1} /{:>5.1}  {:>5.1} /{:>5.1}  {:>5.1}  {:>5.1} /{:>5.1}",
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
            row.spared_p95_ms,
            row.spared_mean_ms,
            row.nearest_p95_ms,
            row.overflow_p95_ms,
            row.overflow_mean_ms,
        );
        println!(
            "  {:>6.1}, {:>5.1}, {:>5.1}       {:>5.1}, {:>5.1}, {:>5.1} %  {:>5.2}  {:>5.2}  {:>5.1} ms",
            row.beyond_p95_ms,
            row.nearest_beyond_p95_ms,
            row.overflow_beyond_p95_ms,
            row.worse_percent,
            row.nearest_worse_percent,
            row.overflow_worse_percent,
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
        let mut world = World::draw(matrix, replicas, (load, known), arguments.networks, &mut rng)?;
        if arguments.measured {
            world.measure_all(&mut rng);
        }
        world.run(arguments.rounds, &mut rng, &mut counts);
    }
    Ok(counts.row(replicas, load, known))
}
