//! Load against capacity: whether anybody gets more than it can take, and what it costs clients.
//!
//! Random sets of replicas are drawn from the cities of a measured matrix; the other cities are
//! clients, with as many networks as they ask for much ([`cities`]), of very different sizes. Together
//! they ask for a given share of all capacity. In rounds of ten seconds, every client connects to the
//! replica it is sent to, which observes its round-trip time and tells what it was asked for; then
//! the real map decides anew. Demand wavers by a few per cent from round to round and round-trip
//! times by up to a tenth, so that flapping shows.
//!
//! What members can take has nothing to do with where clients are (`--sized random`: many cannot be
//! served by the best, whoever chooses), or all with it (`--sized demand`: an operator who buys where the
//! demand is; all could be served by the best). What cities ask for is drawn, or (`--asked people`) follows
//! from who lives there.
//!
//! Per replica count: the most that anybody gets of its capacity, with the capacities known to the map
//! and unknown to it; per client, weighted by what it asks for: the round-trip time to the replica it is
//! sent to minus that to the best of all, and the share of clients for whom that is material (10 % and
//! 2 ms; *worse*); and how far that is from what is possible ([`best`]): the penalties of the best division
//! that capacity allows; what each goes further than anybody of its place does in it (*beyond*), and for how
//! many that is material (*worse than allowed*). For comparison, who goes to the nearest on Earth, whatever
//! it can take, and who goes to the nearest on Earth that has room left.
//!
//! In the first half of the rounds the map learns: nothing was measured before, and demand is known as it
//! is served. Changes of replica are told apart for this half and the other one; those of explorers count,
//! there and back. The *course* is what penalties came to in each sixth of all rounds.

mod best;
mod cities;
mod compare;
mod counts;
mod draw;
mod print;
mod world;

use crate::matrix::{Matrix, Source};
use clap::ValueEnum;
use counts::Counts;
use draw::Scene;
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
    /// Whether the map is told what members can take.
    #[arg(long, value_delimiter = ',', default_value = "false,true")]
    known: Vec<bool>,
    /// Random sets of replicas.
    #[arg(long, default_value_t = 20)]
    sets: usize,
    /// The number of the first set: to look at one of many.
    #[arg(long, default_value_t = 0)]
    first_set: usize,
    /// Rounds, of 10 s; the last half counts.
    #[arg(long, default_value_t = 36)]
    rounds: usize,
    /// Networks of an average city: those that ask for more have more.
    #[arg(long, default_value_t = 40)]
    networks: usize,
    /// How much of all capacity each replica has.
    #[arg(long, value_enum, default_value = "random")]
    sized: Sized,
    /// What cities ask for.
    #[arg(long, value_enum, default_value = "uneven")]
    asked: Asked,
    /// How many of a thousand networks explore in an epoch; none, unless it is said.
    #[arg(long, default_value_t = 0)]
    explore: u16,
    /// Rounds of an epoch of exploring. A network connects once in each round: with fewer rounds than the
    /// sixty of ten minutes it has been measured on fewer connections when others explore.
    #[arg(long, default_value_t = 60)]
    epoch: usize,
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

/// How much of all capacity each replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Sized {
    /// Half to twice of what is usual, wherever clients are.
    Random,
    /// As clients ask for a part of everything whom it serves best.
    Demand,
}

/// What cities ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    /// Anything: log-normal.
    Uneven,
    /// As much as people live near.
    People,
}

#[derive(Serialize)]
struct Report {
    matrix: String,
    sets: usize,
    seed: u64,
    rounds: usize,
    networks: usize,
    sized: Sized,
    asked: Asked,
    explore_permille: u16,
    epoch_rounds: usize,
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
    /// Rounds after which nobody was beyond its capacity again, in the worst set.
    overloaded_until: usize,
    /// The most that any replica gets of its capacity where all go to the nearest on Earth.
    nearest_utilised: f64,
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
    worse_than_allowed_percent: f64,
    nearest_worse_than_allowed_percent: f64,
    overflow_worse_than_allowed_percent: f64,
    /// Clients who go materially further than to the best replica of all, per cent, in the same order.
    worse_percent: f64,
    nearest_worse_percent: f64,
    overflow_worse_percent: f64,
    /// The map's p95 and worse per cent in each sixth of the rounds.
    course: Vec<(f64, f64)>,
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
    let scene = Scene::read(&matrix, arguments)?;
    let mut results = Vec::new();
    for replicas in &arguments.replicas {
        anyhow::ensure!((2..matrix.places.len()).contains(replicas), "too few or too many replicas");
        for load in &arguments.loads {
            for known in &arguments.known {
                results.push(measure(&scene, *replicas, *load, *known)?);
            }
        }
    }
    let matrix = format!("{:?}", arguments.matrix).to_lowercase();
    let Arguments { sets, seed, rounds, networks, sized, asked, measured, .. } = *arguments;
    let (explore_permille, epoch_rounds) = (arguments.explore, arguments.epoch);
    let report = Report {
        matrix,
        sets,
        seed,
        rounds,
        networks,
        sized,
        asked,
        explore_permille,
        epoch_rounds,
        measured,
        results,
    };
    if !arguments.json {
        print::table(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn measure(scene: &Scene<'_>, replicas: usize, load: f64, known: bool) -> anyhow::Result<Row> {
    let arguments = scene.arguments;
    let mut counts = Counts::default();
    for set in arguments.first_set..arguments.first_set + arguments.sets {
        let seed = arguments.seed.wrapping_mul(1_000_003).wrapping_add(set as u64);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::draw(scene, replicas, (load, known), &mut rng)?;
        if arguments.measured {
            world.measure_all(&mut rng);
        }
        world.run(&mut rng, &mut counts);
    }
    Ok(counts.row(replicas, load, known))
}
