//! Which members are connected, by which connections; part of the driver.
//!
//! A peer is up from its first connection to its last. Of several connections of one start the
//! newest is used, QUIC before TCP; those of an earlier start go when a later one is admitted.
//! Whatever is given up is forgotten at once, and closed in the background.

use crate::driver::Driver;
use crate::event::{Direction, Event, TransportKind};
use crate::link::{self, Link};
use crate::shared::{Admitted, Verdict};
use godwit_core::certificate::Invalid;
use godwit_core::key::MemberId;
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// A connected peer.
pub(crate) struct Peer {
    pub(crate) name: PeerId,
    pub(crate) epoch: u64,
    /// Oldest first; never empty.
    pub(crate) connections: Vec<Connection>,
    pub(crate) link: Arc<Link>,
    pub(crate) writers: [AbortHandle; 2],
}

pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) admitted: Admitted,
    pub(crate) readers: Vec<AbortHandle>,
}

impl Driver {
    pub(crate) fn on_established(&mut self, name: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        if endpoint.is_dialer() {
            self.dials.remove(&id);
        }
        let Some(admitted) = self.swarm.behaviour_mut().streams.take(id) else {
            self.swarm.close_connection(id);
            return;
        };
        let peer = admitted.peer;
        // Admission was some moments ago.
        if self.is_withdrawn(&admitted).is_some() {
            self.swarm.close_connection(id);
            return;
        }
        match self.peers.get(&peer).map(|known| (known.epoch, known.connections.len())) {
            Some((epoch, _)) if epoch < admitted.epoch => self.drop_peer(peer),
            Some((epoch, count))
                if epoch > admitted.epoch || count >= self.shared.limits.connections_per_peer =>
            {
                self.swarm.close_connection(id);
                return;
            }
            Some(_) | None => {}
        }
        self.owners.insert(id, peer);
        let connection = Connection { id, admitted, readers: Vec::new() };
        match self.peers.get_mut(&peer) {
            Some(known) => {
                known.connections.push(connection);
                refresh_best(known);
            }
            None => self.add_peer(peer, name, connection),
        }
    }

    fn add_peer(&mut self, peer: MemberId, name: PeerId, connection: Connection) {
        let admitted = connection.admitted.clone();
        let (link, queues) = Link::new(&self.shared, &admitted);
        let writers = queues.map(|queue| {
            let writer = link::write_messages(peer, link.clone(), queue, self.commands.clone());
            tokio::spawn(writer).abort_handle()
        });
        self.shared.links.insert(peer, link.clone());
        self.shared.set_epoch(peer, Some(admitted.epoch));
        let event = Event::PeerUp {
            peer,
            certificate: Box::new(admitted.certificate),
            address: admitted.address,
            transport: admitted.transport,
        };
        self.outbox.push_back((event, Some(link.clone())));
        let connections = vec![connection];
        let known = Peer { name, epoch: admitted.epoch, connections, link, writers };
        self.peers.insert(peer, known);
    }

    /// A connection is gone or given up; with its last one the peer is down.
    pub(crate) fn forget(&mut self, id: ConnectionId) {
        let Some(peer) = self.owners.remove(&id) else { return };
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.connections.retain(|connection| {
            if connection.id == id {
                connection.readers.iter().for_each(AbortHandle::abort);
            }
            connection.id != id
        });
        if !known.connections.is_empty() {
            return refresh_best(known);
        }
        known.writers.iter().for_each(AbortHandle::abort);
        self.peers.remove(&peer);
        self.shared.links.remove(&peer);
        self.shared.set_epoch(peer, None);
        self.tell(Event::PeerDown { peer });
    }

    pub(crate) fn drop_connection(&mut self, id: ConnectionId) {
        self.swarm.close_connection(id);
        self.forget(id);
    }

    pub(crate) fn drop_peer(&mut self, peer: MemberId) {
        let Some(known) = self.peers.get(&peer) else { return };
        let ids: Vec<ConnectionId> = known.connections.iter().map(|connection| connection.id).collect();
        for id in ids {
            self.drop_connection(id);
        }
    }

    /// Closes what is no longer admitted.
    pub(crate) fn rejudge(&mut self) {
        let withdrawn: Vec<(ConnectionId, SocketAddr, MemberId, Invalid)> = self
            .peers
            .iter()
            .flat_map(|(peer, known)| known.connections.iter().map(move |c| (peer, c)))
            .filter_map(|(peer, c)| Some((c.id, c.admitted.address, *peer, self.is_withdrawn(&c.admitted)?)))
            .collect();
        for (id, address, peer, invalid) in withdrawn {
            self.drop_connection(id);
            let why = format!("{peer:?} is no longer admitted: {invalid}");
            self.shared.report(Verdict { address, direction: Direction::Inbound, why, revocation: None });
        }
    }

    fn is_withdrawn(&self, admitted: &Admitted) -> Option<Invalid> {
        let now = (self.shared.clock)();
        self.shared.admission().admits_still(now, admitted.peer, &admitted.certificate).err()
    }
}

/// The newest connection, one over QUIC before one over TCP.
pub(crate) fn best_of(connections: &[Connection]) -> Option<&Connection> {
    let quic = connections.iter().rev().find(|c| c.admitted.transport == TransportKind::Quic);
    quic.or(connections.last())
}

fn refresh_best(known: &Peer) {
    if let Some(best) = best_of(&known.connections) {
        known.link.set_best(&best.admitted);
    }
}
