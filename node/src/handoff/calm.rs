//! The moment at which a connection is stopped.
//!
//! What came behind a hole does not move, though its sender was told that it is there: it finds out by a
//! timeout (RFC 2018, 8), which is several round trips. And what this end knows of its own losses is
//! forgotten. Losses are mended within a round trip or two, so a hand-off waits for that.

use godwit_core::flow::FlowKey;
use godwit_net::sockets::Sockets;
use std::io;
use std::time::{Duration, Instant};

/// A hand-off waits so long at most, while its connections go on as before. A path that loses more often than
/// this is never calm.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The kernel is asked so often.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits until nothing is missing of these connections.
pub(super) async fn wait(flows: Vec<FlowKey>) -> Vec<FlowKey> {
    let waits = flows.clone();
    let waited = tokio::task::spawn_blocking(move || wait_blocking(waits)).await;
    if let Ok(Err(error)) = waited {
        tracing::debug!(%error, "the kernel does not tell whether connections lack something");
    }
    flows
}

fn wait_blocking(mut flows: Vec<FlowKey>) -> io::Result<()> {
    let (mut sockets, until) = (Sockets::open()?, Instant::now() + WAIT_MAX);
    loop {
        let mut lacking = Vec::new();
        for flow in flows {
            if sockets.lacks(flow.correspondent, flow.home)? {
                lacking.push(flow);
            }
        }
        if lacking.is_empty() || Instant::now() >= until {
            tracing::debug!(lacking = lacking.len(), "connections are stopped");
            return Ok(());
        }
        flows = lacking;
        std::thread::sleep(PAUSE);
    }
}
