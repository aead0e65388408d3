//! Extents: how an object lies in a file.
//!
//! Packs and own files hold extents, one after another, each beginning at a multiple of 64 bytes:
//!
//! ```text
//!  0        4   5   6     8               16       20       24                       32
//! +--------+---+---+-----+---------------+--------+--------+------------------------+
//! | "GWX1" | 1 |st.|  0  | body length   | groups | CRC-32 |          0             |
//! +--------+---+---+-----+---------------+--------+--------+------------------------+
//! | object id                                                                       |
//! +---------------------------------------------------------------------------------+ 64
//! | group hashes, 32 bytes each ...                                                 |
//! +---------------------------------------------------------------------------------+
//! | body ...                                                 | zeros up to 64       |
//! +---------------------------------------------------------------------------------+
//! ```
//!
//! Numbers are little endian; the state is 0 for live and 1 for dead; the CRC covers the 64 bytes,
//! with itself as zeros, and the group hashes. An extent says all that the index says of it, so
//! the index can be made again by reading the headers and skipping the bodies. The object id is
//! the hash of the body, so a body is proved by reading it and by nothing else.

use godwit_core::content::object::{Namer, group_count};
use godwit_core::content::{GroupHash, OBJECT_LEN_MAX, ObjectId};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the fixed part of the header; extents begin at multiples of it.
pub(crate) const HEADER_LEN: usize = 64;
const MAGIC: &[u8; 4] = b"GWX1";
const VERSION: u8 = 1;
const LIVE: u8 = 0;
const DEAD: u8 = 1;

/// The fixed part of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: ObjectId,
    /// Of the body, at most [`OBJECT_LEN_MAX`].
    pub(crate) len: u64,
    pub(crate) live: bool,
}

impl Header {
    /// Bytes from the extent's start to its body.
    pub(crate) fn body_offset(&self) -> u64 {
        (HEADER_LEN + 32 * group_count(self.len)) as u64
    }

    /// Bytes from this extent's start to the next one's.
    pub(crate) fn extent_len(&self) -> u64 {
        (self.body_offset() + self.len).next_multiple_of(HEADER_LEN as u64)
    }

    /// Header and group hashes as they lie on the disk.
    pub(crate) fn encode(&self, groups: &[GroupHash]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + 32 * groups.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, if self.live { LIVE } else { DEAD }, 0, 0]);
        bytes.extend_from_slice(&self.len.to_le_bytes());
        bytes.extend_from_slice(&(groups.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(self.id.as_bytes());
        groups.iter().for_each(|group| bytes.extend_from_slice(group.as_bytes()));
        let crc = crc32fast::hash(&bytes);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads header and group hashes at `offset`, of which `file_len - offset` bytes are there.
    /// `Ok(None)` is no (whole, undamaged) extent.
    pub(crate) fn read(
        file: &File,
        offset: u64,
        file_len: u64,
    ) -> io::Result<Option<(Header, Vec<GroupHash>)>> {
        let room = file_len.saturating_sub(offset);
        let mut bytes = vec![0; HEADER_LEN];
        if room < HEADER_LEN as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut bytes, offset)?;
        let Some((header, crc)) = Header::parse(&bytes) else { return Ok(None) };
        if room < header.body_offset() + header.len {
            return Ok(None);
        }
        bytes.resize(header.body_offset() as usize, 0);
        file.read_exact_at(&mut bytes[HEADER_LEN..], offset + HEADER_LEN as u64)?;
        bytes[20..24].fill(0);
        if crc32fast::hash(&bytes) != crc {
            return Ok(None);
        }
        let group = |hash: &[u8]| GroupHash::from_bytes(hash.try_into().unwrap_or_default());
        let groups = bytes[HEADER_LEN..].chunks_exact(32).map(group).collect();
        Ok(Some((header, groups)))
    }

    fn parse(bytes: &[u8]) -> Option<(Header, u32)> {
        let number = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let len = number(8..16);
        let fits = &bytes[..4] == MAGIC
            && bytes[4] == VERSION
            && bytes[5] <= DEAD
            && len <= OBJECT_LEN_MAX
            && number(16..20) == group_count(len) as u64;
        let id = ObjectId::from_bytes(bytes[32..64].try_into().ok()?);
        fits.then_some((Header { id, len, live: bytes[5] == LIVE }, number(20..24) as u32))
    }
}

/// Marks the extent at `offset` as dead, if `expected` is there: a rebuilt index will not name it.
pub(crate) fn mark_dead(file: &File, offset: u64, expected: &Header) -> io::Result<()> {
    match Header::read(file, offset, file.metadata()?.len())? {
        Some((header, groups)) if header == *expected => {
            let head = Header { live: false, ..header }.encode(&groups);
            file.write_all_at(&head[..HEADER_LEN], offset)
        }
        _ => Ok(()),
    }
}

/// Whether the `len` bytes at `offset` are the object `id`.
pub(crate) fn body_is(file: &File, offset: u64, len: u64, id: ObjectId) -> io::Result<bool> {
    let mut namer = Namer::new();
    let mut buffer = vec![0; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let portion = buffer.len().min((len - done) as usize);
        match file.read_exact_at(&mut buffer[..portion], offset + done) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        namer.update(&buffer[..portion]);
        done += portion as u64;
    }
    Ok(namer.finish().id == id)
}

/// An extent found by reading a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) header: Header,
}

/// What reading a file from some offset found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The live extents, in order.
    pub(crate) found: Vec<Found>,
    /// Where the last whole extent ends.
    pub(crate) end: u64,
    /// Bytes passed over because no extent was to be read there.
    pub(crate) skipped: u64,
}

/// Whose bodies a scan reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bodies {
    /// Those found after damage; the others are proved on their first read.
    AfterDamage,
    /// All: the file's end may be torn.
    All,
}

/// Finds the extents of `file` from `start` on.
///
/// Where a header is damaged, the next 64-byte step with a whole one is looked for. That one may
/// lie *inside* the body of the damaged extent (somebody may have published a pack file), so it
/// counts only if its body proves it.
pub(crate) fn scan(file: &File, start: u64, bodies: Bodies) -> io::Result<Scan> {
    let file_len = file.metadata()?.len();
    let mut scan = Scan { end: start, ..Scan::default() };
    let mut offset = start;
    let mut damage = false;
    while offset + HEADER_LEN as u64 <= file_len {
        let extent = Header::read(file, offset, file_len)?.map(|(header, _)| header);
        let extent = match extent {
            Some(header) if header.live && (damage || bodies == Bodies::All) => {
                body_is(file, offset + header.body_offset(), header.len, header.id)?.then_some(header)
            }
            other => other,
        };
        match extent {
            Some(header) => {
                if header.live {
                    scan.found.push(Found { offset, header });
                }
                offset += header.extent_len();
                scan.end = offset;
                damage = false;
            }
            None => {
                offset += HEADER_LEN as u64;
                scan.skipped += HEADER_LEN as u64;
                damage = true;
            }
        }
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::content::object;

    fn append(bytes: &mut Vec<u8>, body: &[u8], live: bool) -> u64 {
        let named = object::name(body);
        let header = Header { id: named.id, len: named.len, live };
        let offset = bytes.len() as u64;
        bytes.extend(header.encode(&named.groups));
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(HEADER_LEN), 0);
        assert_eq!(bytes.len() as u64, offset + header.extent_len());
        offset
    }

    fn scan_bytes(bytes: &[u8], bodies: Bodies) -> (Vec<u64>, Scan) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let scan = scan(&file, 0, bodies).unwrap();
        (scan.found.iter().map(|found| found.offset).collect(), scan)
    }

    #[test]
    fn extents_of_every_size_are_found_again() {
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for len in [0, 1, 63, 64, 4096, 16_384, 16_385, 100_000] {
            offsets.push(append(&mut bytes, &vec![7; len], true));
            append(&mut bytes, &vec![8; len], false);
        }
        let (found, scan) = scan_bytes(&bytes, Bodies::All);
        assert_eq!(found, offsets);
        assert_eq!((scan.end, scan.skipped), (bytes.len() as u64, 0));
    }

    #[test]
    fn a_damaged_header_loses_its_extent_only() {
        let mut bytes = Vec::new();
        let offsets: Vec<u64> = (0..5).map(|i| append(&mut bytes, &vec![i; 20_000], true)).collect();
        for bit in [0, 40, 70, 130, 200, 300] {
            let mut damaged = bytes.clone();
            damaged[offsets[2] as usize + bit / 8] ^= 1 << (bit % 8);
            let (found, _) = scan_bytes(&damaged, Bodies::AfterDamage);
            assert_eq!(found, [offsets[0], offsets[1], offsets[3], offsets[4]], "bit {bit}");
        }
    }

    #[test]
    fn a_published_extent_does_not_hide_what_follows_a_damaged_one() {
        // A body that begins with a header claiming the rest of the pack.
        let header = Header { id: ObjectId::of(b"elsewhere"), len: 3000, live: true };
        let mut bytes = Vec::new();
        let first = append(&mut bytes, &header.encode(&[]), true);
        let second = append(&mut bytes, &[2; 5000], true);
        bytes[first as usize] ^= 1;
        assert_eq!(scan_bytes(&bytes, Bodies::AfterDamage).0, [second]);
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let mut bytes = Vec::new();
        let first = append(&mut bytes, &[1; 1000], true);
        let end = bytes.len() as u64;
        append(&mut bytes, &[2; 1000], true);
        let torn = bytes.len() - 200;
        bytes[torn..].fill(0);
        let (found, scan) = scan_bytes(&bytes, Bodies::All);
        assert_eq!((found, scan.end), (vec![first], end));
        bytes.truncate(torn);
        let (found, scan) = scan_bytes(&bytes, Bodies::All);
        assert_eq!((found, scan.end), (vec![first], end));
    }

    proptest::proptest! {
        #[test]
        fn anything_can_be_scanned(
            rubbish in proptest::collection::vec(0u8..=255, 0..2000), at in 0usize..3000, start in 0u64..4000,
        ) {
            let mut bytes = Vec::new();
            append(&mut bytes, &[1; 700], true);
            append(&mut bytes, &[2; 700], true);
            let at = at.min(bytes.len());
            bytes.splice(at..at, rubbish);
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            for bodies in [Bodies::All, Bodies::AfterDamage] {
                let scan = scan(&file, start, bodies).unwrap();
                proptest::prop_assert!(scan.end <= (bytes.len() as u64).next_multiple_of(64).max(start));
            }
        }
    }
}
