//! Passes what comes to a home address on to a program that listens elsewhere on this host, or behind it.
//!
//! A program that listens on the home address itself needs none of this and sees its clients' addresses.
//! Behind a forwarder it sees the forwarder's; over TCP the PROXY protocol tells it the client's. The
//! connections of a forwarder cannot be handed to another node: they are drained.

mod tcp;
mod udp;

pub(super) use tcp::forward_tcp;
pub(super) use udp::{Outside, Sessions, forward_udp};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpListener;

/// What forwarders of one service have counted.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    /// TCP connections and UDP sessions that were begun.
    pub(super) begun: AtomicU64,
    /// TCP connections and UDP sessions that are open.
    pub(super) open: AtomicU64,
    /// Those for which there was no room.
    pub(super) refused: AtomicU64,
    /// Those that the program did not accept.
    pub(super) failed: AtomicU64,
}

/// One that is open, counted while it lives.
struct Counted(Arc<Forwarded>);

impl Counted {
    fn begin(forwarded: &Arc<Forwarded>) -> Counted {
        forwarded.begun.fetch_add(1, Ordering::Relaxed);
        forwarded.open.fetch_add(1, Ordering::Relaxed);
        Counted(forwarded.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that listens at a home address.
pub(super) fn listen(home: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(socket2::Type::STREAM, home)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// A socket at a home address; IPv6 ones take IPv6 only.
fn bind(kind: socket2::Type, home: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = if home.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, kind, None)?;
    if home.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == socket2::Type::STREAM {
        // A restarted daemon takes its port back while old connections linger.
        socket.set_reuse_address(true)?;
    }
    // The sites and the redirector of this process may have the port at all addresses; packets to the home
    // address are for the more specific socket.
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&home.into())?;
    Ok(socket)
}
