//! The memory in which a packet socket leaves what it received (PACKET_RX_RING, version 2).
//!
//! A plain packet socket may buffer 200 packets for a user without privileges (`rmem_max`), which
//! one burst of TCP overruns. A ring is not bound by that limit, and reading it takes no system
//! call.
//!
//! ```text
//!  slot (2 KiB): tpacket2_hdr { status, len, snaplen, mac: offset of the frame, ... } │ ... │ frame
//! ```
//!
//! A slot belongs to the kernel until it sets `TP_STATUS_USER` in its status, and to us until we
//! clear it.

use crate::namespace::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A slot holds the kernel's header and a full Ethernet frame.
const SLOT_LEN: usize = 2048;
/// Slots come in blocks of memory that the kernel can find in one piece.
const BLOCK_LEN: usize = 32 * 1024;
/// 1,024 full packets: 6 ms at 2 Gbit/s; 2 MiB for each host.
const SLOT_COUNT: usize = 1024;
const RING_LEN: usize = SLOT_COUNT * SLOT_LEN;

#[derive(Debug)]
pub(crate) struct Ring {
    memory: NonNull<u8>,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and may be used by whichever thread holds it.
unsafe impl Send for Ring {}

impl Ring {
    /// Gives the socket a ring. It lives until this value is dropped, also when the socket is
    /// closed before.
    pub(crate) fn new(socket: BorrowedFd<'_>) -> io::Result<Ring> {
        set_option(socket, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as libc::c_int))?;
        // What we send ourselves must not come back.
        set_option(socket, libc::PACKET_IGNORE_OUTGOING, &(1 as libc::c_int))?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_LEN as u32,
            tp_block_nr: (RING_LEN / BLOCK_LEN) as u32,
            tp_frame_size: SLOT_LEN as u32,
            tp_frame_nr: SLOT_COUNT as u32,
        };
        set_option(socket, libc::PACKET_RX_RING, &request)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice; the length is what
        // the socket was told.
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), RING_LEN, access, libc::MAP_SHARED, socket.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mmap answered null"))?;
        Ok(Ring { memory, next: 0 })
    }

    /// Hands the next frame to `take` and gives its slot back; `false` when there is none.
    pub(crate) fn receive(&mut self, take: impl FnOnce(&[u8])) -> bool {
        // SAFETY: `next` is below SLOT_COUNT, so the slot lies inside the mapping.
        let slot = unsafe { self.memory.add(self.next * SLOT_LEN) };
        // SAFETY: each slot starts with its status, aligned to the slot's length, which the kernel
        // and we only access atomically.
        let status = unsafe { slot.cast::<AtomicU32>().as_ref() };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return false;
        }
        // SAFETY: the slot is ours now, and the kernel has written its header.
        let header = unsafe { slot.cast::<libc::tpacket2_hdr>().read() };
        let (start, len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
        if start.saturating_add(len) <= SLOT_LEN {
            // SAFETY: the range was checked to lie inside the slot, which is ours until the status
            // is written below.
            take(unsafe { std::slice::from_raw_parts(slot.add(start).as_ptr(), len) });
        }
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % SLOT_COUNT;
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length and nothing points into it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), RING_LEN) };
    }
}

fn set_option<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, std::ptr::from_ref(value).cast(), len)
    })
}
