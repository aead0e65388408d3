//! Who keeps packets of moving flows away from the kernel.

use futures::future::BoxFuture;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;

/// The packets of this node's home addresses, and the home agents that send them. The words are those of
/// the machines' outputs.
pub trait Packets: Send + Sync + 'static {
    /// Whether connections of this flow can be served here: its home address is this node's.
    fn serves(&self, flow: &FlowKey) -> bool;

    /// Members to which a connection of this flow can be given: they serve its home address too, and packets
    /// can be passed on to them.
    fn takers(&self, flow: &FlowKey) -> Vec<MemberId>;

    /// Keeps what comes of these flows in a bounded queue.
    fn hold(&self, flows: &[FlowKey]);

    /// The same; ready once no packet of them is on its way to the kernel any more.
    fn divert(&self, flows: &[FlowKey]) -> BoxFuture<'static, ()>;

    /// What is kept of these flows, and what comes, goes to the kernel.
    fn release(&self, flows: &[FlowKey]);

    /// What is kept of these flows is dropped.
    fn drop_held(&self, flows: &[FlowKey]);

    /// What is kept of these flows, and what comes, goes to that node.
    fn pass_on(&self, flows: &[FlowKey], to: MemberId);

    /// These are that node's from now on: late packets are passed on to it, and home agents are told.
    fn given(&self, flows: &[FlowKey], to: MemberId);
}
