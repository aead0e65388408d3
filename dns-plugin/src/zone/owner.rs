//! Owner names within the zone, in an order in which a subtree is a range.
//!
//! A name is kept as its labels from the zone downwards, each after its length, in lower case: the
//! name's own prefix is then its parent, and all names below a name stand together behind it.
//!
//! ```text
//! _acme-challenge.www.<zone>   ->   03 w w w  0f _ a c m e - c h a l l e n g e
//! ```

use hickory_server::proto::rr::Name;

/// The longest owner: a name has at most 255 octets (RFC 1035, 2.3.4).
const LEN_MAX: usize = 255;
/// Names of that length have fewer labels.
const LABELS_MAX: usize = 128;

/// An owner name within the zone; the apex is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner(Box<[u8]>);

impl std::borrow::Borrow<[u8]> for Owner {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The path of a question's name below the zone, on the stack.
pub(crate) struct Path {
    bytes: [u8; LEN_MAX + 1],
    len: usize,
    /// Where each label from the zone down begins.
    starts: [u8; LABELS_MAX],
    labels: usize,
}

impl Path {
    /// The zone's own.
    pub(crate) fn root() -> Path {
        Path { bytes: [0; LEN_MAX + 1], len: 0, starts: [0; LABELS_MAX], labels: 0 }
    }

    /// Of `name`, which is in a zone whose name has `zone_labels` labels. `None` when it has fewer.
    pub(crate) fn of(name: &Name, zone_labels: usize) -> Option<Path> {
        let count = name.iter().count().checked_sub(zone_labels)?;
        let mut path = Path::root();
        for label in name.iter().take(count).rev() {
            path.push(label)?;
        }
        Some(path)
    }

    /// Of the labels below the zone as they stand in a packet: `name` without the zone's own.
    pub(crate) fn of_wire(mut name: &[u8]) -> Option<Path> {
        let mut labels: [&[u8]; LABELS_MAX] = [&[]; LABELS_MAX];
        let mut count = 0;
        while let Some((len, rest)) = name.split_first() {
            let (label, rest) = rest.split_at_checked(usize::from(*len))?;
            *labels.get_mut(count)? = label;
            (name, count) = (rest, count + 1);
        }
        let mut path = Path::root();
        labels[..count].iter().rev().try_for_each(|label| path.push(label))?;
        Some(path)
    }

    /// Adds a label; `None` when there is no room, which a valid name never needs.
    pub(crate) fn push(&mut self, label: &[u8]) -> Option<()> {
        let end = self.len + 1 + label.len();
        let start = u8::try_from(self.len).ok()?;
        *self.starts.get_mut(self.labels)? = start;
        let place = self.bytes.get_mut(self.len..end)?;
        place[0] = u8::try_from(label.len()).ok()?;
        place[1..].copy_from_slice(label);
        place[1..].make_ascii_lowercase();
        self.len = end;
        self.labels += 1;
        Some(())
    }

    /// How many labels it has below the zone.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// The label `at` places below the zone, from 0, as text where it is text.
    pub(crate) fn label(&self, at: usize) -> Option<&str> {
        let start = usize::from(*self.starts[..self.labels].get(at)?);
        let len = usize::from(self.bytes[start]);
        std::str::from_utf8(&self.bytes[start + 1..start + 1 + len]).ok()
    }

    /// The same label as it stands in a name: after its length.
    pub(crate) fn label_wire(&self, at: usize) -> &[u8] {
        let Some(start) = self.starts[..self.labels].get(at).map(|start| usize::from(*start)) else {
            return &[];
        };
        &self.bytes[start..=start + usize::from(self.bytes[start])]
    }

    /// The ancestor that has only the first `labels` labels, as a key.
    pub(crate) fn key(&self, labels: usize) -> &[u8] {
        match self.starts[..self.labels].get(labels) {
            Some(end) => &self.bytes[..usize::from(*end)],
            None => &self.bytes[..self.len],
        }
    }

    /// The same path cut to its first `labels` labels.
    pub(crate) fn cut(&self, labels: usize) -> Path {
        let mut path = Path { bytes: self.bytes, len: self.len, starts: self.starts, labels: self.labels };
        if labels < self.labels {
            path.len = usize::from(self.starts[labels]);
            path.labels = labels;
        }
        path
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner(self.key(self.labels).into())
    }
}

/// Whether some key of `map` is below `key`.
pub(crate) fn has_below<V>(map: &std::collections::BTreeMap<Owner, V>, key: &[u8]) -> bool {
    use std::ops::Bound::{Excluded, Unbounded};
    let next = map.range::<[u8], _>((Excluded(key), Unbounded)).next();
    next.is_some_and(|(owner, _)| owner.0.starts_with(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn path(name: &str) -> Path {
        Path::of(&Name::from_ascii(name).unwrap(), 2).unwrap()
    }

    #[test]
    fn labels_go_down_from_the_zone_in_lower_case() {
        let path = path("_Acme.WWW.example.org.");
        assert_eq!(
            (path.labels(), path.label(0), path.label(1), path.label(2)),
            (2, Some("www"), Some("_acme"), None)
        );
        assert_eq!(path.key(1), b"\x03www");
        assert_eq!(path.cut(1).owner().0.as_ref(), b"\x03www");
        assert_eq!(path.key(0), b"");
        assert!(Path::of(&Name::from_ascii("org.").unwrap(), 2).is_none());
        let of_wire = Path::of_wire(b"\x05_Acme\x03WWW").unwrap();
        assert_eq!((of_wire.key(2), of_wire.labels()), (path.key(2), 2));
        assert!(Path::of_wire(b"\x05_Ac").is_none());
    }

    #[test]
    fn what_is_below_a_name_stands_behind_it() {
        let map: BTreeMap<Owner, ()> =
            ["a.b.example.org.", "bb.example.org."].map(|name| (path(name).owner(), ())).into();
        assert!(has_below(&map, path("b.example.org.").key(1)));
        assert!(!has_below(&map, path("a.b.example.org.").key(2)));
        assert!(!has_below(&map, path("bbb.example.org.").key(1)));
        assert!(has_below(&map, b""), "everything is below the apex");
    }

    #[test]
    fn the_longest_name_has_room() {
        let name = format!("{}example.org.", "a.".repeat(121));
        assert_eq!(path(&name).labels(), 121);
    }
}
