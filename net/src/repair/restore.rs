//! Making a socket of a state.

use super::options::*;
use super::{State, freeze};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// How restored sockets control congestion: by losses and nothing that a move could have falsified.
pub const CONGESTION: &str = "cubic";

/// Where the kernel has not got that.
const CONGESTION_ELSE: &str = "reno";

/// A send buffer is no smaller than what the kernel begins with, and no larger than what it grows to by
/// itself (`net.ipv4.tcp_wmem`).
const SEND_BUFFER_KEPT: (u32, u32) = (128 << 10, 4 << 20);

/// A receive buffer is made for a window of at most this.
const RECEIVE_WINDOW_MAX: u32 = 8 << 20;

/// Room for what the kernel writes beside the octets.
const OVERHEAD: u32 = 128 << 10;

/// `TCPOPT_*` of `linux/tcp.h`.
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW_SCALE: u32 = 3;
const OPTION_SACK_PERMITTED: u32 = 4;
const OPTION_TIMESTAMP: u32 = 8;

/// Why there is no socket. Nothing of it is left, and no packet was sent.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The octets are not as many as are in flight by the state.
    #[error("{got} octets in flight are given, {state} are")]
    InFlight {
        /// So many were given.
        got: usize,
        /// So many the state has.
        state: u32,
    },
    /// Both addresses must be of one family.
    #[error("the addresses are of two families")]
    Families,
    /// The process may not: it has no `CAP_NET_ADMIN` in its network namespace.
    #[error("this takes CAP_NET_ADMIN")]
    NotPermitted,
    /// The kernel refused: the address is not of this host, the connection is here already, or the state
    /// is impossible.
    #[error("{0}: {1}")]
    Kernel(&'static str, #[source] io::Error),
}

/// Makes the connection from `local` (this side) to `peer` of a state and the octets in flight, and lets it
/// run. What is sent first asks the other side where it stands. The socket does not block.
pub fn restore(
    local: SocketAddr,
    peer: SocketAddr,
    state: &State,
    in_flight: &[u8],
) -> Result<TcpStream, RestoreError> {
    if in_flight.len() != state.in_flight as usize || state.unsent > state.in_flight {
        return Err(RestoreError::InFlight { got: in_flight.len(), state: state.in_flight });
    }
    if local.is_ipv4() != peer.is_ipv4() {
        return Err(RestoreError::Families);
    }
    let kernel = |what| {
        move |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM) => RestoreError::NotPermitted,
            _ => RestoreError::Kernel(what, error),
        }
    };
    let (sent, unsent) = in_flight.split_at((state.in_flight - state.unsent) as usize);
    let socket = connect(local, peer, state).map_err(kernel("connecting"))?;
    let fd = socket.as_fd();
    // Options come before octets: with octets in the queues the kernel refuses them.
    set_options(fd, state).map_err(kernel("TCP options"))?;
    size_buffers(fd, state).map_err(kernel("buffers"))?;
    if !state.unread.is_empty() {
        fill(fd, RECEIVE_QUEUE, &state.unread).map_err(kernel("the receive queue"))?;
    }
    fill(fd, SEND_QUEUE, sent).map_err(kernel("the send queue"))?;
    freeze::open_window(fd, state.window).map_err(kernel("windows"))?;
    run(fd, unsent, state.in_flight).map_err(kernel("leaving repair mode"))?;
    Ok(socket)
}

/// A connection with the right sequence numbers and nothing else.
fn connect(local: SocketAddr, peer: SocketAddr, state: &State) -> io::Result<TcpStream> {
    let domain = if local.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let fd = socket.as_fd();
    set_tcp(fd, libc::TCP_REPAIR, [TCP_REPAIR_ON as u32])?;
    let sequences = [
        (SEND_QUEUE, state.written.wrapping_sub(state.in_flight)),
        (RECEIVE_QUEUE, state.received.wrapping_sub(state.unread.len() as u32)),
    ];
    for (queue, sequence) in sequences {
        set_tcp(fd, libc::TCP_REPAIR_QUEUE, [queue as u32])?;
        set_tcp(fd, libc::TCP_QUEUE_SEQ, [sequence])?;
    }
    // Without it `connect` computes segments for a peer that takes 536 octets, and nothing that comes
    // later corrects that.
    set_tcp(fd, libc::TCP_MAXSEG, [state.mss.min(MSS_SETTABLE_MAX).into()])?;
    socket.bind(&local.into())?;
    socket.connect(&peer.into())?;
    set_congestion(&socket)?;
    Ok(socket.into())
}

/// `MAX_TCP_WINDOW` of the kernel.
const MSS_SETTABLE_MAX: u16 = 32_767;

fn set_congestion(socket: &socket2::Socket) -> io::Result<()> {
    let by = |name| crate::tcp::control_congestion(socket, name);
    by(CONGESTION).or_else(|_| by(CONGESTION_ELSE))
}

fn set_options(fd: BorrowedFd<'_>, state: &State) -> io::Result<()> {
    let set = |code: u32, value: u32| set_tcp(fd, libc::TCP_REPAIR_OPTIONS, [code, value]);
    set(OPTION_MSS, state.mss.into())?;
    if let Some((send, receive)) = state.scale {
        set(OPTION_WINDOW_SCALE, u32::from(send) | u32::from(receive) << 16)?;
    }
    if state.selective {
        set(OPTION_SACK_PERMITTED, 0)?;
    }
    if let Some(timestamp) = state.timestamp {
        set(OPTION_TIMESTAMP, 0)?;
        set_tcp(fd, libc::TCP_TIMESTAMP, [timestamp])?;
    }
    Ok(())
}

/// Room for the octets in flight, and for the window that the other side was told: it may fill it at once.
fn size_buffers(fd: BorrowedFd<'_>, state: &State) -> io::Result<()> {
    set_buffer(fd, SEND_BUFFER, 2 * (state.in_flight + OVERHEAD))?;
    let window = state.window.receive.max(state.unread.len() as u32).min(RECEIVE_WINDOW_MAX);
    let now = get_socket(fd, libc::SO_RCVBUF)?.max(0) as u32;
    set_buffer(fd, RECEIVE_BUFFER, (2 * window).max(now))
}

fn fill(fd: BorrowedFd<'_>, queue: i32, bytes: &[u8]) -> io::Result<()> {
    set_tcp(fd, libc::TCP_REPAIR_QUEUE, [queue as u32])?;
    push(fd, bytes)
}

/// From here on packets are sent.
fn run(fd: BorrowedFd<'_>, unsent: &[u8], in_flight: u32) -> io::Result<()> {
    freeze::leave(fd)?;
    push(fd, unsent)?;
    let (least, most) = SEND_BUFFER_KEPT;
    set_buffer(fd, SEND_BUFFER, (in_flight + OVERHEAD).clamp(least, most))?;
    set_socket(fd, SO_BUF_LOCK, 0)?;
    freeze::make_movable(&fd)
}
