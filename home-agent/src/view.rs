//! What a home agent shows of itself. The JSON form is public.

use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// Everything, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct View {
    /// Whether it knows the nodes well enough to draw traffic.
    pub settled: bool,
    /// Each home address.
    pub homes: Vec<HomeView>,
    /// Each care-of address of each node.
    pub bindings: Vec<BindingView>,
    /// How many flows are bound by name.
    pub moved_flows: usize,
}

/// A home address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HomeView {
    /// Its name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// Whether it is announced here.
    pub announced: bool,
    /// The nodes that packets go to now.
    pub nodes: Vec<String>,
}

/// A care-of address of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BindingView {
    /// The node's name.
    pub node: String,
    /// Which of its care-of addresses.
    pub id: u8,
    /// The home addresses that are bound there.
    pub homes: Vec<IpAddr>,
    /// Where packets go: a proved address.
    pub care_of: Option<SocketAddr>,
    /// `unproved`, `up` or `lost`.
    pub state: &'static str,
    /// Whether it takes no new flows.
    pub draining: bool,
    /// Of several, the lowest that is up is used.
    pub priority: u8,
    /// The largest packet that fits, octets.
    pub mtu: u16,
    /// Whether replies need no tunnel.
    pub direct_return: bool,
    /// How long it holds unless it is refreshed, milliseconds.
    pub expires_in_ms: u64,
}

/// A flow that passed lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// The protocol's number.
    pub protocol: u8,
    /// The client.
    pub client: SocketAddr,
    /// The home address.
    pub home: SocketAddr,
    /// The node that its packets go to.
    pub node: String,
    /// Whether it was bound to that node by name: moved, or kept there.
    pub bound: bool,
    /// Packets from the client since it was seen first.
    pub packets: u64,
    /// Their octets.
    pub octets: u64,
    /// Since it was seen first, milliseconds.
    pub age_ms: u64,
    /// Since its last packet, milliseconds.
    pub idle_ms: u64,
}
