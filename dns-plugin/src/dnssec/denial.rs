//! Saying that there is nothing: compact denial of existence (RFC 9824).
//!
//! One NSEC record at the very name that was asked for, which ends before the next possible name. A
//! name that does not exist is told as one that has no type but NXNAME; so there is no second record
//! about a wildcard, one signature is all, and nothing else in the zone is disclosed.

use super::canonical::{name as wire, type_bitmap};
use hickory_server::proto::rr::{Name, RecordType};

/// RFC 9824, 2: *this name does not exist*, in a type bit map.
pub(crate) const NXNAME: RecordType = RecordType::Unknown(128);
/// RFC 1035, 2.3.4.
const NAME_LEN_MAX: usize = 255;
const LABEL_LEN_MAX: usize = 63;

/// RDATA of an NSEC record at `name` for a name that does not exist.
pub(super) fn no_name(name: &Name) -> Vec<u8> {
    nsec(name, [RecordType::RRSIG, RecordType::NSEC, NXNAME])
}

/// RDATA of an NSEC record at `name`, where there are these types.
pub(super) fn types_only(name: &Name, kinds: impl IntoIterator<Item = RecordType>) -> Vec<u8> {
    nsec(name, kinds.into_iter().chain([RecordType::RRSIG, RecordType::NSEC]))
}

fn nsec(name: &Name, kinds: impl IntoIterator<Item = RecordType>) -> Vec<u8> {
    let mut data = next(wire(name));
    data.extend(type_bitmap(kinds));
    data
}

/// The first name after this one in canonical order (RFC 4034, 6.1): `\000.` before it. Where that is
/// too long, the first label grows by a zero octet, or counts up (RFC 4471, 3.1.1).
fn next(name: Vec<u8>) -> Vec<u8> {
    if name.len() + 2 <= NAME_LEN_MAX {
        return [&[1, 0], name.as_slice()].concat();
    }
    let len = usize::from(name.first().copied().unwrap_or(0)).min(name.len().saturating_sub(1));
    let (label, rest) = (&name[1..=len], &name[len + 1..]);
    let mut label = label.to_vec();
    if name.len() < NAME_LEN_MAX && label.len() < LABEL_LEN_MAX {
        label.push(0);
    } else {
        while label.last() == Some(&u8::MAX) {
            label.pop();
        }
        match label.last_mut() {
            // Upper case is as lower case, so it is passed over.
            Some(octet @ b'@') => *octet = b'[',
            Some(octet) => *octet += 1,
            // A label of 0xff alone: nothing comes after it below its parent, so the circle closes
            // at the parent.
            None => return rest.to_vec(),
        }
    }
    let mut longer = vec![label.len() as u8];
    longer.extend(label);
    longer.extend(rest);
    longer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(first: &[u8], rest: usize) -> Vec<u8> {
        let mut name = vec![first.len() as u8];
        name.extend(first);
        let mut left = rest;
        while left > 0 {
            let len = (left - 1).min(63);
            name.push(len as u8);
            name.extend(std::iter::repeat_n(b'x', len));
            left -= len + 1;
        }
        name.push(0);
        name
    }

    #[test]
    fn rfc9824_3_1_no_such_name() {
        let name = Name::from_ascii("Nope.example.").unwrap();
        let bitmap = [&[0, 17, 0, 0, 0, 0, 0, 3][..], &[0; 10], &[0x80]].concat();
        assert_eq!(no_name(&name), [b"\x01\0\x04nope\x07example\0", bitmap.as_slice()].concat());
    }

    #[test]
    fn rfc9824_3_2_no_such_type() {
        let name = Name::from_ascii("www.example.").unwrap();
        let data = types_only(&name, [RecordType::AAAA, RecordType::A]);
        assert_eq!(data, b"\x01\0\x03www\x07example\0\0\x06\x40\0\0\x08\0\x03");
        // An empty non-terminal has only what the proof itself is made of.
        assert_eq!(types_only(&name, []), b"\x01\0\x03www\x07example\0\0\x06\0\0\0\0\0\x03");
    }

    #[test]
    fn rfc4471_3_1_1_the_longest_names_have_successors_too() {
        let check = |name: Vec<u8>, start: &[u8]| {
            let next = next(name);
            assert!(next.len() <= 255, "{}", next.len());
            assert!(next.starts_with(start), "{next:?}");
        };
        check(long(b"ab", 249), b"\x01\0\x02ab");
        check(long(b"ab", 250), b"\x03ab\0");
        check(long(b"ab", 251), b"\x02ac");
        check(long(b"a@", 251), b"\x02a[");
        check(long(b"a\xff", 251), b"\x01b");
        check(long(b"\xff\xff", 251), b"\x3fxxx");
        assert_eq!(long(b"ab", 251).len(), 255);
    }
}
