//! What a hand-off does with the packets of flows, in the words of its machines
//! ([`godwit_core::handoff`]).

use super::steer::NodeSteer;
use super::{Mobility, Order};
use crate::clock;
use crate::handoff::Packets;
use futures::future::BoxFuture;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_net::tunnel::{Engine, Kept, Way};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// The packets of flows at this node. Clones are the same.
#[derive(Clone)]
pub struct Flows {
    steer: Arc<NodeSteer>,
    engine: Arc<Engine>,
    orders: mpsc::Sender<Order>,
}

impl Flows {
    pub(super) fn new(steer: Arc<NodeSteer>, engine: Arc<Engine>, orders: mpsc::Sender<Order>) -> Flows {
        Flows { steer, engine, orders }
    }

    /// Whether this node serves the home address of a flow.
    pub fn serves(&self, flow: &FlowKey) -> bool {
        self.steer.view.load().homes.contains_key(&flow.home.ip())
    }

    /// The nodes that may serve the home address of a flow too, and that packets can be passed on to.
    pub fn takers(&self, flow: &FlowKey) -> Vec<MemberId> {
        self.steer.view.load().takers.get(&flow.home.ip()).cloned().unwrap_or_default()
    }

    /// Whether packets can be passed on to a node.
    pub fn reaches(&self, member: &MemberId) -> bool {
        self.steer.view.load().relays.contains_key(member)
    }

    /// Keeps what comes of these flows from the kernel, in bounded queues: the taker's *hold*.
    pub fn hold(&self, flows: &[FlowKey]) {
        self.steer.filter.hold(flows);
    }

    /// The same, and when what is returned is done no packet is on its way to the kernel any more: the
    /// giver's *divert*.
    pub fn divert(&self, flows: &[FlowKey]) -> impl Future<Output = ()> + Send + use<> {
        self.hold(flows);
        let engine = self.engine.clone();
        async move {
            // It panics nowhere; a runtime that ends drops who waits here, too.
            let _ = tokio::task::spawn_blocking(move || engine.barrier()).await;
        }
    }

    /// What was kept of these flows, and what comes, goes to the kernel: the taker's *release*, the
    /// giver's *resume*.
    pub fn release(&self, flows: &[FlowKey]) {
        self.steer.forget(flows);
        self.engine.inject(&self.steer.filter.release(flows));
    }

    /// What was kept of these flows is dropped; what comes is treated as that of any other, but what nodes
    /// still pass on of them for a while.
    pub fn drop_held(&self, flows: &[FlowKey]) {
        self.steer.filter.drop_held(clock::now(), flows);
    }

    /// What was kept of these flows, and what comes, goes to that node.
    pub fn pass_on(&self, flows: &[FlowKey], to: MemberId) {
        let packets = self.steer.filter.pass_on(flows, to);
        self.pass(&packets, &to);
    }

    /// These are another node's for good: what still comes is passed on, and the home agents are told.
    pub fn given(&self, flows: &[FlowKey], to: MemberId) {
        self.steer.forget(flows);
        self.steer.filter.given(clock::now(), flows, to);
        let order = Order::Bind { to: Some(to), flows: flows.to_vec(), done: None };
        if self.orders.try_send(order).is_err() {
            tracing::warn!(flows = flows.len(), "home agents are not told of connections that moved");
        }
    }

    /// So many packets found no room or no way while their flows moved, since the start.
    pub fn lost(&self) -> u64 {
        let decided = &self.steer.decided;
        decided.overflowed.load(Ordering::Relaxed) + decided.no_relay.load(Ordering::Relaxed)
    }

    fn pass(&self, packets: &[Kept], to: &MemberId) {
        let way = self.steer.view.load().relays.get(to).copied();
        match way {
            Some((key, to)) => self.engine.pass(&Way { key, to, before: None, relayed: true }, packets),
            None => {
                self.steer.decided.no_relay.fetch_add(packets.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows").field("sizes", &self.steer.filter.sizes()).finish()
    }
}

/// While no name is served here there are no packets.
impl Packets for Mobility {
    fn serves(&self, flow: &FlowKey) -> bool {
        self.flows.borrow().as_ref().is_some_and(|flows| flows.serves(flow))
    }

    fn takers(&self, flow: &FlowKey) -> Vec<MemberId> {
        self.flows.borrow().as_ref().map(|flows| flows.takers(flow)).unwrap_or_default()
    }

    fn hold(&self, flows: &[FlowKey]) {
        self.with(|known| known.hold(flows));
    }

    fn divert(&self, flows: &[FlowKey]) -> BoxFuture<'static, ()> {
        match self.flows.borrow().as_ref() {
            Some(known) => Box::pin(known.divert(flows)),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn release(&self, flows: &[FlowKey]) {
        self.with(|known| known.release(flows));
    }

    fn drop_held(&self, flows: &[FlowKey]) {
        self.with(|known| known.drop_held(flows));
    }

    fn pass_on(&self, flows: &[FlowKey], to: MemberId) {
        self.with(|known| known.pass_on(flows, to));
    }

    fn given(&self, flows: &[FlowKey], to: MemberId) {
        self.with(|known| known.given(flows, to));
    }
}

impl Mobility {
    /// Whether something was ever served here.
    pub(crate) fn is_open(&self) -> bool {
        self.flows.borrow().is_some()
    }

    /// Waits until something is served here; `false` when the member stops before.
    pub(crate) async fn opened(&self) -> bool {
        let mut flows = self.flows.clone();
        flows.wait_for(Option::is_some).await.is_ok()
    }

    fn with(&self, act: impl FnOnce(&Flows)) {
        if let Some(flows) = self.flows.borrow().as_ref() {
            act(flows);
        }
    }
}
