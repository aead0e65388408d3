//! The taker's hands: programs get ready, and sockets are made.

use super::{AT_ONCE, Program, Rebuilt, state};
use futures::StreamExt;
use godwit_core::flow::FlowKey;
use godwit_net::repair;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The programs of this node, by their numbers.
pub(super) type Programs = BTreeMap<u8, Arc<dyn Program>>;

/// Makes these connections; answers those that run here now.
pub(super) async fn restore(programs: Arc<Programs>, states: Vec<(FlowKey, Vec<u8>)>) -> Vec<FlowKey> {
    let made = states.into_iter().map(|(flow, state)| {
        let programs = programs.clone();
        async move {
            match restore_one(&programs, flow, &state).await {
                Ok(()) => Some(flow),
                Err(why) => {
                    tracing::debug!(%flow, why, "a connection is not taken over");
                    None
                }
            }
        }
    });
    futures::stream::iter(made).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn restore_one(programs: &Programs, flow: FlowKey, state: &[u8]) -> Result<(), String> {
    let (program, socket, packed) = state::decode(state).map_err(|error| error.to_string())?;
    let program = programs.get(&program).ok_or_else(|| format!("there is no program {program} here"))?;
    let begun = Instant::now();
    let rebuilt = program.rebuild(flow, socket.in_flight, packed).await;
    let Rebuilt { in_flight, go_on } = rebuilt.map_err(|refused| refused.to_string())?;
    let (handle, socket_len) = (tokio::runtime::Handle::current(), socket.in_flight);
    let make = move || {
        let _in_runtime = handle.enter();
        repair::restore(flow.home, flow.correspondent, &socket, &in_flight).map(go_on)
    };
    let (rebuilt, in_flight) = (begun.elapsed(), socket_len);
    let made = tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())?;
    tracing::debug!(%flow, in_flight, ?rebuilt, made = ?begun.elapsed() - rebuilt, "a connection is made");
    made.map_err(|error| error.to_string())
}
