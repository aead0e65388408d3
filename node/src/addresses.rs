//! This host's addresses, as the kernel knows them: from which it reaches the world, and when they change.

use godwit_net::netlink;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use tokio::net::UdpSocket;

/// The address from which this host reaches the world over IPv4, or IPv6; asking the kernel sends nothing.
pub(crate) fn source(v4: bool) -> Option<IpAddr> {
    // 192.0.2.0/24 and 2001:db8::/32 are for documentation: routed like the rest of the world.
    let (from, to): (IpAddr, &str) = match v4 {
        true => (Ipv4Addr::UNSPECIFIED.into(), "192.0.2.1:9"),
        false => (Ipv6Addr::UNSPECIFIED.into(), "[2001:db8::1]:9"),
    };
    let socket = std::net::UdpSocket::bind((from, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Tells when addresses or routes of this host change. What exactly is asked for anew.
pub(crate) struct Changes(UdpSocket);

impl Changes {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Changes> {
        // A socket that the runtime can wait for: it receives as any datagram socket does.
        Ok(Changes(UdpSocket::from_std(OwnedFd::from(netlink::Changes::listen()?).into())?))
    }

    /// Waits for a change. Dropping this loses none.
    pub(crate) async fn next(&self) -> io::Result<()> {
        self.0.readable().await?;
        // A queue that ran over was full of changes.
        let mut one = [0; 8192];
        while !matches!(self.0.try_recv(&mut one), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {}
        Ok(())
    }
}
