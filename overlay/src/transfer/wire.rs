//! The frames of a transfer stream; numbers are little-endian.
//!
//! ```text
//! fetcher -> holder, any number of times, then the end of the stream:
//!
//!   0        4                       40
//!   | count  | id (32) | from (4) |  | ...        count <= WANTS_MAX wants
//!
//! holder -> fetcher, for each want in order:
//!
//!   0   1          9
//!   | 0 |                                         not held
//!   | 1 | len (8)  | group hash (32) | ...        group_count(len) hashes, always all, then
//!
//!   0        4
//!   | n (4)  | n bytes |                          until the object's end; 0 < n <= PORTION_LEN,
//!                                                 whole groups but for the object's last
//!   | 0      |                                    or: the holder failed to read on
//! ```

use super::{PORTION_LEN, WANTS_MAX, Want};
use bytes::{Buf, BufMut, BytesMut};
use godwit_core::content::object::{GROUP_LEN, ObjectId};

/// Bytes of one want.
pub(crate) const WANT_LEN: usize = 36;

/// What a holder's answer for one object starts with.
pub(crate) const NOT_HELD: u8 = 0;
pub(crate) const HELD: u8 = 1;

/// The request frame of at most [`WANTS_MAX`] wants.
pub(crate) fn encode_wants(wants: &[Want], frame: &mut BytesMut) {
    debug_assert!(wants.len() <= WANTS_MAX);
    frame.put_u32_le(wants.len() as u32);
    for want in wants {
        frame.put_slice(want.id.as_bytes());
        frame.put_u32_le(want.from_group);
    }
}

/// How many wants follow a frame's first four bytes; `None` for none or too many.
pub(crate) fn decode_count(bytes: [u8; 4]) -> Option<usize> {
    let count = u32::from_le_bytes(bytes) as usize;
    (1..=WANTS_MAX).contains(&count).then_some(count)
}

/// Reads wants, [`WANT_LEN`] bytes each.
pub(crate) fn decode_wants(mut bytes: &[u8]) -> Vec<Want> {
    let mut wants = Vec::with_capacity(bytes.len() / WANT_LEN);
    while bytes.len() >= WANT_LEN {
        let mut id = [0; 32];
        bytes.copy_to_slice(&mut id);
        wants.push(Want { id: ObjectId::from_bytes(id), from_group: bytes.get_u32_le() });
    }
    wants
}

/// Whether a portion of `n` bytes may come when `left` bytes of the object are missing.
pub(crate) fn portion_fits(n: usize, left: u64) -> bool {
    n <= PORTION_LEN && n as u64 <= left && (n as u64 == left || n.is_multiple_of(GROUP_LEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_read_back_and_absurd_counts_are_refused() {
        let wants = [Want { id: ObjectId::of(b"a"), from_group: 7 }, Want::whole(ObjectId::of(b"b"))];
        let mut frame = BytesMut::new();
        encode_wants(&wants, &mut frame);
        assert_eq!(decode_count([frame[0], frame[1], frame[2], frame[3]]), Some(2));
        assert_eq!(decode_wants(&frame[4..]), wants);
        assert_eq!(decode_count([0; 4]), None);
        assert_eq!(decode_count([0xff; 4]), None);
    }

    #[test]
    fn portions_are_whole_groups_or_the_rest() {
        assert!(portion_fits(GROUP_LEN, 100_000));
        assert!(portion_fits(5, 5));
        assert!(!portion_fits(5, 6));
        assert!(!portion_fits(6, 5));
        assert!(!portion_fits(PORTION_LEN + GROUP_LEN, 1 << 30));
    }
}
