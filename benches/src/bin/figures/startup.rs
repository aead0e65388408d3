//! Seconds until a network of regions is up and answering.

use crate::bed::Tool;
use crate::summary;
use anyhow::Result;
use clap::Args;

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions.
    #[arg(long, default_value_t = 6)]
    regions: usize,
    /// How many times.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// `testbed up` returns when every member answers and every redirector knows all nodes.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..options.rounds {
        let bed = tool.up(&["--regions", &options.regions.to_string()])?;
        seconds.push(bed.seconds_to_up);
    }
    println!("{}", summary::line(&format!("{} regions up and answering", options.regions), "s", &seconds));
    Ok(())
}
