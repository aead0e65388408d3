//! Socket addresses as multiaddresses, and the one form of multiaddress the swarm sees.
//!
//! The swarm names a connection by a multiaddress. Here it always is
//! `/memory/ID/ip4/A/udp/P/…[/p2p/PEER]`: a number that is unique for the connection, by which the
//! behaviour finds what admission learnt about it, and for a dial all addresses to try. Which of
//! them wins, and whether over QUIC or TCP, is decided below the swarm ([`crate::path`]).

use crate::event::TransportKind;
use libp2p::Multiaddr;
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;
use std::net::{IpAddr, SocketAddr};

/// At most so many addresses of one peer are tried.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// Where to listen on one path.
pub(crate) fn listen_address(address: SocketAddr, transport: TransportKind) -> Multiaddr {
    let multiaddr = Multiaddr::from(address.ip());
    match transport {
        TransportKind::Quic => multiaddr.with(Protocol::Udp(address.port())).with(Protocol::QuicV1),
        TransportKind::Tcp => multiaddr.with(Protocol::Tcp(address.port())),
    }
}

/// The swarm's name of connection `id`, with the addresses of its other end.
pub(crate) fn connection_address(id: u64, addresses: &[SocketAddr]) -> Multiaddr {
    let start = Multiaddr::empty().with(Protocol::Memory(id));
    addresses.iter().take(ADDRESSES_MAX).fold(start, |multiaddr, address| {
        multiaddr.with(address.ip().into()).with(Protocol::Udp(address.port()))
    })
}

/// What [`connection_address`] put together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectionAddress {
    pub(crate) id: u64,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) peer: Option<PeerId>,
}

/// Reads [`connection_address`] back; `None` for any other form.
pub(crate) fn parse_connection_address(multiaddr: &Multiaddr) -> Option<ConnectionAddress> {
    let mut parts = multiaddr.iter();
    let Some(Protocol::Memory(id)) = parts.next() else { return None };
    let (mut addresses, mut peer, mut ip) = (Vec::new(), None, None);
    for part in parts {
        match (part, ip.take()) {
            (Protocol::Ip4(v4), None) => ip = Some(IpAddr::from(v4)),
            (Protocol::Ip6(v6), None) => ip = Some(IpAddr::from(v6)),
            (Protocol::Udp(port), Some(ip)) => addresses.push(SocketAddr::new(ip, port)),
            (Protocol::P2p(id), None) => peer = Some(id),
            _ => return None,
        }
    }
    Some(ConnectionAddress { id, addresses, peer })
}

/// The socket address that a multiaddress of a path starts with.
pub(crate) fn socket_address(multiaddr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = multiaddr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(v4) => IpAddr::from(v4),
        Protocol::Ip6(v6) => IpAddr::from(v6),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Whether a multiaddress is one that QUIC listens on or dials.
pub(crate) fn is_quic(multiaddr: &Multiaddr) -> bool {
    multiaddr.iter().any(|part| part == Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_addresses_read_back() {
        let addresses = vec!["192.0.2.1:4100".parse().unwrap(), "[2001:db8::1]:4101".parse().unwrap()];
        let multiaddr = connection_address(7, &addresses);
        let peer = PeerId::random();
        assert_eq!(
            parse_connection_address(&multiaddr.clone().with_p2p(peer).unwrap()),
            Some(ConnectionAddress { id: 7, addresses, peer: Some(peer) })
        );
        assert_eq!(parse_connection_address(&"/ip4/192.0.2.1/udp/1".parse().unwrap()), None);
        assert_eq!(parse_connection_address(&"/memory/1/udp/1".parse().unwrap()), None);
    }

    #[test]
    fn listen_addresses_tell_their_path() {
        let address = "[::1]:4100".parse().unwrap();
        assert!(is_quic(&listen_address(address, TransportKind::Quic)));
        assert!(!is_quic(&listen_address(address, TransportKind::Tcp)));
        assert_eq!(socket_address(&listen_address(address, TransportKind::Tcp)), Some(address));
    }
}
