//! What the kernel knows about a TCP connection.
//!
//! The kernel measures the round-trip time of every connection from its acknowledgements, for
//! nothing. Reading it is how a node learns how far its clients are without sending them a probe.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The smoothed round-trip time of the connection behind `socket`, as the kernel has measured it;
/// `None` before the first acknowledged byte, for sockets that are not TCP, and where the system
/// does not tell.
#[cfg(target_os = "linux")]
pub fn rtt(socket: &impl AsFd) -> Option<Duration> {
    // SAFETY: `tcp_info` is a C structure of integers only; all zeroes is a value of it.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is valid for writing `len` bytes and both outlive the call, the descriptor is
    // borrowed from `socket` and so open for the call; the kernel writes at most `len` bytes.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    // Before the first sample the kernel shows 0 (or, older ones, the initial guess with no variance).
    let measured = status == 0 && info.tcpi_rtt > 0 && info.tcpi_rttvar > 0;
    measured.then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// The smoothed round-trip time of the connection behind `socket`: not told on this system.
#[cfg(not(target_os = "linux"))]
pub fn rtt(_socket: &impl AsFd) -> Option<Duration> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_connection_that_has_carried_bytes_has_a_round_trip_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for _ in 0..10 {
            client.write_all(b"ping").unwrap();
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut bytes).unwrap();
        }
        let rtt = rtt(&server).unwrap();
        assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(1), "{rtt:?}");
    }

    #[test]
    fn a_socket_that_is_not_tcp_has_none() {
        assert_eq!(rtt(&UdpSocket::bind("127.0.0.1:0").unwrap()), None);
    }
}
