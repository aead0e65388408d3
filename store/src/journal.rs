//! The journal: every change of a record, in order, apart from the index.
//!
//! The index may be lost; acknowledged heads may not. So each change of a record is appended here
//! and synced before the index hears of it, and a rebuilt index takes its records from here.
//!
//! ```text
//! +--------+--------+--------+-----------------+---------
//! | "GWR1" | CRC-32 | length | sequence number | body ...
//! +--------+--------+--------+-----------------+---------
//! 0        4        8        12                20
//! ```
//!
//! Numbers are little endian; the CRC covers all behind it. When the journal has grown to
//! [`COMPACT_RATIO`] times what it says, it is written anew with the present records alone.

use crate::disk::{self, Layout};
use godwit_core::wire;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8; 4] = b"GWR1";
const HEAD_LEN: usize = 20;
/// The longest body: a key and a value at their longest, with room.
const BODY_LEN_MAX: usize = 64 * 1024;
/// Below this length the journal is never written anew.
const COMPACT_LEN_MIN: u64 = 4 << 20;
const COMPACT_RATIO: u64 = 4;

/// One change of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) space: u8,
    pub(crate) key: Vec<u8>,
    /// `None` removes it.
    pub(crate) value: Option<Vec<u8>>,
}

impl Entry {
    /// Bytes it takes in the journal, about.
    pub(crate) fn cost(&self) -> u64 {
        (HEAD_LEN + 8 + self.key.len() + self.value.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// The open journal.
pub(crate) struct Journal {
    file: File,
    number: u32,
    end: u64,
    /// The sequence number of the last entry.
    sequence: u64,
}

/// What a journal says.
pub(crate) struct Read {
    /// The entries by sequence number, in order.
    pub(crate) entries: Vec<(u64, Entry)>,
    /// Bytes in which no entry was to be read.
    pub(crate) skipped: u64,
}

impl Journal {
    /// Opens the newest journal in `layout`, made if there is none, and reads all there is.
    pub(crate) fn open(layout: &Layout) -> io::Result<(Journal, Read)> {
        let mut numbers = disk::numbers(&layout.records(), "log")?;
        let mut read = Read { entries: Vec::new(), skipped: 0 };
        let mut end = 0;
        for number in &numbers {
            end = read_file(&layout.journal(*number), &mut read)?;
        }
        read.entries.sort_by_key(|(sequence, _)| *sequence);
        let sequence = read.entries.last().map_or(0, |(sequence, _)| *sequence);
        let number = numbers.pop().unwrap_or(1);
        let path = layout.journal(number);
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        file.set_len(end)?;
        if fresh {
            disk::sync_dir(&layout.records())?;
        }
        Ok((Journal { file, number, end, sequence }, read))
    }

    /// The sequence number of the last entry.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Appends `entries`, durable when it returns. On an error nothing was appended.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (entry, sequence) in entries.iter().zip(self.sequence + 1..) {
            encode(&mut bytes, sequence, entry);
        }
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A torn entry is not read back anyway; this gives the space back.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.sequence += entries.len() as u64;
        Ok(())
    }

    /// Whether it is much longer than `live` records of so many bytes need.
    pub(crate) fn wants_compacting(&self, live: u64) -> bool {
        self.end > COMPACT_LEN_MIN && self.end > COMPACT_RATIO * live
    }

    /// Writes the journal anew with `records` alone.
    pub(crate) fn compact(&mut self, layout: &Layout, records: &[Entry]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (entry, sequence) in records.iter().zip(self.sequence + 1..) {
            encode(&mut bytes, sequence, entry);
        }
        let path = layout.journal(self.number + 1);
        disk::write_whole(&path, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        for older in disk::numbers(&layout.records(), "log")?.into_iter().filter(|n| *n <= self.number) {
            std::fs::remove_file(layout.journal(older))?;
        }
        *self = Journal {
            file,
            number: self.number + 1,
            end: bytes.len() as u64,
            sequence: self.sequence + records.len() as u64,
        };
        Ok(())
    }
}

fn encode(bytes: &mut Vec<u8>, sequence: u64, entry: &Entry) {
    let body = wire::encode(entry);
    let start = bytes.len();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&body);
    let crc = crc32fast::hash(&bytes[start + 8..]);
    bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads one journal file into `read`; returns where its last whole entry ends.
fn read_file(path: &Path, read: &mut Read) -> io::Result<u64> {
    let bytes = std::fs::read(path)?;
    let (mut offset, mut end) = (0, 0);
    while offset < bytes.len() {
        match decode(&bytes[offset..]) {
            Some((sequence, entry, len)) => {
                read.entries.push((sequence, entry));
                offset += len;
                end = offset;
            }
            None => {
                offset += 1;
                read.skipped += 1;
            }
        }
    }
    Ok(end as u64)
}

fn decode(bytes: &[u8]) -> Option<(u64, Entry, usize)> {
    let head = bytes.get(..HEAD_LEN)?;
    let number = |range: std::ops::Range<usize>| {
        head[range].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let len = HEAD_LEN + number(8..12) as usize;
    if &head[..4] != MAGIC || len > HEAD_LEN + BODY_LEN_MAX {
        return None;
    }
    let body = bytes.get(8..len)?;
    if u64::from(crc32fast::hash(body)) != number(4..8) {
        return None;
    }
    Some((number(12..20), wire::decode(&bytes[HEAD_LEN..len], BODY_LEN_MAX).ok()?, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: u8, value: &[u8]) -> Entry {
        Entry { space: 1, key: vec![key], value: Some(value.to_vec()) }
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.records()).unwrap();
        (dir, layout)
    }

    #[test]
    fn entries_are_read_back_in_order_and_numbered_on() {
        let (_dir, layout) = layout();
        let (mut journal, read) = Journal::open(&layout).unwrap();
        assert!(read.entries.is_empty());
        journal.append(&[entry(1, b"a"), entry(2, b"b")]).unwrap();
        let (mut journal, _) = Journal::open(&layout).unwrap();
        journal.append(&[Entry { value: None, ..entry(1, b"") }]).unwrap();
        let (journal, read) = Journal::open(&layout).unwrap();
        let sequences: Vec<u64> = read.entries.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!((sequences, journal.sequence()), (vec![1, 2, 3], 3));
    }

    #[test]
    fn a_torn_end_and_a_damaged_middle_lose_only_themselves() {
        let (_dir, layout) = layout();
        let (mut journal, _) = Journal::open(&layout).unwrap();
        (0..4).for_each(|i| journal.append(&[entry(i, b"value")]).unwrap());
        let path = layout.journal(1);
        let mut bytes = std::fs::read(&path).unwrap();
        let one = bytes.len() / 4;
        bytes[one + 25] ^= 1;
        bytes.truncate(bytes.len() - 3);
        std::fs::write(&path, &bytes).unwrap();
        let (_, read) = Journal::open(&layout).unwrap();
        let keys: Vec<u8> = read.entries.iter().map(|(_, entry)| entry.key[0]).collect();
        assert_eq!(keys, [0, 2]);
    }

    #[test]
    fn compacting_keeps_what_it_is_given() {
        let (_dir, layout) = layout();
        let (mut journal, _) = Journal::open(&layout).unwrap();
        (0..9).for_each(|_| journal.append(&[entry(1, b"old")]).unwrap());
        journal.compact(&layout, &[entry(1, b"new")]).unwrap();
        journal.append(&[entry(2, b"later")]).unwrap();
        let (_, read) = Journal::open(&layout).unwrap();
        assert_eq!(read.entries, [(10, entry(1, b"new")), (11, entry(2, b"later"))]);
    }
}
