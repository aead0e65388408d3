//! Records in the index: small values under a space and a key, in parts.
//!
//! The index takes values of 4 KiB; a record may have [`VALUE_LEN_MAX`]. So a record is kept in
//! parts, under its key with the part's number behind. Each part says how many there are and
//! which change wrote it, so that a reader never joins parts of two changes.

use crate::error::StoreError;
use crate::frame::{self, kind};
use crate::index::{Change, Pair};
use crate::journal::Entry;
use crate::shared::Shared;

/// The longest value of a record: the longest encoded record of the network, and half as much.
pub const VALUE_LEN_MAX: usize = 48_000;
/// The longest key of a record.
pub const KEY_LEN_MAX: usize = 512;

const PART_LEN: usize = 4000;
/// Part count and sequence number.
const HEAD_LEN: usize = 9;
/// Index entries read at once.
const PAGE: usize = 256;

/// The index key of part `part`.
pub(crate) fn part_key(space: u8, key: &[u8], part: u8) -> Vec<u8> {
    let mut bytes = vec![kind::RECORD, space];
    bytes.extend_from_slice(&(key.len() as u16).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.push(part);
    bytes
}

/// The space, key and part of an index key.
fn split_key(bytes: &[u8]) -> Option<(u8, &[u8], u8)> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let (key, part) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
    match (head[0], part) {
        (kind::RECORD, [part]) => Some((head[1], key, *part)),
        _ => None,
    }
}

/// The changes of the index that `entry` makes, where `old` is the present payload of part 0; and
/// whether there was one.
pub(crate) fn changes(entry: &Entry, sequence: u64, old: Option<&[u8]>) -> (bool, Vec<Change>) {
    let parts: Vec<&[u8]> = match entry.value.as_deref() {
        None => Vec::new(),
        Some([]) => vec![&[]],
        Some(value) => value.chunks(PART_LEN).collect(),
    };
    let old_count = old.and_then(|old| old.first().copied()).unwrap_or(0);
    let count = parts.len() as u8;
    let mut changes = Vec::new();
    for (part, number) in parts.into_iter().zip(0..) {
        let payload = [&[count], &sequence.to_le_bytes()[..], part].concat();
        changes.push((part_key(entry.space, &entry.key, number), Some(payload)));
    }
    for number in count..old_count {
        changes.push((part_key(entry.space, &entry.key, number), None));
    }
    (old_count > 0, changes)
}

/// Whether an index key is a record's first part: one for each record.
pub(crate) fn is_first_part(key: &[u8]) -> bool {
    split_key(key).is_some_and(|(_, _, part)| part == 0)
}

/// The value of a record.
pub(crate) fn get(shared: &Shared, space: u8, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    // A change between two reads of one record is rare, and twice in a row rarer.
    for _ in 0..8 {
        let Some(first) = shared.value(&part_key(space, key, 0))? else { return Ok(None) };
        if let Some(value) = join(shared, space, key, &first)? {
            return Ok(Some(value));
        }
    }
    let why = "the parts of a record do not belong together".to_owned();
    shared.damaged(why.clone());
    Err(StoreError::Degraded(why))
}

fn join(shared: &Shared, space: u8, key: &[u8], first: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((head, body)) = first.split_at_checked(HEAD_LEN) else { return Ok(None) };
    let mut value = body.to_vec();
    for number in 1..head[0] {
        match shared.value(&part_key(space, key, number))? {
            Some(part) if part.starts_with(head) => value.extend_from_slice(&part[HEAD_LEN..]),
            _ => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// All records as entries, in order of space and key; of one space where that is given.
fn scan(shared: &Shared, space: Option<u8>) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    let mut from = match space {
        Some(space) => vec![kind::RECORD, space],
        None => vec![kind::RECORD],
    };
    let prefix = from.clone();
    loop {
        let page = shared.index(|index| index.range(&from, PAGE))?;
        let full = page.len() == PAGE;
        for (bytes, _) in page {
            if !bytes.starts_with(&prefix) {
                return Ok(entries);
            }
            if let Some((space, key, 0)) = split_key(&bytes)
                && let Some(value) = get(shared, space, key)?
            {
                entries.push(Entry { space, key: key.to_vec(), value: Some(value) });
            }
            from = [&bytes[..], &[0]].concat();
        }
        if !full {
            return Ok(entries);
        }
    }
}

/// All records.
pub(crate) fn all(shared: &Shared) -> Result<Vec<Entry>, StoreError> {
    scan(shared, None)
}

/// Keys and values of one space, in order of key length and key.
pub(crate) fn of_space(shared: &Shared, space: u8) -> Result<Vec<Pair>, StoreError> {
    let entries = scan(shared, Some(space))?;
    Ok(entries.into_iter().map(|entry| (entry.key, entry.value.unwrap_or_default())).collect())
}

/// Whether the store takes a record with this key and value.
pub(crate) fn check(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let too_long = |what, len, max| Err(StoreError::TooLong { what, len, max });
    if key.len() > KEY_LEN_MAX {
        return too_long("key", key.len(), KEY_LEN_MAX);
    }
    if value.len() > VALUE_LEN_MAX {
        return too_long("value", value.len(), VALUE_LEN_MAX);
    }
    Ok(())
}

const _: () = assert!(PART_LEN + HEAD_LEN + 9 <= crate::index::VALUE_LEN_MAX, "a framed part fits");
const _: () = assert!(VALUE_LEN_MAX.div_ceil(PART_LEN) < 255, "parts are counted in a byte");
const _: () = assert!(frame::SUMMARY_KEY[0] == kind::META, "the summary is no record");
