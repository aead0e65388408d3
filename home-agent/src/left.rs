//! One process of a home agent follows another: the life goes on, with its bindings, keys and flows, and
//! neither nodes nor routers notice.
//!
//! The predecessor carries packets by what it knew when the member's other parts stopped, and answers nodes'
//! probes, until the successor is there; bindings live for ten seconds without being renewed, and a start that
//! takes longer lets them end. Then its threads end, and what is here goes over; in between packets wait in the
//! device and the sockets. A successor that cannot use it (another configuration, another version, a clock that
//! was set) begins a life of its own, as after a crash. What was chosen before the present choice is forgotten:
//! flows from then that nobody has bound by name have no second chance.

use crate::announcing::Told;
use crate::config::Config;
use crate::keys::Keys;
use godwit_core::announce::Announcer;
use godwit_core::binding::cache::Cache;
use godwit_core::flow::table::FlowTable;
use godwit_core::time::Time;
use godwit_net::estate::Estate;
use godwit_net::tunnel::{KeyLeft, Left as TunnelLeft};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

/// Changes with what stands below: another one is not read.
const VERSION: u8 = 2;

/// What the machines have in memory, and what was done by them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) cache: Cache,
    pub(crate) flows: FlowTable,
    pub(crate) announcer: Announcer,
    pub(crate) keys: Keys,
    pub(crate) told: Told,
    pub(crate) settled: bool,
}

#[derive(Serialize, Deserialize)]
struct Left {
    interface: String,
    mtu: u16,
    listen: Vec<SocketAddr>,
    queues: usize,
    keys: Vec<KeyLeft>,
    life: Life,
}

/// What was left, and can be gone on with.
pub(crate) struct Resumed {
    pub(crate) device: Vec<OwnedFd>,
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) keys: Vec<KeyLeft>,
    pub(crate) life: Life,
}

/// Leaves all of it; the tunnel has stopped.
pub(crate) fn leave(now: Time, config: &Config, tunnel: TunnelLeft, life: Life) -> Estate {
    let TunnelLeft { keys, device, sockets } = tunnel;
    let left = Left {
        interface: config.interface.clone(),
        mtu: config.mtu,
        listen: config.listen.clone(),
        queues: device.len(),
        keys,
        life,
    };
    Estate::leave(now, VERSION, &left, device.into_iter().chain(sockets).collect())
}

/// What another process has left, where it can be gone on with; otherwise why not.
pub(crate) fn resume(now: Time, config: &Config, estate: Estate) -> Result<Resumed, String> {
    let (left, mut descriptors) = estate.take::<Left>(now, VERSION).map_err(|error| error.to_string())?;
    if (&left.interface, left.mtu, &left.listen) != (&config.interface, config.mtu, &config.listen)
        || left.queues != config.queues
    {
        return Err("the configuration is another one".into());
    }
    let device: Vec<OwnedFd> = descriptors.by_ref().take(left.queues).collect();
    let sockets: Vec<UdpSocket> = descriptors.map(UdpSocket::from).collect();
    if sockets.is_empty() {
        return Err("fewer descriptors came than were left".into());
    }
    Ok(Resumed { device, sockets, keys: left.keys, life: left.life })
}
