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
    // Before the first sample the kernel shows 0 (or, older ones, the initial guess with no variance).
    let info = info(socket).filter(|info| info.tcpi_rtt > 0 && info.tcpi_rttvar > 0)?;
    Some(Duration::from_micros(info.tcpi_rtt.into()))
}

/// How large segments are, octets: those sent, and those that came lately; `None` for sockets that are not
/// TCP.
#[cfg(target_os = "linux")]
pub fn segments(socket: &impl AsFd) -> Option<(u32, u32)> {
    info(socket).map(|info| (info.tcpi_snd_mss, info.tcpi_rcv_mss))
}

/// How many octets were written to `socket` that the other side has not acknowledged.
#[cfg(target_os = "linux")]
pub fn unacknowledged(socket: &impl AsFd) -> std::io::Result<u32> {
    crate::repair::unacknowledged(socket.as_fd())
}

/// Which way of controlling congestion a socket uses from now on, by the kernel's name (`cubic`).
#[cfg(target_os = "linux")]
pub fn control_congestion(socket: &impl AsFd, by: &str) -> std::io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_congestion(by.as_bytes())
}

#[cfg(target_os = "linux")]
fn info(socket: &impl AsFd) -> Option<libc::tcp_info> {
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
    (status == 0).then_some(info)
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
        // Within a host times can be so much alike that their variance rounds to nothing: not for long.
        let measured = (0..1000).find_map(|_| {
            client.write_all(b"ping").unwrap();
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut bytes).unwrap();
            rtt(&server)
        });
        let rtt = measured.unwrap();
        assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(1), "{rtt:?}");
    }

    #[test]
    fn what_was_not_acknowledged_is_counted_and_segments_have_a_size() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(len) = client.write(&[0; 65536]) {
            written += len;
        }
        let waits = unacknowledged(&client).unwrap() as usize;
        assert!(waits > 0 && waits <= written, "{waits} of {written}");
        server.read_exact(&mut vec![0; written]).unwrap();
        while unacknowledged(&client).unwrap() > 0 {
            std::thread::yield_now();
        }
        assert!(segments(&client).unwrap().0 >= 1300);
        assert!(segments(&server).unwrap().1 >= 536);
        assert_eq!(segments(&UdpSocket::bind("127.0.0.1:0").unwrap()), None);
    }

    #[test]
    fn a_socket_that_is_not_tcp_has_none() {
        assert_eq!(rtt(&UdpSocket::bind("127.0.0.1:0").unwrap()), None);
    }
}
