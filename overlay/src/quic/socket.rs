//! UDP sockets with buffers that fit the window.
//!
//! The kernel's default of 208 KiB loses packets by the thousand at 1 Gbit/s; most of what QUIC
//! seems to lose on a fast path is lost there.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Once;

/// Listens on `address` and asks the kernel for `buffer` bytes in each direction.
pub(crate) fn bind(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // 0.0.0.0 and :: are two addresses, on one port
    }
    socket.set_nonblocking(true)?;
    grow_buffers(&socket, buffer);
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn grow_buffers(socket: &Socket, wanted: usize) {
    static WARNED: Once = Once::new();
    // Failure shows in what was granted, which is what counts.
    socket.set_recv_buffer_size(wanted).ok();
    socket.set_send_buffer_size(wanted).ok();
    let receive = socket.recv_buffer_size().unwrap_or_default();
    let send = socket.send_buffer_size().unwrap_or_default();
    if receive.min(send) < wanted {
        WARNED.call_once(|| {
            tracing::warn!(
                wanted,
                receive,
                send,
                "the kernel grants smaller UDP buffers than asked for; transfers over long paths will be \
                 slow: raise net.core.rmem_max and net.core.wmem_max"
            );
        });
    }
}
