//! Measurements against the peers and across regions.
//!
//! Each is a subcommand that prints a table for people and one JSON object for machines. They need
//! the measured data sets in `GODWIT_SHARED` (default: `../shared` beside the repository).

mod matrix;
mod overload;
mod redirect_quality;

use clap::{Parser, Subcommand};

/// Measurements of godwit.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// How much further than the best replica clients are sent, by policy.
    RedirectQuality(redirect_quality::Arguments),
    /// Whether anybody gets more than it can take at a load near capacity, and what that costs.
    Overload(overload::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::RedirectQuality(arguments) => redirect_quality::run(&arguments),
        What::Overload(arguments) => overload::run(&arguments),
    }
}
