//! The taker's hands: programs get ready, and sockets are made.

use super::{AT_ONCE, Program, ROOM, Rebuilt, state};
use futures::StreamExt;
use godwit_core::flow::FlowKey;
use godwit_net::repair;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The programs of this node, and the room for what they make anew.
pub(super) struct Programs {
    by_number: BTreeMap<u8, Arc<dyn Program>>,
    /// In [`UNIT`]s.
    room: Semaphore,
}

/// Octets that room is given out by.
const UNIT: u32 = 64 << 10;

impl Programs {
    pub(super) fn new(programs: Vec<Arc<dyn Program>>) -> Programs {
        let by_number = programs.into_iter().map(|program| (program.number(), program)).collect();
        Programs { by_number, room: Semaphore::new((ROOM / UNIT) as usize) }
    }

    /// Waits until there is room for so many octets in flight.
    async fn room(&self, in_flight: u32) -> Result<SemaphorePermit<'_>, String> {
        let units = 1 + in_flight.min(ROOM - UNIT) / UNIT;
        self.room.acquire_many(units).await.map_err(|error| error.to_string())
    }
}

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
    let known = programs.by_number.get(&program);
    let program = known.ok_or_else(|| format!("there is no program {program} here"))?;
    let _room = programs.room(socket.in_flight).await?;
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
