//! The launcher: the process that a testbed is.
//!
//! It owns everything: namespaces exist because it holds their descriptors, interfaces because it
//! holds their ports, members because they are its children and are killed with it. So when it
//! ends, in whatever way, the kernel takes all of it away; the [`janitor`] removes the directory.
//!
//! One thread, the main one, starts and ends processes and works through orders; the kernel ties
//! "killed with the parent" to the thread that started a child, so that thread must be the last
//! to go. Threads beside it: the fabric, one that waits for signals, and one for each control
//! connection.

mod hosts;
pub(crate) mod janitor;
mod listener;
pub(crate) mod member;
mod ready;
mod roam;
mod routes;
mod supervisor;

use crate::options::UpOptions;
use crate::state::RunDir;
use crate::topology::Topology;
use anyhow::Context;
use godwit_net::process::EndSignals;
use std::path::Path;

/// What the launcher is told by `up`, through `options.json`.
pub(crate) fn read_options(dir: &RunDir) -> anyhow::Result<UpOptions> {
    let text =
        std::fs::read(dir.file("options.json")).context("this directory was not prepared by `testbed up`")?;
    serde_json::from_slice(&text).context("options.json is damaged")
}

/// Holds the testbed until it is told to end. The process must have a single thread.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let dir = RunDir::new(Some(dir))?;
    let options = read_options(&dir)?;
    let lock = dir.lock()?.context("another launcher runs in this directory")?;
    // Before any thread: signals are for the one that waits for them.
    let signals = EndSignals::take_over().context("cannot take over signals")?;
    // Before the user namespace: the janitor outlives it.
    let janitor = janitor::spawn(&dir)?;
    let topology = Topology::build(&options)?;
    let mode = hosts::prepare_process(options.ports)?;
    let mut supervisor = supervisor::Supervisor::new(dir, options, topology, mode)?;
    listener::start(&supervisor.handle(), signals)?;
    let result = supervisor.run();
    drop(supervisor);
    drop(lock);
    // Its standard input ends here, and it goes to work.
    drop(janitor);
    result
}
