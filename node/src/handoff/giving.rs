//! The giver's hands: programs stop, sockets freeze, and go on or vanish.

use super::{Connections, Rest, STOP_MAX, Stopped, state};
use futures::future::join_all;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::{Kept, STATE_LEN_MAX};
use godwit_net::repair::{FreezeError, Frozen};
use godwit_net::sockets::Sockets;
use std::sync::Arc;
use std::time::Instant;

/// A connection that stands still until it is known whose it is. Dropped, it vanishes without a packet.
pub(super) struct Standing {
    socket: Frozen,
    rest: Box<dyn Rest>,
}

/// What freezing came to, for each flow.
pub(super) type FrozenFlows = Vec<(FlowKey, Result<(Vec<u8>, Standing), Kept>)>;

/// Stops and freezes these connections; those that stay run on.
pub(super) async fn freeze(connections: Arc<Connections>, flows: Vec<FlowKey>) -> FrozenFlows {
    let stopped = join_all(flows.into_iter().map(|flow| {
        let asked = connections.stop(&flow);
        async move { (flow, stop(asked).await) }
    }));
    let begun = Instant::now();
    let stopped = stopped.await;
    let stopping = begun.elapsed();
    let handle = tokio::runtime::Handle::current();
    let work = move || {
        // Programs that go on do so in the runtime.
        let _in_runtime = handle.enter();
        freeze_all(stopped)
    };
    // A panic in it was told; its connections are gone with it.
    let frozen = tokio::task::spawn_blocking(work).await.unwrap_or_default();
    let freezing = begun.elapsed() - stopping;
    tracing::debug!(flows = frozen.len(), ?stopping, ?freezing, "connections stand still");
    frozen
}

type Asked = tokio::sync::oneshot::Receiver<Result<Stopped, Kept>>;

async fn stop(asked: Option<Asked>) -> Result<Stopped, Kept> {
    // An answer that comes too late finds nobody, and the program goes on.
    match tokio::time::timeout(STOP_MAX, asked.ok_or(Kept::Unmovable)?).await {
        Ok(Ok(stopped)) => stopped,
        _ => Err(Kept::Unmovable),
    }
}

fn freeze_all(stopped: Vec<(FlowKey, Result<Stopped, Kept>)>) -> FrozenFlows {
    let mut sockets = Sockets::open();
    let freeze = |(flow, stopped): (FlowKey, Result<Stopped, Kept>)| {
        let frozen = stopped.and_then(|stopped| match &mut sockets {
            Ok(sockets) => freeze_one(sockets, flow, stopped),
            Err(error) => {
                tracing::warn!(%error, "sockets cannot be looked up");
                stopped.rest.resume(stopped.stream);
                Err(Kept::Unmovable)
            }
        });
        (flow, frozen)
    };
    stopped.into_iter().map(freeze).collect()
}

fn freeze_one(
    sockets: &mut Sockets,
    flow: FlowKey,
    Stopped { stream, rest }: Stopped,
) -> Result<(Vec<u8>, Standing), Kept> {
    let socket = match Frozen::freeze(sockets, stream) {
        Ok(socket) => socket,
        Err((stream, error)) => {
            tracing::debug!(%flow, %error, "a connection stays");
            rest.resume(stream);
            return Err(match error {
                FreezeError::Unread(_) | FreezeError::InFlight(_) => Kept::TooLarge,
                _ => Kept::Unmovable,
            });
        }
    };
    let packed = rest.pack(&socket).and_then(|packed| {
        let state = state::encode(rest.program(), socket.state(), &packed);
        if state.len() > STATE_LEN_MAX { Err(Kept::TooLarge) } else { Ok(state) }
    });
    let standing = Standing { socket, rest };
    match packed {
        Ok(state) => Ok((state, standing)),
        Err(why) => {
            standing.resume(&flow);
            Err(why)
        }
    }
}

impl Standing {
    /// It goes on here.
    pub(super) fn resume(self, flow: &FlowKey) {
        match self.socket.resume() {
            Ok(stream) => self.rest.resume(stream),
            Err(error) => tracing::warn!(%flow, %error, "a connection could not go on and is lost"),
        }
    }
}
