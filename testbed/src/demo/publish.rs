//! Publishing, as a person does it: with `godwit publish`, from a directory.

use super::client::{Clients, Seen, finish_visits, godwit};
use super::site;
use crate::probe::Visits;
use crate::state::State;
use crate::topology::Role;
use anyhow::{Context, bail};
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// Clients fetch for so long: the publish takes a part of it, and what comes after must be seen.
const VISIT_SECONDS: f64 = 6.0;

/// A finished publish.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Published {
    /// How much was published, MB.
    pub(crate) megabytes: f64,
    /// Until every node had it on disk, seconds.
    pub(crate) seconds: f64,
}

/// A publish under the eyes of clients.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Watched {
    /// The publish itself.
    pub(crate) publish: Published,
    /// What each region's client saw.
    pub(crate) clients: Vec<Seen<Visits>>,
}

pub(super) fn publish(state: &State, name: &str, version: u64) -> anyhow::Result<Published> {
    // It goes with the testbed's directory, however the demo ends.
    let files = state.dir.join("demo");
    let bytes = site::write(&files, version)?;
    let seconds = publish_files(state, name, &files)?;
    Ok(Published { megabytes: bytes as f64 / 1e6, seconds })
}

/// Publishes a directory until every node has it on disk; answers how many seconds that took.
pub(super) fn publish_files(state: &State, name: &str, files: &Path) -> anyhow::Result<f64> {
    let node = state.hosts.iter().find(|host| host.role == Role::Node).context("there is no node")?;
    let data_dir = node.data_dir.as_ref().context("the node has no data directory")?;
    let mut command = godwit(&["publish", "--to", name, "--wait", "all", "--timeout", "30s", "--json"])?;
    command.arg("--authority").arg(&state.authority).arg("--data-dir").arg(data_dir).arg(files);
    let started = Instant::now();
    let output = command.output().context("cannot run godwit publish")?;
    if !output.status.success() {
        bail!("publish failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(started.elapsed().as_secs_f64())
}

pub(super) fn while_clients_fetch(
    state: &State,
    clients: &Clients<'_>,
    name: &str,
) -> anyhow::Result<Watched> {
    let running = clients.visit_all(VISIT_SECONDS)?;
    // Every client is to have seen version 1.
    std::thread::sleep(std::time::Duration::from_millis(1000));
    let publish = publish(state, name, 2)?;
    Ok(Watched { publish, clients: finish_visits(running)? })
}
