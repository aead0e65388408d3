//! Datagrams from home addresses, outside of the tunnel: what direct return is tried with.

use super::owned::PROBE_MARK;
use godwit_core::binding::HomeAddress;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};

/// A socket for each home address.
#[derive(Debug, Default)]
pub(super) struct Probes {
    sockets: BTreeMap<HomeAddress, UdpSocket>,
}

impl Probes {
    /// Sends one. What is not sent is not answered, and that tells enough.
    pub(super) fn send(&mut self, home: HomeAddress, to: SocketAddr, datagram: &[u8]) {
        let sent = self.try_send(home, to, datagram);
        if let Err(error) = sent {
            tracing::debug!(%home, %to, %error, "direct return was not tried");
            // Perhaps the socket is of an address that went and came back.
            self.sockets.remove(&home);
        }
    }

    /// The host has the address no longer.
    pub(super) fn forget(&mut self, home: &HomeAddress) {
        self.sockets.remove(home);
    }

    fn try_send(&mut self, home: HomeAddress, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        use std::collections::btree_map::Entry;
        let socket = match self.sockets.entry(home) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(open(home)?),
        };
        socket.send_to(datagram, to).map(drop)
    }
}

fn open(home: HomeAddress) -> io::Result<UdpSocket> {
    let domain = if home.0.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    socket.set_mark(PROBE_MARK)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(home.0, 0).into())?;
    Ok(socket.into())
}
