//! The figures that godwit promises, measured on its own testbed: real processes, real sockets,
//! delays between regions.
//!
//! ```text
//! cargo build --release && cargo run --release -p godwit-benches --bin figures -- failover
//! ```
//!
//! Each subcommand brings its own testbed up in a directory of its own and takes it down again.
//! What needs a process inside a host's network runs this same program there, through
//! `godwit testbed exec HOST -- figures …`, so that no other tool is needed.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

mod bed;
mod cpu;
mod dns;
mod failover;
mod http;
mod join;
mod moves;
mod publish;
mod quality;
mod soak;
mod startup;
mod summary;
mod tree;

/// Measures godwit's promised figures on the local testbed.
#[derive(Parser)]
#[command(name = "figures")]
struct Arguments {
    /// The godwit binary to measure; by default the one beside this program.
    #[arg(long, global = true)]
    godwit: Option<PathBuf>,
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Subcommand)]
enum Figure {
    /// Seconds until six regions are up and answering.
    Startup(startup::Options),
    /// Seconds from `join` to the first request served by the new member.
    Join(join::Options),
    /// Seconds from kill -9 of a node until no answer names it, and how long clients fail.
    Failover(failover::Options),
    /// Rate of a publish to several replicas over long links, and of a second, small one.
    Publish(publish::Options),
    /// Random kill -9 of nodes during publishes: is every acknowledged file there?
    Soak(soak::Options),
    /// RTT to the node that the names lead to, less RTT to the best, from every client host.
    Quality(quality::Options),
    /// Downloads, uploads, echoes, datagrams and idle connections while what serves them moves on.
    Moves(moves::Options),
    /// Runs inside a host: downloads the large file of a site that moves.
    #[command(hide = true)]
    Download(moves::ClientOptions),
    /// Runs inside a host: uploads to a program that moves.
    #[command(hide = true)]
    Upload(moves::ClientOptions),
    /// Runs inside a host: asks a site that moves again and again on one connection.
    #[command(hide = true)]
    Echo(moves::ClientOptions),
    /// Runs inside a host: opens connections that idle while they move.
    #[command(hide = true)]
    Idle(moves::ClientOptions),
    /// Runs inside a host: sends a thousand datagrams a second to a program that moves.
    #[command(hide = true)]
    Stream(moves::StreamOptions),
    /// Runs inside a host: the program that returns them.
    #[command(hide = true)]
    ReturnDatagrams,
    /// Runs inside a host: a node with a program in it that takes uploads.
    #[command(hide = true)]
    Member(moves::MemberOptions),
    /// Runs inside a host: asks for a name again and again and prints what came.
    #[command(hide = true)]
    WatchName(dns::WatchOptions),
    /// Runs inside a host: fetches a URL again and again and prints what came.
    #[command(hide = true)]
    WatchSite(http::WatchOptions),
    /// Runs inside a host: checks every file of a published directory.
    #[command(hide = true)]
    VerifySite(http::VerifyOptions),
    /// Runs inside a host: fetches one file from a node named by its address.
    #[command(hide = true)]
    FetchFrom(http::FetchOptions),
    /// Runs inside a host: asks until a node answers.
    #[command(hide = true)]
    FirstAnswer(join::FirstOptions),
    /// Runs inside a client host: where does the name lead, and how far are all nodes?
    #[command(hide = true)]
    ProbeNodes(quality::ProbeOptions),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // What runs inside a host needs no other program.
    let tool = || bed::Tool::find(arguments.godwit);
    match arguments.figure {
        Figure::Startup(options) => startup::run(&tool()?, options),
        Figure::Join(options) => join::run(&tool()?, options),
        Figure::Failover(options) => failover::run(&tool()?, options),
        Figure::Publish(options) => publish::run(&tool()?, options),
        Figure::Soak(options) => soak::run(&tool()?, options),
        Figure::Quality(options) => quality::run(&tool()?, options),
        Figure::Moves(options) => moves::run(&tool()?, options),
        Figure::Download(options) => moves::download(&options),
        Figure::Upload(options) => moves::upload(&options),
        Figure::Echo(options) => moves::echo(&options),
        Figure::Idle(options) => moves::idle(&options),
        Figure::Stream(options) => moves::stream(&options),
        Figure::ReturnDatagrams => moves::return_datagrams(),
        Figure::Member(options) => moves::run_member(options),
        Figure::WatchName(options) => dns::watch(options),
        Figure::WatchSite(options) => http::watch(options),
        Figure::VerifySite(options) => http::verify(options),
        Figure::FetchFrom(options) => http::fetch_from(options),
        Figure::FirstAnswer(options) => join::first_answer(options),
        Figure::ProbeNodes(options) => quality::probe(options),
    }
}
