//! Socket options by number: every one of them an integer, or a few.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `linux/tcp.h`.
pub(super) const TCP_REPAIR_ON: i32 = 1;
pub(super) const TCP_REPAIR_OFF: i32 = 0;
pub(super) const RECEIVE_QUEUE: i32 = 1;
pub(super) const SEND_QUEUE: i32 = 2;
pub(super) const NO_QUEUE: i32 = 0;
pub(super) const TCP_AO_INFO: i32 = 40;
/// `asm-generic/socket.h`.
pub(super) const SO_BUF_LOCK: i32 = 72;
/// `linux/sockios.h`: octets received and not read, written and not acknowledged, written and not sent.
pub(super) const SIOCINQ: libc::Ioctl = 0x541b;
pub(super) const SIOCOUTQ: libc::Ioctl = 0x5411;
pub(super) const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Sets an option of the protocol TCP.
pub(super) fn set_tcp<const N: usize>(socket: BorrowedFd<'_>, name: i32, value: [u32; N]) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, name, value)
}

/// Sets an option of the socket itself.
pub(super) fn set_socket(socket: BorrowedFd<'_>, name: i32, value: i32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, name, [value as u32])
}

/// Sets an option that is a list of words.
fn set<const N: usize>(socket: BorrowedFd<'_>, level: i32, name: i32, value: [u32; N]) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call; the descriptor is borrowed
    // and so open. The kernel only reads.
    let status = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    crate::namespace::check(status)
}

/// Which buffer of a socket: its option, and the option that knows no bound but takes `CAP_NET_ADMIN` in the
/// first user namespace.
pub(super) const SEND_BUFFER: [i32; 2] = [libc::SO_SNDBUF, 32];
pub(super) const RECEIVE_BUFFER: [i32; 2] = [libc::SO_RCVBUF, 33];

/// Makes a buffer this large. In a user namespace it is made as large as anybody may
/// (`net.core.wmem_max`, `net.core.rmem_max`), unless the kernel made it larger by itself.
pub(super) fn set_buffer(socket: BorrowedFd<'_>, buffer: [i32; 2], len: u32) -> io::Result<()> {
    let [plain, force] = buffer;
    // The kernel doubles what it is told, for its own overhead.
    let half = i32::try_from(len / 2).unwrap_or(i32::MAX);
    match set_socket(socket, force, half) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            if get_socket(socket, plain)? > most(plain)? {
                return Ok(());
            }
            set_socket(socket, plain, half)
        }
        done => done,
    }
}

/// The largest buffer that anybody may have, which nothing but a socket tells in every namespace.
fn most(plain: i32) -> io::Result<i32> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    set_socket(socket.as_fd(), plain, i32::MAX)?;
    get_socket(socket.as_fd(), plain)
}

/// Reads an option of the protocol TCP that is a list of words; what the kernel does not write is zero.
pub(super) fn get_tcp<const N: usize>(socket: BorrowedFd<'_>, name: i32) -> io::Result<[u32; N]> {
    get(socket, libc::IPPROTO_TCP, name)
}

/// Reads an option of the socket itself.
pub(super) fn get_socket(socket: BorrowedFd<'_>, name: i32) -> io::Result<i32> {
    get::<1>(socket, libc::SOL_SOCKET, name).map(|[value]| value as i32)
}

fn get<const N: usize>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<[u32; N]> {
    let mut value = [0u32; N];
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call; the kernel writes at most
    // `len` octets, and every value of them is one of the array.
    let status =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    crate::namespace::check(status).map(|()| value)
}

/// One of the counts that sockets answer to `ioctl`.
pub(super) fn count(socket: BorrowedFd<'_>, name: libc::Ioctl) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the three requests that this module names write one int, which `value` is.
    crate::namespace::check(unsafe { libc::ioctl(socket.as_raw_fd(), name, &raw mut value) })?;
    u32::try_from(value).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Reads up to `len` octets of the queue that was chosen and leaves them there. Never waits.
pub(super) fn peek(socket: BorrowedFd<'_>, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and length describe `bytes`, which outlives the call.
    let got = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), len, flags) };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Puts octets into the queue that was chosen, or sends them where none was. Never waits: what did not
/// fit is an error.
pub(super) fn push(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let len = bytes.len().min(PUSH_MAX);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pointer and length describe a part of `bytes`; the kernel only reads.
        let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), len, flags) };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        bytes = &bytes[sent.min(len)..];
    }
    Ok(())
}

/// The kernel makes one buffer in one piece of what it gets for the receive queue.
const PUSH_MAX: usize = 32 << 10;
