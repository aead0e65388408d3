//! Random kill -9 of nodes during publishes: every acknowledged file must be there, unharmed.
//!
//! One thread publishes small sites with `--wait 2`, one after the other, from nodes chosen at
//! random; this one kills a random node every few hundred milliseconds and starts it again. After
//! the last kill all nodes run, and every file of every site whose publish was acknowledged is
//! fetched from every node and compared.

use crate::bed::{Tool, Watcher};
use crate::tree;
use anyhow::{Context, Result, bail};
use clap::Args;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions.
    #[arg(long, default_value_t = 4)]
    regions: usize,
    /// How many kills.
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Files of each publish.
    #[arg(long, default_value_t = 40)]
    files: usize,
    /// Seed of the schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Kills while publishing, then checks.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let bed = tool.up(&["--regions", &options.regions.to_string(), "--seed", &options.seed.to_string()])?;
    let nodes = bed.hosts("node");
    let over = AtomicBool::new(false);
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let (bed, nodes, over, options) = (&bed, &nodes, &over, &options);
    let acknowledged = std::thread::scope(|scope| -> Result<Vec<String>> {
        let publisher = scope.spawn(move || publish_until(bed, nodes, over, options));
        for kill in 0..options.kills {
            std::thread::sleep(Duration::from_millis(rng.random_range(50..=600)));
            let victim = &nodes[rng.random_range(0..nodes.len())];
            bed.verb(&["kill", &victim.name])?;
            std::thread::sleep(Duration::from_millis(rng.random_range(50..=600)));
            bed.verb(&["start", &victim.name])?;
            if kill % 20 == 19 {
                println!("{} kills", kill + 1);
            }
        }
        over.store(true, Ordering::Relaxed);
        publisher.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?
    })?;
    println!(
        "{} kills, {} acknowledged publishes of {} files",
        options.kills,
        acknowledged.len(),
        options.files
    );
    if acknowledged.is_empty() {
        bail!("no publish was acknowledged: nothing was tested");
    }
    let mut wrong = 0;
    for site in &acknowledged {
        for node in nodes {
            if !holds_all(bed, node, site)? {
                wrong += 1;
                println!("{site} on {} is missing files or has wrong ones", node.name);
            }
        }
    }
    println!("checked {} sites on {} nodes: {wrong} wrong", acknowledged.len(), nodes.len());
    if wrong > 0 {
        bail!("acknowledged files are missing or wrong");
    }
    Ok(())
}

fn publish_until(
    bed: &crate::bed::Bed<'_>,
    nodes: &[crate::bed::Host],
    over: &AtomicBool,
    options: &Options,
) -> Result<Vec<String>> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ 0x9e37);
    let (mut acknowledged, mut number) = (Vec::new(), 0u64);
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let site = format!("soak-{number}");
        let content = bed.scratch().join(&site);
        tree::write(&content, options.files, options.files as u64 * 20_000, 0, number)?;
        let node = &nodes[rng.random_range(0..nodes.len())];
        let mut publish = bed.publish(node, &content, &site);
        publish.args(["--wait", "2", "--timeout", "10s"]);
        let child = publish.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut watcher = Watcher(child);
        let until = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = watcher.0.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                bail!("a publish hung for a minute");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if status.success() {
            acknowledged.push(site);
        } else {
            // Not acknowledged: nothing is promised about it.
            std::fs::remove_dir_all(&content)?;
        }
    }
    Ok(acknowledged)
}

fn holds_all(bed: &crate::bed::Bed<'_>, node: &crate::bed::Host, site: &str) -> Result<bool> {
    let host = format!("{site}.{}", bed.zone());
    let tree = bed.scratch().join(site);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let output = bed
            .figures_in(&node.name, &["verify-site", "--address", &node.addr4, "--host", &host, "--tree"])
            .arg(&tree)
            .output()
            .context("verify-site")?;
        if output.status.success() {
            return Ok(true);
        }
        if Instant::now() > until {
            println!("{}", String::from_utf8_lossy(&output.stdout));
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
