//! A home agent from end to end: clients, nodes and routers in network namespaces, with the kernel's own
//! TCP and UDP, the real tunnel at both ends, and nodes made of the machines that real ones are made of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod attacks;
mod carries;
mod choosing;
mod lives;
mod net;
mod node;
#[path = "../../../net/tests/it/own_network.rs"]
mod own_network;
mod world;

use own_network::in_own_network;
use std::time::{Duration, Instant};

/// How long something may take on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `holds`; tells how long that took.
#[track_caller]
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}
