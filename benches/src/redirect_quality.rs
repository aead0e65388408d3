//! Redirect quality: the round-trip time to the replica that a client is sent to, minus that to the
//! best one.
//!
//! Many random sets of replicas are drawn from the cities of a measured matrix. All other cities
//! are places of clients, with as many networks (/20) as people live near, and a last mile of 0 to
//! 8 ms each. A GeoIP database knows the networks; some places wrongly, if asked. The real map
//! decides, with the real exploration; nothing of it is modelled. Policies:
//!
//! - *random*: any replica;
//! - *nearest*: by great-circle distance from where the database has the client, what GeoIP alone does;
//! - *map, epoch n*: the map after n epochs of ten minutes, in each of which every network connects
//!   to the replica it is sent to, and that replica measures and tells the round-trip time. Epoch 0
//!   is cold: only the members have measured each other.
//!
//! *Materially worse* is more than 10 % and more than 2 ms over the best (Calder et al., IMC 2015,
//! and others count alike). Every answer counts, those of exploring clients too. Columns come twice:
//! clients weighted by population, and all cities alike.
//!
//! With `--varying`, each round-trip time goes up and down as that of a real pair of end hosts did
//! over three hours (Zhu et al., ToN 2017; very noisy: the p95 of a pair is 3.5 times its median);
//! what counts then is the median, and how often clients are sent elsewhere.
//!
//! With `--liars n`, n of the replicas say of every network that it is 1 ms away, and of every
//! member too.

mod blame;
mod hindsight;
mod penalty;
mod variation;
mod world;

use crate::matrix::{Matrix, Source};
use penalty::{Penalties, Row};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use variation::Kind;
use world::{Tally, World};

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
    #[arg(long, default_value_t = 30)]
    sets: usize,
    /// Epochs, ten minutes each.
    #[arg(long, default_value_t = 18)]
    epochs: usize,
    /// How many of a thousand networks explore in an epoch.
    #[arg(long, default_value_t = 20)]
    explore: u16,
    /// Percentage of places that the GeoIP database has in another city.
    #[arg(long, default_value_t = 0.0)]
    wrong: f64,
    /// Replicas that claim to be next to everybody.
    #[arg(long, default_value_t = 0)]
    liars: usize,
    /// How round-trip times vary.
    #[arg(long, value_enum, default_value = "steady", default_missing_value = "hosts", num_args = 0..=1)]
    varying: Kind,
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
    explore_permille: u16,
    wrong_percent: f64,
    liars: usize,
    varying: Kind,
    seed: u64,
    results: Vec<Row>,
    /// By number of replicas.
    tallies: BTreeMap<usize, Tally>,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let matrix = Matrix::read(arguments.matrix)?;
    let mut report = Report {
        matrix: format!("{:?}", arguments.matrix).to_lowercase(),
        sets: arguments.sets,
        explore_permille: arguments.explore,
        wrong_percent: arguments.wrong,
        liars: arguments.liars,
        varying: arguments.varying,
        seed: arguments.seed,
        results: Vec::new(),
        tallies: BTreeMap::new(),
    };
    let scene = world::Scene::read(&matrix, arguments)?;
    for replicas in &arguments.replicas {
        let most = matrix.places.len() - 1;
        anyhow::ensure!((2..=most).contains(replicas), "between 2 and {most}");
        let mut penalties = Penalties::default();
        let mut tally = Tally::default();
        for set in 0..arguments.sets {
            let mut rng =
                ChaCha8Rng::seed_from_u64(arguments.seed.wrapping_mul(1_000_003).wrapping_add(set as u64));
            World::draw(&scene, *replicas, &mut rng)?.measure(&mut rng, &mut penalties, &mut tally);
        }
        report.results.extend(penalties.rows(*replicas));
        report.tallies.insert(*replicas, tally.done(arguments.epochs));
    }
    if !arguments.json {
        print_table(&report);
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn print_table(report: &Report) {
    println!(
        "{} replica sets from {}, {} % of places misplaced, {} ‰ explore, {} liars, times: {}",
        report.sets,
        report.matrix,
        report.wrong_percent,
        report.explore_permille,
        report.liars,
        format!("{:?}", report.varying).to_lowercase(),
    );
    println!("RTT to the chosen replica minus RTT to the best, ms; materially worse, %\n");
    println!("                          by population              all cities alike");
    println!("replicas  policy            p50    p95   mean  worse    p50    p95   mean  worse");
    for Row { replicas, policy, by_population: p, alike: a } in &report.results {
        print!("{replicas:>8}  {policy:<14}");
        for f in [p, a] {
            print!(" {:>6.1} {:>6.1} {:>6.1} {:>6.1}", f.p50_ms, f.p95_ms, f.mean_ms, f.worse_percent);
        }
        println!();
    }
    for (replicas, tally) in &report.tallies {
        println!("\n{replicas} replicas: {tally}");
    }
    println!();
}
