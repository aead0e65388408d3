//! The rate of a publish to several replicas over long links, and of a second publish that
//! changes one file.

use crate::bed::{Tool, json};
use crate::{cpu, tree};
use anyhow::{Context, Result};
use clap::Args;

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions, one node in each; every node is a replica.
    #[arg(long, default_value_t = 3)]
    regions: usize,
    /// How many files.
    #[arg(long, default_value_t = 10_000)]
    files: usize,
    /// How many bytes in all, millions.
    #[arg(long, default_value_t = 500)]
    megabytes: u64,
    /// Round-trip time between any two regions, milliseconds.
    #[arg(long, default_value_t = 50)]
    rtt_ms: u64,
    /// Rate of each link, Mbit/s.
    #[arg(long, default_value_t = 1000)]
    rate_mbit: u64,
    /// Loss of each link, percent.
    #[arg(long, default_value_t = 0.0)]
    loss_percent: f64,
}

/// Publishes twice and prints bytes, seconds and the share of the link's rate.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let text = |value: u64| value.to_string();
    let bed = tool.up(&[
        "--regions",
        &text(options.regions as u64),
        "--rtt",
        &text(options.rtt_ms),
        "--rate",
        &text(options.rate_mbit),
        "--loss",
        &options.loss_percent.to_string(),
    ])?;
    let node = bed.hosts("node").into_iter().next().context("no node")?;
    let content = bed.scratch().join("figures-tree");
    let bytes = options.megabytes * 1_000_000;
    tree::write(&content, options.files, bytes, 100, 1)?;
    let since = cpu::Since::now(&bed)?;
    let first = json(bed.publish(&node, &content, "big").args(["--wait", "all"]))?;
    let seconds = first["seconds"].as_f64().context("no seconds in the report")?;
    let rate = bytes as f64 * 8.0 / seconds / 1e6;
    println!("first publish: {first}");
    println!(
        "{} files, {} MB to {} replicas: {seconds:.2} s, {rate:.0} Mbit/s per replica, {:.2} of the link's rate",
        options.files,
        options.megabytes,
        options.regions,
        rate / options.rate_mbit as f64
    );
    since.print()?;
    println!("fabric: {}", bed.fabric()?);
    std::fs::write(content.join("d0000").join("f00001.bin"), b"changed")?;
    let second = json(bed.publish(&node, &content, "big").args(["--wait", "all"]))?;
    println!("second publish, one file changed: {second}");
    Ok(())
}
