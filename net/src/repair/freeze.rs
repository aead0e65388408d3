//! Stopping a socket and reading what it is made of.

use super::options::*;
use super::{IN_FLIGHT_MAX, State, UNREAD_MAX, Window};
use crate::sockets::Sockets;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Why a socket does not move. It runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The process may not: it has no `CAP_NET_ADMIN` in the socket's network namespace.
    #[error("this takes CAP_NET_ADMIN")]
    NotPermitted,
    /// It is half open, or closing.
    #[error("the connection is not established (state {0} of tcp_states.h)")]
    NotEstablished(u8),
    /// It is made of more than a TCP connection, or of what only this host has.
    #[error("{0} does not move")]
    Kind(&'static str),
    /// The program has not read so much.
    #[error("{0} octets were not read, at most {UNREAD_MAX} move")]
    Unread(u32),
    /// So much is in flight.
    #[error("{0} octets are in flight, at most {IN_FLIGHT_MAX} move")]
    InFlight(u32),
    /// The kernel refused.
    #[error("{0}: {1}")]
    Kernel(&'static str, #[source] io::Error),
}

/// How much a movable socket queues beyond what it has sent: enough to keep sending while its program is
/// scheduled, little enough to be made anew at each move.
const UNSENT_MAX: u32 = 256 << 10;

/// `TCP_ESTABLISHED` of `tcp_states.h`.
const ESTABLISHED: u8 = 1;
/// `linux/tcp.h`: `TCPI_OPT_*`.
const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 4;

/// The kernel acknowledges parts of a segment without cutting it: the queue may begin with so many octets
/// that were acknowledged.
const SEGMENT_LEN_MAX: usize = 1 << 16;

/// Bounds what a socket that may move holds back unsent. Good to have on each from its beginning.
pub fn make_movable(socket: &impl AsFd) -> io::Result<()> {
    set_tcp(socket.as_fd(), libc::TCP_NOTSENT_LOWAT, [UNSENT_MAX])
}

/// A socket that stands still. Dropped, it vanishes without a packet.
#[derive(Debug)]
pub struct Frozen {
    socket: TcpStream,
    state: State,
}

impl Frozen {
    /// Stops `socket` and reads what it is made of. The caller has seen to it that no packet of the
    /// connection reaches the kernel; a socket that does not move comes back running.
    pub fn freeze(sockets: &mut Sockets, socket: TcpStream) -> Result<Frozen, (TcpStream, FreezeError)> {
        match read(sockets, &socket) {
            Ok(state) => Ok(Frozen { socket, state }),
            Err(error) => {
                // Where it was never entered, leaving it is refused and changes nothing.
                let _ = leave(socket.as_fd());
                Err((socket, error))
            }
        }
    }

    /// What it is made of.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The octets in flight, oldest first.
    pub fn in_flight(&self) -> io::Result<Vec<u8>> {
        let len = self.state.in_flight as usize;
        if len == 0 {
            return Ok(Vec::new());
        }
        let socket = self.socket.as_fd();
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, [SEND_QUEUE as u32])?;
        let mut bytes = peek(socket, len + SEGMENT_LEN_MAX)?;
        let acknowledged = bytes.len().checked_sub(len).ok_or(io::ErrorKind::InvalidData)?;
        bytes.drain(..acknowledged);
        Ok(bytes)
    }

    /// Lets it go on where it is.
    pub fn resume(self) -> io::Result<TcpStream> {
        open_window(self.socket.as_fd(), self.state.window)?;
        leave(self.socket.as_fd())?;
        make_movable(&self.socket)?;
        Ok(self.socket)
    }
}

/// Leaves repair mode. The kernel asks the other side where it stands.
pub(super) fn leave(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_tcp(socket, libc::TCP_REPAIR, [TCP_REPAIR_OFF as u32])?;
    set_socket(socket, libc::SO_REUSEADDR, 1)
}

fn read(sockets: &mut Sockets, stream: &TcpStream) -> Result<State, FreezeError> {
    let socket = stream.as_fd();
    let kernel = |what| move |error| FreezeError::Kernel(what, error);
    let addresses = stream.local_addr().and_then(|local| Ok((local, stream.peer_addr()?)));
    let (local, peer) = addresses.map_err(kernel("addresses"))?;
    check_kind(sockets, socket, local, peer)?;
    set_tcp(socket, libc::TCP_REPAIR, [TCP_REPAIR_ON as u32]).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EPERM) => FreezeError::NotPermitted,
            _ => FreezeError::Kernel("TCP_REPAIR", error),
        }
    })?;
    // Now that it stands still: it may have begun to close a moment ago.
    let [first, second] = get_tcp(socket, libc::TCP_INFO).map_err(kernel("TCP_INFO"))?;
    let ([state, ..], [_, options, scales, _]) = (first.to_ne_bytes(), second.to_ne_bytes());
    if state != ESTABLISHED {
        return Err(FreezeError::NotEstablished(state));
    }
    let window = shut_window(socket).map_err(kernel("TCP_REPAIR_WINDOW"))?;
    read_still(socket, [options, scales], window).inspect_err(|_| drop(open_window(socket, window)))
}

/// Shuts the other side's window, and answers what it was. Repair mode alone does not keep a socket from
/// sending what is queued when a timer says so, and then more would have been sent than was read here.
fn shut_window(socket: BorrowedFd<'_>) -> io::Result<Window> {
    set_tcp(socket, libc::TCP_REPAIR_QUEUE, [NO_QUEUE as u32])?;
    let [told_at, send, send_max, receive, receive_at] = get_tcp(socket, libc::TCP_REPAIR_WINDOW)?;
    let window = Window { told_at, send, send_max, receive, receive_at };
    open_window(socket, Window { send: 0, ..window })?;
    Ok(window)
}

/// Sets the windows of a socket in repair mode.
pub(super) fn open_window(socket: BorrowedFd<'_>, window: Window) -> io::Result<()> {
    let Window { told_at, send, send_max, receive, receive_at } = window;
    set_tcp(socket, libc::TCP_REPAIR_QUEUE, [NO_QUEUE as u32])?;
    set_tcp(socket, libc::TCP_REPAIR_WINDOW, [told_at, send, send_max, receive, receive_at])
}

/// What a socket that stands still is made of.
fn read_still(
    socket: BorrowedFd<'_>,
    [options, scales]: [u8; 2],
    window: Window,
) -> Result<State, FreezeError> {
    let kernel = |what| move |error| FreezeError::Kernel(what, error);
    let queue = |queue: i32| set_tcp(socket, libc::TCP_REPAIR_QUEUE, [queue as u32]);
    let sequence = || get_tcp(socket, libc::TCP_QUEUE_SEQ).map(|[sequence]| sequence);
    let numbers = || -> io::Result<State> {
        let [mss] = get_tcp(socket, libc::TCP_MAXSEG)?;
        let [timestamp] = get_tcp(socket, libc::TCP_TIMESTAMP)?;
        queue(SEND_QUEUE)?;
        let written = sequence()?;
        let (in_flight, unsent) = (count(socket, SIOCOUTQ)?, count(socket, SIOCOUTQNSD)?);
        queue(RECEIVE_QUEUE)?;
        Ok(State {
            written,
            received: sequence()?,
            in_flight,
            unsent,
            mss: u16::try_from(mss).map_err(|_| io::ErrorKind::InvalidData)?,
            selective: options & OPTION_SACK != 0,
            scale: (options & OPTION_WINDOW_SCALE != 0).then_some((scales & 15, scales >> 4)),
            timestamp: (options & OPTION_TIMESTAMPS != 0).then_some(timestamp),
            window,
            unread: Vec::new(),
        })
    };
    let mut state = numbers().map_err(kernel("reading a frozen socket"))?;
    if state.in_flight > IN_FLIGHT_MAX {
        return Err(FreezeError::InFlight(state.in_flight));
    }
    let unread = count(socket, SIOCINQ).map_err(kernel("SIOCINQ"))?;
    if unread as usize > UNREAD_MAX {
        return Err(FreezeError::Unread(unread));
    }
    if unread > 0 {
        state.unread = peek(socket, UNREAD_MAX).map_err(kernel("the receive queue"))?;
    }
    // The count stops at urgent data, reading does not.
    if state.unread.len() != unread as usize {
        return Err(FreezeError::Kind("urgent data"));
    }
    Ok(state)
}

fn check_kind(
    sockets: &mut Sockets,
    socket: BorrowedFd<'_>,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<(), FreezeError> {
    let kernel = |what| move |error| FreezeError::Kernel(what, error);
    let protocol = get_socket(socket, libc::SO_PROTOCOL).map_err(kernel("SO_PROTOCOL"))?;
    if protocol != libc::IPPROTO_TCP {
        return Err(FreezeError::Kind(if protocol == libc::IPPROTO_MPTCP {
            "Multipath TCP"
        } else {
            "what is not TCP"
        }));
    }
    // The kernel has the option only where it can sign so, and answers only when keys are there.
    if get_tcp::<16>(socket, TCP_AO_INFO).is_ok() {
        return Err(FreezeError::Kind("TCP-AO"));
    }
    match sockets.signed(peer, local).map_err(kernel("looking the socket up"))? {
        Some(false) => Ok(()),
        Some(true) => Err(FreezeError::Kind("TCP-MD5")),
        // The process looks in another network namespace, or it is gone.
        None => Err(FreezeError::NotEstablished(0)),
    }
}
