//! `move`: what is served here goes to another node, as far as it can. First that node is asked whether it is
//! bound to the name; where it is not, or does not say so, nothing happens.
//!
//! 1. UDP flows that are active are bound to the other node, at all home agents. Until each of them has
//!    heard, packets still come here and are answered here.
//! 2. TCP connections are bound to this node, so that the next step does not lead them away: until it was said
//!    where they are, packets of them would come by way of another node, and who was passed a packet on to does
//!    not pass it on again.
//! 3. The name is drained here: new flows go where the map leads them.
//! 4. TCP connections of programs that let them move, as this node's own HTTP server does, are handed over
//!    ([`crate::handoff`]).
//!    The others go on here, without a detour, until they end or the deadline has come.

use super::{Mobility, Order, Prepared};
use crate::clock;
use crate::handoff::Report;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Home agents answer within this, or are not waited for.
const BOUND_MAX: Duration = Duration::from_secs(4);

/// What became of a name that was to move.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// TCP connections that are the other node's now.
    pub connections: usize,
    /// TCP connections that go on here until they end.
    pub drained: usize,
    /// TCP connections that were lost.
    pub lost: usize,
    /// UDP flows that go to the other node now.
    pub udp_flows: usize,
    /// Packets that found no room or no way meanwhile.
    pub packets_lost: u64,
    /// How long handing connections over took: none of them stood still for longer.
    pub gap: Duration,
    /// How long it took until all home agents sent UDP flows to the other node.
    pub switched: Duration,
    /// How many connections stay for which reason.
    pub why: BTreeMap<String, usize>,
}

impl Mobility {
    /// Moves a name to another node; what cannot move is drained until `deadline` from now.
    pub async fn move_to(&self, name: SiteName, to: String, deadline: Duration) -> Result<Moved, String> {
        let stopping = || "the daemon is stopping".to_owned();
        let prepared = self
            .ask(|reply| Order::Prepare { name: name.clone(), to, reply })
            .await
            .ok_or_else(stopping)??;
        let lost_before = self.packets_lost();
        let mut moved = Moved { udp_flows: prepared.udp.len(), ..Moved::default() };
        if !prepared.udp.is_empty() {
            let begun = Instant::now();
            self.bind(Some(prepared.to), prepared.udp.clone()).await;
            moved.switched = begun.elapsed();
        }
        if !prepared.tcp.is_empty() {
            self.bind(None, prepared.tcp.clone()).await;
        }
        let until = clock::now() + deadline;
        self.ask(|reply| Order::Drain { name, until, reply }).await.ok_or_else(stopping)?;
        let begun = Instant::now();
        let given = self.give(&prepared).await;
        (moved.connections, moved.lost) = (given.moved, given.lost);
        if given.moved > 0 {
            moved.gap = begun.elapsed();
        }
        for (_, why) in &given.kept {
            let why = serde_json::to_value(why).ok().and_then(|why| why.as_str().map(str::to_owned));
            *moved.why.entry(why.unwrap_or_else(|| "unknown".into())).or_insert(0) += 1;
        }
        moved.drained = given.kept.len();
        moved.packets_lost = self.packets_lost().saturating_sub(lost_before);
        Ok(moved)
    }

    async fn give(&self, prepared: &Prepared) -> Report {
        let connections = self.connections();
        let known = |flow: &FlowKey| connections.as_ref().is_some_and(|known| known.knows(flow));
        // Of a connection of a program that is not ours nobody but it knows what it stands for.
        let (movable, others): (Vec<FlowKey>, Vec<FlowKey>) =
            prepared.tcp.iter().copied().partition(|flow| known(flow));
        let mut report = match self.handoffs.get().filter(|_| !movable.is_empty()) {
            Some(handoffs) => handoffs.give(prepared.to, movable).await,
            None => Report::default(),
        };
        report.kept.extend(others.into_iter().map(|flow| (flow, Kept::Unmovable)));
        report
    }

    /// Has home agents send flows to a node, or here, and waits until they do.
    async fn bind(&self, to: Option<MemberId>, flows: Vec<FlowKey>) {
        let (done, bound) = oneshot::channel();
        if self.orders.send(Order::Bind { to, flows, done: Some(done) }).await.is_ok() {
            // Those that did not answer are asked again in the meantime.
            let _ = tokio::time::timeout(BOUND_MAX, bound).await;
        }
    }

    fn packets_lost(&self) -> u64 {
        self.flows.borrow().as_ref().map_or(0, super::Flows::lost)
    }
}
